"""RoIAlign over a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastload import _core

CANONICAL_SIZE = 224  # the side of a square box that is pooled from the level of stride 16
FARTHEST = 2.0**24  # boxes that reach beyond, or that are not numbers, are empty


def roi_align(
    levels: Sequence[Tensor],
    boxes: Tensor,
    valid: Tensor,
    strides: Sequence[int],
    size: int = 7,
    samples: int = 2,
) -> Tensor:
    """Pool the features of boxes from the levels of a pyramid, bilinearly.

    This is the aligned RoIAlign of detectron2 and torchvision (Mask R-CNN, He et al. 2017, shifted by half a cell). As
    in FPN (Lin et al. 2017), a box of area a belongs to the level of stride 2^floor(4 + log2(sqrt(a) / 224 + 1e-8)), or
    to the nearest that there is. A box is divided into size x size bins; a bin is the mean of samples x samples points.
    Points more than a cell outside a level count as 0. Gradients flow to the levels only.

    CPU tensors are processed by the native core, in float32 and with the same bits for any number of threads; others by
    PyTorch without a device synchronization.

        features = roi_align([p3, p4, p5], proposals, valid, strides=(8, 16, 32))  # (B, P, C, 7, 7)
        rows = features.permute(0, 1, 3, 4, 2).flatten(2)  # (B, P, 7 * 7 * C) for a linear layer, without a copy

    The result has its channels last in memory. A linear layer whose weights expect (C, 7, 7) costs a copy.

    Args:
        levels: (B, C, h, w) features, finest first, all of one dtype: float32, float16 or bfloat16.
        boxes: (B, P, 4) x0, y0, x1, y1 in pixels of the canvas.
        valid: (B, P) bool. Other boxes, and empty ones, get zeros and no gradient.
        strides: pixels per cell of each level. Each is a power of two and twice the one before; of a single level, any.
        size: bins along each side.
        samples: points along each side of a bin. 0, for CPU tensors only: one for each cell or part of a cell that the
            bin is long, for each axis.

    Returns:
        (B, P, C, size, size) in the dtype of the levels.

    Raises:
        ValueError: the arguments do not agree.
    """
    if boxes.device.type != "cpu":
        return roi_align_torch(levels, boxes, valid, strides, size, samples)
    _check(levels, boxes, valid, strides, size)
    if levels[0].dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"levels are float32, float16 or bfloat16, not {levels[0].dtype}")
    if not 0 <= samples <= 256 or size > 256:
        raise ValueError(f"samples is {samples} and size {size}, but both are at most 256")
    pooled: Tensor = _Native.apply(boxes, valid, strides, size, samples, *levels)  # type: ignore[no-untyped-call]
    return pooled


class _Native(torch.autograd.Function):
    """RoIAlign by the native core."""

    @staticmethod
    def forward(
        ctx: Any, boxes: Tensor, valid: Tensor, strides: Sequence[int], size: int, samples: int, *levels: Tensor
    ) -> Tensor:
        boxes, valid = boxes.float().contiguous(), valid.bool().contiguous()
        ctx.save_for_backward(boxes, valid)
        ctx.shapes, ctx.dtype, ctx.strides, ctx.samples = [x.shape for x in levels], levels[0].dtype, strides, samples
        out = torch.empty(*boxes.shape[:2], size, size, levels[0].shape[1])
        cells = [_channels_last(level).numpy() for level in levels]
        threads = torch.get_num_threads()
        _core.roi_align(cells, boxes.numpy(), valid.numpy(), strides, samples, threads, out.numpy())
        return out.permute(0, 1, 4, 2, 3).to(ctx.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes, valid = ctx.saved_tensors
        totals = [torch.zeros(b, h, w, c) for b, c, h, w in ctx.shapes]
        bins = grad.permute(0, 1, 3, 4, 2).float().contiguous()
        cells = [total.numpy() for total in totals]
        threads = torch.get_num_threads()
        _core.roi_align_backward(cells, boxes.numpy(), valid.numpy(), ctx.strides, ctx.samples, threads, bins.numpy())
        return (None,) * 5 + tuple(total.permute(0, 3, 1, 2).to(ctx.dtype) for total in totals)


def _channels_last(level: Tensor) -> Tensor:
    """A level as (B, h, w, C) float32. One with its channels last in memory already is not copied."""
    return level.to(torch.float32, memory_format=torch.channels_last).permute(0, 2, 3, 1).contiguous()


def roi_align_torch(
    levels: Sequence[Tensor],
    boxes: Tensor,
    valid: Tensor,
    strides: Sequence[int],
    size: int = 7,
    samples: int = 2,
) -> Tensor:
    """`roi_align` in PyTorch, with static shapes and no transfer to the host. Levels may be float64 too."""
    _check(levels, boxes, valid, strides, size)
    if samples < 1:
        raise ValueError(f"samples is {samples}, but only the native core takes as many as a box needs")
    channels = levels[0].shape[1]
    precise = torch.float64 if levels[0].dtype == torch.float64 else torch.float32
    table = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2) for level in levels]).to(precise)
    cells, weights = _taps(levels, boxes.detach(), valid, strides, size, samples)
    pooled: Tensor = _WeightedSums.apply(table, cells, weights.to(precise))  # type: ignore[no-untyped-call]
    return pooled.view(*boxes.shape[:2], size, size, channels).permute(0, 1, 4, 2, 3).to(levels[0].dtype)


def _check(levels: Sequence[Tensor], boxes: Tensor, valid: Tensor, strides: Sequence[int], size: int) -> None:
    if not levels or len(levels) != len(strides):
        raise ValueError(f"{len(levels)} levels have {len(strides)} strides")
    if any(level.ndim != 4 or level.shape[:2] != levels[0].shape[:2] for level in levels):
        raise ValueError(f"levels are (B, C, h, w) with the same B and C, not {[tuple(x.shape) for x in levels]}")
    if any(level.dtype != levels[0].dtype for level in levels):
        raise ValueError(f"levels have one dtype, not {[level.dtype for level in levels]}")
    if boxes.ndim != 3 or boxes.shape[0] != levels[0].shape[0] or boxes.shape[2] != 4:
        raise ValueError(f"boxes are (B, P, 4) with the B of the levels, {len(levels[0])}, not {tuple(boxes.shape)}")
    if valid.shape != boxes.shape[:2]:
        raise ValueError(f"valid is (B, P) as the boxes, {tuple(boxes.shape[:2])}, not {tuple(valid.shape)}")
    doubling = all(fine * 2 == coarse for fine, coarse in pairwise(strides))
    power = len(strides) == 1 or strides[0].bit_count() == 1
    if strides[0] < 1 or not (doubling and power):
        raise ValueError(f"strides are powers of two, each twice the one before, not {tuple(strides)}")
    if size < 1:
        raise ValueError(f"size is {size}, but a box has at least one bin")


def _taps(
    levels: Sequence[Tensor], boxes: Tensor, valid: Tensor, strides: Sequence[int], size: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Which cells make up each bin: rows of a table of all cells, and weights, both (B * P * size^2, 4 * samples^2).

    In double precision, like the native core: both agree on which points are outside.
    """
    corners = boxes.double()
    whole = valid & (corners.abs() <= FARTHEST).all(-1) & (corners[..., 2:] > corners[..., :2]).all(-1)
    corners = torch.where(whole[..., None], corners, 0.0)
    side = corners[..., 2:] - corners[..., :2]
    scale = side.prod(-1).sqrt() / CANONICAL_SIZE + 1e-8
    reached = [scale >= stride / 16 for stride in strides[1:]]  # the levels after the first

    heights, widths = [level.shape[2] for level in levels], [level.shape[3] for level in levels]
    ends = [0, *accumulate(len(boxes) * h * w for h, w in zip(heights, widths, strict=True))]
    cell, height, width, start = (_at_level(values, reached, whole) for values in (strides, heights, widths, ends))
    image = torch.arange(len(boxes), device=boxes.device)[:, None]
    origin = corners[..., :2] / cell[..., None] - 0.5
    extent = side / cell[..., None]
    column, across = _axis(origin[..., 0], extent[..., 0], width, size, samples)
    row, down = _axis(origin[..., 1], extent[..., 1], height, size, samples)
    down = down * whole[..., None, None]
    row = (start + image * height * width)[..., None, None] + row * width[..., None, None]
    taps = (len(boxes) * boxes.shape[1] * size**2, 4 * samples**2)
    cells = row[:, :, :, None, :, None] + column[:, :, None, :, None, :]
    weights = down[:, :, :, None, :, None] * across[:, :, None, :, None, :]
    return cells.reshape(taps), weights.reshape(taps)


