"""The points at which a detector predicts: one grid per feature level, concatenated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]  # (height, width) of each level, finest first

SIZE_DIVISOR = 32  # the backbone's coarsest stride; canvases must be multiples of it
RANGE_PER_STRIDE = 8  # a level of stride s takes boxes whose longest distance is in (8 * s / 2, 8 * s] pixels


@dataclass(frozen=True)
class Grid:
    """All N points of L levels, N = sum of height * width. All tensors are on one device."""

    points: Tensor  # (N, 2) float x, y in canvas pixels
    point_strides: Tensor  # (N) float
    strides: Tensor  # (L) float
    shapes: Tensor  # (L, 2) float width, height in cells
    starts: Tensor  # (L) int64, the first point of a level
    reach: Tensor  # (L, 2) float, the range of distances in pixels that a level predicts
    levels: tuple[tuple[int, int, int], ...]  # (stride, height, width) of each level, on the host

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of points of each level, on the host."""
        return tuple(height * width for _, height, width in self.levels)

    @property
    def size(self) -> int:
        return sum(self.counts)


@lru_cache(maxsize=64)  # a few dozen shapes come up when training on aspect groups and several sizes
@torch.inference_mode(False)  # else a grid made in inference could not be used in training
def make_grid(strides: tuple[int, ...], shapes: Shapes, device: torch.device) -> Grid:
    """The points i * stride + stride // 2 of levels of `shapes`.

    Ranges of distances follow the FCOS paper and its real-time variant: a level of stride s ends at 8 * s pixels (64
    for P3), the first starts at -1 and the last has no end.
    """
    points, point_strides = [], []
    for stride, (height, width) in zip(strides, shapes, strict=True):
        y = torch.arange(height) * stride + stride // 2
        x = torch.arange(width) * stride + stride // 2
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2).float())
        point_strides.append(torch.full((height * width,), float(stride)))
    ends = [float(RANGE_PER_STRIDE * stride) for stride in strides[:-1]]
    counts = tuple(height * width for height, width in shapes)
    return Grid(
        points=torch.cat(points).to(device),
        point_strides=torch.cat(point_strides).to(device),
        strides=torch.tensor(strides, dtype=torch.float32, device=device),
        shapes=torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32, device=device),
        starts=torch.tensor([sum(counts[:level]) for level in range(len(counts))], device=device),
        reach=torch.tensor(list(zip([-1.0, *ends], [*ends, float("inf")], strict=True)), device=device),
        levels=tuple((stride, *shape) for stride, shape in zip(strides, shapes, strict=True)),
    )


def grid_of(strides: tuple[int, ...], levels: list[Tensor]) -> Grid:
    """The points of levels (B, C, h, w)."""
    return make_grid(strides, tuple((level.shape[2], level.shape[3]) for level in levels), levels[0].device)


def region_of(targets: Any) -> Tensor:
    """(B, 4) float xyxy: where each image lies on its canvas, from the targets of a FastLoader."""
    return torch.cat([targets.offset, targets.offset + targets.size.flip(1)], 1).float()


def flatten(level: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C), in a grid's order; a view if the memory format is channels_last."""
    return level.permute(0, 2, 3, 1).flatten(1, 2)
