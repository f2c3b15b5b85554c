"""The pixel format of images: uint8 levels, or (level - mean) / std in floating point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastload.errors import ArgumentError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
DTYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.float16)  # in the order of the core's enum
MEMORY_FORMATS = (torch.channels_last, torch.contiguous_format)
LINES = 128  # normalized at a time on a CPU: 1 MB of float32 at a width of 672 pixels, which fits in its cache


@dataclass(frozen=True, init=False)
class PixelFormat:
    """How the pixels of a batch (B, 3, H, W) are stored.

    uint8 images hold levels of 0 to 255. Floating-point images hold (level - mean) / std, computed in float32. The
    difference, the quotient and the conversion to a smaller `dtype` round to nearest.

        PixelFormat()  # uint8
        PixelFormat(torch.bfloat16, IMAGENET_MEAN, IMAGENET_STD)

    Args:
        dtype: torch.uint8, float32, bfloat16 or float16. Default: float32 if `mean` or `std` is given, else uint8.
        mean, std: of red, green and blue, in levels of 0 to 255. Default: 0 and 255, which give images in [0, 1].
        memory_format: torch.channels_last, in which the channels of a pixel are adjacent, or torch.contiguous_format.

    Raises:
        ArgumentError: the arguments do not describe a format.
    """

    dtype: torch.dtype
    mean: tuple[float, ...]
    std: tuple[float, ...]
    memory_format: torch.memory_format

    def __init__(
        self,
        dtype: torch.dtype | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        normalizes = mean is not None or std is not None
        dtype = dtype or (torch.float32 if normalizes else torch.uint8)
        if dtype not in DTYPES:
            raise ArgumentError(f"dtype is one of {', '.join(map(str, DTYPES))}, not {dtype!r}")
        if memory_format not in MEMORY_FORMATS:
            raise ArgumentError(f"memory_format is one of {', '.join(map(str, MEMORY_FORMATS))}, not {memory_format!r}")
        if dtype == torch.uint8 and normalizes:
            raise ArgumentError(
                "uint8 images are not normalized: remove mean and std, or choose a floating-point dtype"
            )
        means = _of_channels("mean", (0, 0, 0) if mean is None else mean)
        deviations = _of_channels("std", (255, 255, 255) if std is None else std)
        if min(deviations) <= 0:
            raise ArgumentError(f"std must be above 0, not {std!r}")
        if max(deviations) < 1:
            raise ArgumentError(f"mean and std are in levels of 0 to 255: multiply {mean!r} and {std!r} by 255")
        values = {"dtype": dtype, "mean": means, "std": deviations, "memory_format": memory_format}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def is_plain(self) -> bool:
        """Whether it is uint8 in channels_last."""
        return self.dtype == torch.uint8 and not self.is_planar

    @property
    def is_planar(self) -> bool:
        """Whether the pixels of a channel are adjacent in memory."""
        return self.memory_format == torch.contiguous_format


def _of_channels(name: str, values: Sequence[float]) -> tuple[float, ...]:
    channels = tuple(map(float, values))
    if len(channels) != 3 or not all(map(math.isfinite, channels)):
        raise ArgumentError(f"{name} needs a finite value for each of red, green and blue, not {values!r}")
    return channels


class Normalize(nn.Module):
    """Converts uint8 images (..., 3, H, W) to a `PixelFormat`, on any device.

        normalize = Normalize(PixelFormat(mean=IMAGENET_MEAN, std=IMAGENET_STD)).to("cuda")
        images = normalize(images)  # float32

    Floating-point images are returned unchanged, so a model that starts with this module accepts both kinds. On a CPU
    the result equals that of `PixelFormat` bit for bit. A GPU computes level * (1 / std) - mean / std in one pass,
    which rounds differently.

    Args:
        pixels: the format of the result.
    """

    mean: Tensor
    std: Tensor
    gain: Tensor
    shift: Tensor

    def __init__(self, pixels: PixelFormat) -> None:
        super().__init__()
        self.pixels = pixels
        mean, std = torch.tensor(pixels.mean), torch.tensor(pixels.std)
        for name, value in {"mean": mean, "std": std, "gain": 1 / std, "shift": -mean / std}.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return images
        levels = images if self.pixels.is_planar else images.movedim(-3, -1)  # the order of the axes in memory
        levels = levels.contiguous()
        if self.pixels.dtype == torch.uint8:
            result = levels
        elif self.pixels.is_planar:
            result = self._normalized(levels, *(constant.view(3, 1, 1) for constant in self.buffers()))
        else:  # whole rows, since three channels are too short for vector instructions
            rows = levels.flatten(-2)
            result = self._normalized(rows, *(constant.repeat(levels.shape[-2]) for constant in self.buffers()))
            result = result.view(levels.shape)
        return result if self.pixels.is_planar else result.movedim(-1, -3)

    def _normalized(self, rows: Tensor, mean: Tensor, std: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """Normalize levels (..., H, row length), to which the constants broadcast."""
        out = torch.empty(rows.shape, dtype=self.pixels.dtype, device=rows.device)
        if rows.device.type != "cpu":
            return torch.addcmul(shift, rows, gain, out=out)
        parts = max(rows[..., 0].numel() // LINES, 1)
        for levels, result in zip(rows.chunk(parts, -2), out.chunk(parts, -2), strict=True):
            difference = torch.sub(levels, mean, out=result) if result.dtype == torch.float32 else levels - mean
            result.copy_(difference.div_(std))
        return out