def _at_level(values: Sequence[int], reached: list[Tensor], like: Tensor) -> Tensor:
    """A value (B, P) int64 of the level of each box. No tensor of the values is copied to the device: it would wait."""
    value = torch.full_like(like, values[0], dtype=torch.int64)
    for before, after, there in zip(values, values[1:], reached, strict=False):
        value += (after - before) * there
    return value


def _axis(origin: Tensor, extent: Tensor, cells: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """The cells (B, P, size, 2 * samples) of each bin along one axis, and their weights."""
    points = 2 * torch.arange(size * samples, device=origin.device) + 1
    x = origin[..., None] + extent[..., None] * points / (2 * size * samples)
    last = cells[..., None] - 1
    inside = (x >= -1) & (x <= last + 1)
    x = x.clamp(min=0)
    low = torch.minimum(x.floor().long(), last)
    high = torch.minimum(low + 1, last)
    part = torch.where(low < last, x - low, 0.0)
    shape = (*origin.shape, size, 2 * samples)
    weights = torch.stack([1 - part, part], -1) * inside[..., None] / samples
    return torch.stack([low, high], -1).view(shape), weights.view(shape)


class _WeightedSums(torch.autograd.Function):
    """Sums of rows of a table (T, C): row i of the result is the sum over k of table[cells[i, k]] * weights[i, k].

    The backward pass of embedding_bag would keep a row of C for each of the cells.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(cells, weights)
        ctx.rows = len(table)
        return F.embedding_bag(cells, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cells, weights = ctx.saved_tensors
        total = grad.new_zeros((ctx.rows, grad.shape[1]))
        for cell, weight in zip(cells.unbind(1), weights.unbind(1), strict=True):
            total.index_add_(0, cell, grad * weight[:, None])
        return total, None, None
