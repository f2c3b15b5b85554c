"""Transforms that decide which images, and in which epochs, other transforms apply to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.transform import Transform, check_probability, each_batch, edit_slots

Transforms = Transform | Sequence[Transform]


def as_list(transforms: Transforms) -> list[Transform]:
    """Return one or several transforms as a list."""
    return [transforms] if isinstance(transforms, Transform) else list(transforms)


@dataclass
class RandomApply(Transform):
    """Apply transforms to each image with probability `p`, as torchvision's `RandomApply`.

    Args:
        transforms: one or several, applied together, in order.
        p: the probability. Default: 0.5.
        per_batch: decide for whole batches instead of images.

    Raises:
        ArgumentError: `p` is not within 0 to 1.
    """

    transforms: Transforms
    p: float = 0.5
    per_batch: bool = False

    def __post_init__(self) -> None:
        check_probability(self.p, self)
        self._all = as_list(self.transforms)
        self.spans_batches = all(each.spans_batches for each in self._all)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        draws = each_batch(plan, rng.random) if self.per_batch else rng.random(len(plan.size))
        apply(self._all, draws < self.p, plan, rng, images)


@dataclass
class OneOf(Transform):
    """Apply one of several choices to each image, as torchvision's `RandomChoice`.

    Args:
        choices: each is one or several transforms, or an empty list for none.
        p: the probability of each choice; they are divided by their sum. Default: all the same.
        per_batch: choose for whole batches instead of images.

    Raises:
        ArgumentError: there are no choices, or `p` does not have a probability for each.
    """

    choices: Sequence[Transforms]
    p: Sequence[float] | None = None
    per_batch: bool = False

    def __post_init__(self) -> None:
        self._choices = [as_list(choice) for choice in self.choices]
        weights = np.ones(len(self._choices)) if self.p is None else np.asarray(self.p, np.float64)
        if not len(weights) or weights.shape != (len(self._choices),) or not (weights >= 0).all() or not weights.sum():
            raise ArgumentError(f"OneOf needs a probability for each of its {len(self._choices)} choices, not {self.p}")
        self._p = weights / weights.sum()
        self.spans_batches = all(each.spans_batches for choice in self._choices for each in choice)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        def draw(count: int) -> NDArray[np.int64]:
            return rng.choice(len(self._choices), count, p=self._p)

        chosen = each_batch(plan, draw) if self.per_batch else draw(len(plan.size))
        for k, choice in enumerate(self._choices):
            apply(choice, chosen == k, plan, rng, images)


@dataclass
class During(Transform):
    """Apply transforms in some epochs only: policies in stages, or a last phase without augmentation.

    Args:
        transforms: one or several.
        start: the first epoch, counted from 0. Default: 0.
        end: the epoch after the last one. Default: none.

    Raises:
        ArgumentError: not 0 <= start <= end.
    """

    transforms: Transforms
    start: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end < self.start):
            raise ArgumentError(f"During needs 0 <= start <= end, not {self.start} and {self.end}")
        self._all = as_list(self.transforms)
        self.spans_batches = all(each.spans_batches for each in self._all)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        if self.start <= plan.epoch and (self.end is None or plan.epoch < self.end):
            for transform in self._all:
                transform(plan, rng, images)


@dataclass
class ByEpoch(Transform):
    """Apply other transforms from some epochs on, such as crops that grow during training.

        ByEpoch({0: RandomResizedCrop(128), 6: RandomResizedCrop(176), 12: RandomResizedCrop(224)})
        ByEpoch({epoch: RandomResizedCrop(size) for epoch, size in size_ramp(160, 192, start=4, end=14).items()})

    Args:
        stages: by the first epoch of each stage, counted from 0, one or several transforms, or an empty list for none.
            Epochs before the first stage have none.

    Raises:
        ArgumentError: there are no stages, or an epoch is negative.
    """

    stages: Mapping[int, Transforms]

    def __post_init__(self) -> None:
        if not self.stages or min(self.stages) < 0:
            raise ArgumentError(f"ByEpoch needs transforms by their first epoch, from 0 on, not {self.stages}")
        self._stages = {epoch: as_list(self.stages[epoch]) for epoch in sorted(self.stages)}
        self.spans_batches = all(each.spans_batches for stage in self._stages.values() for each in stage)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        begun = [stage for epoch, stage in self._stages.items() if epoch <= plan.epoch]
        for transform in begun[-1] if begun else []:
            transform(plan, rng, images)


def size_ramp(first: int, last: int, start: int, end: int, multiple: int = 32) -> dict[int, int]:
    """Return sizes that grow linearly over epochs, for `ByEpoch`: {0: 160, 9: 192}.

    Args:
        first: the size until epoch `start`, in pixels.
        last: the size from epoch `end` on, in pixels.
        start: the epoch, counted from 0, until which the size is `first`.
        end: the epoch from which on it is `last`.
        multiple: sizes are rounded to the nearest multiple of this many pixels. Default: 32.

    Returns:
        The size in pixels by the first epoch that has it, in ascending order.

    Raises:
        ArgumentError: not 0 <= start < end, or a size is rounded to 0.
    """
    if not 0 <= start < end or multiple < 1:
        raise ArgumentError(f"size_ramp needs 0 <= start < end and multiple >= 1, not {start}, {end} and {multiple}")
    exact = np.interp(np.arange(end + 1), [start, end], [first, last])
    sizes = (np.rint(exact / multiple) * multiple).astype(int).tolist()
    if min(sizes) < 1:
        raise ArgumentError(f"size_ramp from {first} to {last} has a size of 0: use a smaller multiple than {multiple}")
    return {epoch: size for epoch, size in enumerate(sizes) if epoch == 0 or size != sizes[epoch - 1]}


def apply(
    transforms: Sequence[Transform],
    chosen: NDArray[np.bool_],
    plan: BatchPlan,
    rng: np.random.Generator,
    images: ImageIndex,
) -> None:
    """Apply `transforms` to the slots that are `chosen`, a mask (B)."""

    def edit(part: BatchPlan) -> None:
        for transform in transforms:
            transform(part, rng, images)

    if transforms:
        edit_slots(plan, np.flatnonzero(chosen), edit)
