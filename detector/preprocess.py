"""Preprocessing: how images become the network's input. It is stored in checkpoints with the weights.

Evaluation during training, `detector.evaluate` and `detector.predict` all load images with `Preprocess.loader`, so an
image has the same detections in each of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch.utils.data import Subset

from detector.config import Align, Config, Precision
from detector.errors import CheckpointError, ConfigError
from detector.model.backbone import normalization
from detector.model.grid import SIZE_DIVISOR
from fastload import Cache, CenterAlign, Collator, FastLoader, RandomAlign, ShortestEdge, TopLeftAlign

ALIGNERS: dict[Align, type[Collator]] = {"center": CenterAlign, "top-left": TopLeftAlign, "random": RandomAlign}
FILL = (124, 116, 104)  # the ImageNet mean, rounded to levels


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input.

    Args:
        align: position of images on their canvas in training. Evaluation uses "center" instead of "random".
        test_size: shorter edge of images in pixels, scaled by `ShortestEdge`.
        test_max_size: maximum longer edge of images in pixels.
        divisor: canvas sides are multiples of this many pixels.
        fill: (red, green, blue) of the padding, 0 to 255.
        mean, std: of (red, green, blue), in levels of 0 to 255. The network's input is (image - mean) / std.

    Raises:
        ConfigError: a size is below 1.
    """

    align: Align
    test_size: int
    test_max_size: int
    divisor: int
    fill: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("test_size", "test_max_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}.")

    @classmethod
    def of(cls, config: Config) -> Preprocess:
        """Return the preprocessing of evaluations for training settings."""
        normal = normalization(config.backbone)
        size = config.test_size, config.test_max_size
        return cls(config.align, *size, SIZE_DIVISOR, FILL, normal["mean"], normal["std"])

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises CheckpointError if it is from another version of fastload."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) ^ known):
            raise CheckpointError(f"its preprocessing is from another version of fastload: {', '.join(unknown)}")
        return cls(**values)

    def loader(
        self,
        images: Cache | Subset[Any],
        batch_size: int,
        workers: int,
        device: torch.device | str,
        dtype: torch.dtype,
        few_shapes: bool = False,
        group_by_aspect: bool = False,
    ) -> FastLoader:
        """Return a loader of all images of a cache, preprocessed for evaluation.

        Args:
            images: a cache or a subset of one.
            batch_size: images per batch.
            workers: number of loader threads.
            device: the device of the batches.
            dtype: the type of the images; torch.uint8 images are not normalized.
            few_shapes: use the few canvas sizes of `canvas_sizes`, for compiled networks. Default: False.
            group_by_aspect: put images of similar shape in a batch instead of keeping their order. Default: False.
        """
        return FastLoader(
            images,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=self.collator(self.test_size, self.test_max_size, few_shapes),
            group_by_aspect=group_by_aspect,
            transforms=[ShortestEdge(self.test_size, self.test_max_size)],
            **self.output(device, dtype),
        )

    def collator(self, short: int, long: int, few_shapes: bool = False, training: bool = False) -> Collator:
        """Return a collator for images with edges up to `short` and `long` pixels. See `loader` for `few_shapes`."""
        align = "center" if self.align == "random" and not training else self.align
        sizes = canvas_sizes(short, long, self.divisor) if few_shapes else None
        return ALIGNERS[align](divisor=self.divisor, fill=self.fill, canvas_sizes=sizes)

    def output(self, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        """Return FastLoader's arguments for batches of `dtype` on `device`. uint8 images are not normalized."""
        normalization = {} if dtype == torch.uint8 else {"mean": self.mean, "std": self.std}
        return {"device": device, "dtype": dtype, **normalization}


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Settings of a checkpoint that a command line may override; None keeps the checkpoint's."""

    align: Align | None = None
    """Position of an image on its canvas. Default: as in the checkpoint."""
    test_size: int | None = None
    """Shorter edge of images, in pixels. Default: as in the checkpoint."""
    test_max_size: int | None = None
    """Maximum longer edge of images, in pixels. Default: as in the checkpoint."""
    precision: Precision | None = None
    """Precision of the convolutions. Default: as in the checkpoint."""

    def preprocess(self, trained: Preprocess) -> Preprocess:
        """Return `trained` with the settings that are not None."""
        given = {name: getattr(self, name) for name in ("align", "test_size", "test_max_size")}
        return replace(trained, **{name: value for name, value in given.items() if value is not None})

    def config(self, trained: Config, batch_size: int, workers: int) -> Config:
        """Return `trained` with the precision, if it is not None, and this batch size and number of workers."""
        precision = self.precision or trained.precision
        return replace(trained, batch_size=batch_size, workers=workers, precision=precision)


def canvas_sizes(short: int, long: int, divisor: int = SIZE_DIVISOR) -> list[tuple[int, int]]:
    """Return at most six canvas sizes (height, width) for images whose edges are up to `short` and `long` pixels.

    A compiled network has code for each canvas size, so there should be few.
    """
    short, long = (-(-edge // divisor) * divisor for edge in (short, long))
    middle = (short + long) // 2 // divisor * divisor
    landscape = {(short, short), (short, middle), (short, long), (long, long)}
    return sorted(landscape | {(width, height) for height, width in landscape})
