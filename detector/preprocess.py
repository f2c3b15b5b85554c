"""What is done to an image before the network sees it: a part of the checkpoint, as the weights are.

Training writes it down; its own evaluations, `detector.evaluate` and `detector.predict` all take it from there and make
their batches by `Preprocess.loader`, so that an image has the same detections whichever of them looks at it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch.utils.data import Subset

from detector.config import Align, Config, Precision
from detector.errors import CheckpointError, ConfigError
from detector.model.backbone import normalization
from detector.model.fcos import SIZE_DIVISOR
from fastload import Cache, CenterAlign, Collator, FastLoader, RandomAlign, ShortestEdge, TopLeftAlign

ALIGNERS: dict[Align, type[Collator]] = {"center": CenterAlign, "top-left": TopLeftAlign, "random": RandomAlign}
FILL = (124, 116, 104)  # ImageNet's mean in whole levels


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input.

    Args:
        align: where an image lies on its canvas, as trained. What was trained at random places is looked at in the
            middle: nothing is left to chance outside training.
        test_size: pixels of the short edge. Sizes are rounded as `ShortestEdge` does.
        test_max_size: pixels that the long edge may have at most.
        divisor: the sides of a canvas are multiples of it.
        fill: red, green and blue of the padding, 0 to 255.
        mean, std: of red, green and blue, in levels of 0 to 255: the network sees (image - mean) / std.

    Raises:
        ConfigError: if a size is below 1.
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
        """What a training with these settings evaluates with."""
        normal = normalization(config.backbone)
        size = config.test_size, config.test_max_size
        return cls(config.align, *size, SIZE_DIVISOR, FILL, normal["mean"], normal["std"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises CheckpointError when it is another version's."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) ^ known):
            raise CheckpointError(f"its preprocessing is of another version of fastload: {', '.join(unknown)}")
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
        """Every image of a cache once, as the network is to see it, on `device`.

        Args:
            images: a cache, on disk or in memory, or a part of one.
            dtype: of the batches; torch.uint8 leaves images as they are.
            few_shapes: for a compiled network: see `canvas_sizes`.
            group_by_aspect: put images of similar shape together, instead of in order.
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
        """Pads images whose edges are up to `short` and `long` pixels."""
        align = "center" if self.align == "random" and not training else self.align
        sizes = canvas_sizes(short, long, self.divisor) if few_shapes else None
        return ALIGNERS[align](divisor=self.divisor, fill=self.fill, canvas_sizes=sizes)

    def output(self, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
        """FastLoader's arguments for batches of `dtype` on `device`; uint8 is not normalized."""
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
        """`trained`, but for what is set."""
        given = {name: getattr(self, name) for name in ("align", "test_size", "test_max_size")}
        return replace(trained, **{name: value for name, value in given.items() if value is not None})

    def config(self, trained: Config, batch_size: int, workers: int) -> Config:
        """`trained` with the precision that is set, for so many images at a time and threads."""
        precision = self.precision or trained.precision
        return replace(trained, batch_size=batch_size, workers=workers, precision=precision)


def canvas_sizes(short: int, long: int, divisor: int = SIZE_DIVISOR) -> list[tuple[int, int]]:
    """At most six canvases (height, width) for images whose edges are up to `short` and `long` pixels: few enough for
    a compiled network to have code for each."""
    short, long = (-(-edge // divisor) * divisor for edge in (short, long))
    middle = (short + long) // 2 // divisor * divisor
    landscape = {(short, short), (short, middle), (short, long), (long, long)}
    return sorted(landscape | {(width, height) for height, width in landscape})
