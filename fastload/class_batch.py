"""The batches of a classifier: `ClassBatch`, images and their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload.errors import PlanError
from fastload.plan.batch_plan import BatchPlan

TargetKind = Literal["objects", "class_ids", "soft_labels"]
TARGET_KINDS: tuple[TargetKind, ...] = get_args(TargetKind)
NO_CLASS = -100  # the class of a skipped image: cross_entropy's default `ignore_index`


class ClassBatch(NamedTuple):
    """A batch of classified images, which unpacks as `images, class_ids = batch`.

    Args:
        images: (B, 3, H, W) RGB, by default uint8 in channels_last.
        targets: with `FastLoader(targets="class_ids")` (B) int64, positions in `Cache.categories`; -100 for an image
            that `on_error="skip"` skipped. With `targets="soft_labels"` (B, K) float32, the share of each of the K
            classes, with a sum of 1; all 0 for an image of which a part was skipped.
    """

    images: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """The soft labels of B images, without their many zeros.

    Args:
        slot: (M) ascending, 0 to B - 1.
        class_id: (M) 0 to K - 1.
        share: (M) of the class in the label of the slot; several of the same class are added.
        shape: B and K.
    """

    slot: NDArray[np.integer]
    class_id: NDArray[np.int64]
    share: NDArray[np.float32]
    shape: tuple[int, int]

    def dense(self) -> Tensor:
        """Return the labels (B, K) float32."""
        labels = np.zeros(self.shape, np.float32)
        np.add.at(labels, (self.slot, self.class_id), self.share)
        return torch.from_numpy(labels)


def class_ids_of(
    plan: BatchPlan,
    index: NDArray[np.int64],
    ends: Sequence[int],
    class_ids: NDArray[np.int64],
    failed: Sequence[int] = (),
) -> list[Tensor]:
    """Return the classes (B) int64 of each batch of a plan.

    Args:
        plan: a plan of one or more batches.
        index: (slots) the record that was asked for.
        ends: (batches) the slot after the last one of each batch.
        class_ids: (records) the class of each record.
        failed: slots that get `NO_CLASS`.

    Raises:
        PlanError: a slot shows several images.
    """
    if len(plan.index) > len(plan.size) and np.bincount(plan.slot[plan.index >= 0], minlength=1).max() > 1:
        raise PlanError(
            'a transform mixes images, so they have no single class: use FastLoader(..., targets="soft_labels")'
        )
    found = class_ids.take(index)
    found[list(failed)] = NO_CLASS
    return [torch.from_numpy(found[begin:end]) for begin, end in pairwise([0, *ends])]


def soft_labels_of(
    plan: BatchPlan,
    index: NDArray[np.int64],
    ends: Sequence[int],
    class_ids: NDArray[np.int64],
    classes: int,
    failed: Sequence[int] = (),
) -> list[SoftLabels]:
    """Return the soft labels of each batch of a plan. See `class_ids_of` for the arguments.

    The images that a slot shows count by `plan.share`, all the same if there is none. A slot that shows none has the
    class of the record that was asked for. Slots that `failed` have no class.
    """
    rows = np.flatnonzero(plan.index >= 0)
    slot, record = plan.slot[rows], plan.index[rows]
    share = np.ones(len(rows)) if plan.share is None else plan.share[rows].astype(np.float64)
    total = np.bincount(slot, share, len(index))
    if (empty := np.flatnonzero(total == 0)).size:
        slot, record = np.concatenate([slot, empty]), np.concatenate([record, index[empty]])
        order = np.argsort(slot, kind="stable")
        slot, record = slot[order], record[order]
        share, total[empty] = np.concatenate([share, np.ones(len(empty))])[order], 1
    total[list(failed)] = np.inf
    part = (share / total[slot]).astype(np.float32)
    edges = [0, *ends]
    return [
        SoftLabels(slot[a:b] - begin, class_ids.take(record[a:b]), part[a:b], (end - begin, classes))
        for (begin, end), (a, b) in zip(pairwise(edges), pairwise(slot.searchsorted(edges).tolist()), strict=True)
    ]
