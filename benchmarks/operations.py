"""Compares the operations of two-stage detectors with torchvision's, on the CPU.

    python benchmarks/operations.py --json operations.json

It needs torchvision, which fastload itself does not. As in head.py, results are checked to be equal, and both take
turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from head import Contenders, compare, table
from rich.console import Console
from torch import Tensor
from torchvision import ops

from fastload import nms, roi_align

HEIGHT, WIDTH = 800, 1344
STRIDES = (8, 16, 32)
BATCH, ROIS = 8, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender runs")
    parser.add_argument("--only", default="", help="measure the cases whose name has this in it")
    options = parser.parse_args()
    device = torch.device("cpu")
    torch.manual_seed(0)
    cases: dict[str, Callable[[], Contenders]] = {
        f"RoIAlign, {channels} channels, {samples or 'adaptive'} samples, {order}": (
            lambda channels=channels, samples=samples, order=order: pooling(channels, samples, order == "channels last")
        )
        for channels in (64, 256)
        for samples in (2, 0)
        for order in ("channels last", "channels first")
    }
    for spread, kept in ((0.03, "700"), (0.1, "2,000")):
        for threshold in (0.9, 0.6):
            name = f"NMS at {threshold}, about {kept} of 9,400 kept at 0.9"
            cases[name] = lambda spread=spread, threshold=threshold: suppression(spread, threshold)
    figures = {name: compare(*case(), options.rounds, device) for name, case in cases.items() if options.only in name}
    Console().print(table(figures, device))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def pooling(channels: int, samples: int, channels_last: bool) -> Contenders:
    """Forward and backward: 512 boxes in each of 8 images, to 7 x 7. Torchvision's levels have their channels first."""
    extent = torch.tensor([float(WIDTH), HEIGHT])
    size = torch.exp(torch.rand(BATCH, ROIS, 2) * (extent / 8).log()) * 8
    corner = torch.rand(BATCH, ROIS, 2) * (extent - size)
    boxes, valid = torch.cat([corner, corner + size], -1), torch.ones(BATCH, ROIS, dtype=torch.bool)
    plain = [torch.randn(BATCH, channels, -(-HEIGHT // s), -(-WIDTH // s)).requires_grad_() for s in STRIDES]
    form = torch.channels_last if channels_last else torch.contiguous_format
    levels = [level.detach().clone(memory_format=form).requires_grad_() for level in plain]
    level_of = torch.floor(4 + torch.log2(size.prod(-1).sqrt() / 224 + 1e-8)).clamp(3, 5).long() - 3
    of_level = [(level_of == i).flatten().nonzero()[:, 0] for i in range(len(STRIDES))]
    numbered = torch.cat([torch.arange(BATCH).repeat_interleave(ROIS)[:, None], boxes.flatten(0, 1)], 1)
    gradient = torch.randn(BATCH, ROIS, 7, 7, channels).permute(0, 1, 4, 2, 3)
    plain_gradients = [gradient.flatten(0, 1)[index].contiguous() for index in of_level]

    def run_stock() -> tuple[list[Tensor], tuple[Tensor, ...]]:
        pooled = [
            ops.roi_align(level, numbered[index], 7, 1 / stride, samples, aligned=True)
            for level, stride, index in zip(plain, STRIDES, of_level, strict=True)
        ]
        return pooled, torch.autograd.grad(pooled, plain, plain_gradients)

    def run_ours() -> tuple[Tensor, tuple[Tensor, ...]]:
        pooled = roi_align(levels, boxes, valid, STRIDES, 7, samples)
        return pooled, torch.autograd.grad(pooled, levels, gradient)

    (theirs, their_gradients), (found, gradients) = run_stock(), run_ours()
    for index, pooled in zip(of_level, theirs, strict=True):
        torch.testing.assert_close(found.flatten(0, 1)[index], pooled, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradients, their_gradients, rtol=1e-3, atol=1e-3)
    return run_stock, run_ours


def suppression(spread: float, threshold: float) -> Contenders:
    """The proposals of 8 images, 9,400 near 40 objects each: one image after the other, or all at once."""
    extent = torch.tensor([float(WIDTH), HEIGHT])
    side, center = torch.exp(torch.rand(BATCH, 40, 2) * (extent / 16).log()) * 16, torch.rand(BATCH, 40, 2) * extent
    nearest = torch.randint(40, (BATCH, 9400, 1)).expand(-1, -1, 2)
    side, center = side.gather(1, nearest), center.gather(1, nearest)
    center = center + side * torch.randn(center.shape) * spread
    side = side * torch.exp(torch.randn(side.shape) * spread)
    boxes = torch.cat([center - side / 2, center + side / 2], -1)
    scores = torch.stack([torch.randperm(9400) / 9400 for _ in range(BATCH)])
    labels = torch.zeros(BATCH, 9400, dtype=torch.int64)

    def run_stock() -> list[Tensor]:
        return [ops.nms(*image, threshold)[:2000] for image in zip(boxes, scores, strict=True)]

    def run_ours() -> Tensor:
        return nms(boxes, scores, labels, threshold, 2000)

    for theirs, ours in zip(run_stock(), run_ours(), strict=True):
        differ = set(theirs.tolist()) ^ set(ours[ours >= 0].tolist())
        assert len(differ) < 20, differ  # torchvision decides in float32
    return run_stock, run_ours


if __name__ == "__main__":
    main()
