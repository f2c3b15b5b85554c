"""Compares each optimization of the detector's head with the stock formulation.

    python benchmarks/head.py --json head.json

The two contenders take turns, so that a noisy machine slows both; medians are compared. Their results are checked to be
equal before timing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import stock
import stock_center
import stock_center2
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from detector.infer.postprocess import Settings, postprocess
from detector.loss.assign import assign
from detector.loss.center_assign import RANGES, assign_centers
from detector.loss.center_loss import center_loss
from detector.loss.fcos_loss import fcos_loss
from detector.loss.focal import sigmoid_focal_loss
from detector.loss.heatmap import heatmap
from detector.loss.rois import Objects, sample
from detector.model.centernet2 import THRESHOLDS, CascadeSettings, CenterNet2Head, Proposed
from detector.model.grid import Grid, make_grid
from detector.model.head import Predictions
from fastload import IMAGENET_MEAN, IMAGENET_STD, Normalize, PixelFormat, nms

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 80
Contenders = tuple[Callable[[], object], Callable[[], object]]  # stock, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=7, help="times that each contender runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    cases = {
        "assignment": assignment(device),
        "losses": losses(device),
        "CenterNet*: assignment and heatmap": center_targets(device),
        "CenterNet*: the same and losses": center_losses(device),
        "CenterNet2: proposals and sampling": proposals(device),
        "postprocess": inference(device),
        "focal loss without one-hot": focal(device),
        "points made once per shape": points(device),
        "box and quality in one convolution": one_convolution(device),
        "all images in one suppression": suppression(device),
        "normalise on the device, from uint8": upload(device),
        "channels_last convolutions": memory_format(device),
        "bf16 convolutions": half_precision(device),
    }
    figures = {name: compare(*case, options.rounds, device) for name, case in cases.items()}
    Console().print(table(figures, device))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def compare(
    theirs: Callable[[], object], ours: Callable[[], object], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median milliseconds of both, taking turns, and their ratio."""
    times: dict[str, list[float]] = {"stock_ms": [], "ours_ms": []}
    for round_ in range(rounds + 1):  # the first warms up
        for name, run in (("stock_ms", theirs), ("ours_ms", ours)):
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_:
                times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"speedup": medians["stock_ms"] / medians["ours_ms"], **medians}


def table(figures: dict[str, dict[str, float]], device: torch.device) -> Table:
    title = f"{device.type}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    title += "" if device.type == "cuda" else "; no GPU was measured"
    shown = Table("optimisation", "stock", "ours", "speed-up", title=title)
    for name, row in figures.items():
        shown.add_row(name, f"{row['stock_ms']:.1f} ms", f"{row['ours_ms']:.1f} ms", f"{row['speedup']:.1f}x")
    return shown


def grid_for(height: int, width: int, device: torch.device) -> Grid:
    return make_grid(STRIDES, tuple((-(-height // s), -(-width // s)) for s in STRIDES), device)


def boxes_for(batch: int, most: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """1 to `most` boxes per image. Their sizes are uniform in the logarithm from 8 pixels, as in COCO."""
    size = torch.exp(torch.rand(batch, most, 2) * torch.tensor([width / 8, height / 8]).log()) * 8
    corner = torch.rand(batch, most, 2) * (torch.tensor([width, height]) - size)
    usable = torch.arange(most) < torch.randint(1, most + 1, (batch, 1))
    labels = torch.randint(CLASSES, (batch, most)).masked_fill(~usable, -1)
    return torch.cat([corner, corner + size], -1).to(device), labels.to(device), usable.to(device)


def predictions(batch: int, grid: Grid, device: torch.device) -> stock.Predicted:
    """Predictions like a trained head's: almost all logits far below the threshold, high ones clustered at objects."""
    logits, boxes, quality = [], [], []
    for width, height in grid.shapes.int().tolist():
        level = torch.randn(batch, CLASSES, height, width) * 1.2 - 7
        for _ in range(12):
            y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
            level[:, int(torch.randint(CLASSES, ())), max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] += 6.5
        logits.append(level)
        boxes.append(torch.rand(batch, 4, height, width) * 6 + 1)
        quality.append(torch.randn(batch, 1, height, width))
    packed = torch.channels_last
    return tuple([t.to(device).contiguous(memory_format=packed) for t in part] for part in (logits, boxes, quality))


def assignment(device: torch.device) -> Contenders:
    """16 images of 800 x 1344 with up to 45 boxes."""
    grid = grid_for(800, 1344, device)
    batch = boxes_for(16, 45, 800, 1344, device)
    expected, found = stock.stock_assign(*batch, grid), assign(*batch, grid)
    for i, (label, distances, _) in enumerate(expected):
        ours = torch.full_like(label, -1)
        ours_distances = torch.zeros_like(distances)
        for level, start in enumerate(grid.starts.tolist()):
            positive = found.positive[i, level]
            point = found.point[i, level][positive] + start
            ours[point], ours_distances[point] = found.label[i, level][positive], found.distances[i, level][positive]
        assert torch.equal(ours, label)
        assert torch.equal(ours_distances[label >= 0], distances[label >= 0])
    return lambda: stock.stock_assign(*batch, grid), lambda: assign(*batch, grid)


def losses(device: torch.device) -> Contenders:
    """Forward and backward on given targets, 8 images of 512 x 672."""
    grid = grid_for(512, 672, device)
    batch = boxes_for(8, 30, 512, 672, device)
    predicted = predictions(8, grid, device)
    for level in [level for part in predicted for level in part]:
        level.requires_grad_()
    theirs, ours = stock.stock_assign(*batch, grid), assign(*batch, grid)

    def run_stock() -> Tensor:
        total = sum(stock.stock_loss(predicted, theirs))
        total.backward()
        return total

    def run_ours() -> Tensor:
        total = sum(fcos_loss(*predicted, ours, "centerness").values())
        total.backward()
        return total

    torch.testing.assert_close(run_ours(), run_stock(), rtol=1e-4, atol=1e-5)
    return run_stock, run_ours


def center_batch(device: torch.device) -> tuple[Grid, tuple[Tensor, Tensor, Tensor]]:
    """16 images of 800 x 1344 with up to 45 boxes, of three classes each, as in COCO."""
    boxes, labels, usable = boxes_for(16, 45, 800, 1344, device)
    classes = torch.randint(CLASSES, (16, 3), device=device)
    few = classes.gather(1, torch.randint(3, (16, 45), device=device))
    return grid_for(800, 1344, device), (boxes, torch.where(usable, few, labels), usable)


def center_targets(device: torch.device) -> Contenders:
    """Without `more_positives`, which need predictions."""
    grid, batch = center_batch(device)

    def run_ours() -> object:
        return assign_centers(*batch, grid), heatmap(*batch, grid, CLASSES)

    return lambda: stock_center.stock_targets(*batch, grid, RANGES[5], CLASSES), run_ours


def center_losses(device: torch.device) -> Contenders:
    """Targets, and losses forward and backward."""
    grid, batch = center_batch(device)
    logits, boxes, _ = predictions(16, grid, device)
    for level in (*logits, *boxes):
        level.requires_grad_()

    def run_stock() -> Tensor:
        targets = stock_center.stock_targets(*batch, grid, RANGES[5], CLASSES)
        total = sum(stock_center.stock_losses(logits, boxes, targets, grid, RANGES[5], more=False))
        total.backward()
        return total

    def run_ours() -> Tensor:
        targets, spots = assign_centers(*batch, grid), heatmap(*batch, grid, CLASSES)
        total = sum(center_loss(logits, boxes, targets, spots, more=False).values())
        total.backward()
        return total

    torch.testing.assert_close(run_ours(), run_stock(), rtol=1e-3, atol=1e-4)  # stock clamps probabilities at 0.0001
    return run_stock, run_ours


def proposals(device: torch.device) -> Contenders:
    """2,000 proposals of each of 8 images of 800 x 1344, and 512 regions drawn from them."""
    grid, (boxes, labels, usable) = grid_for(800, 1344, device), boxes_for(8, 45, 800, 1344, device)
    settings = CascadeSettings(1, 8, 512, 2000)
    head = CenterNet2Head(CLASSES, STRIDES, 8, 8, 1, "gn", settings).train()
    logits, distances, quality = predictions(8, grid, device)
    objects = Predictions([level.amax(1, keepdim=True) for level in logits], distances, [q[:, :0] for q in quality])
    region = torch.tensor([[0.0, 0, 1344, 800]], device=device).expand(8, 4)
    output = Proposed(objects, [], region)

    def run_stock() -> object:
        found = stock_center2.stock_proposals(output, grid, 2000)
        return [
            stock_center2.stock_sample(box, boxes[i][usable[i]], labels[i][usable[i]], 512, CLASSES)
            for i, (box, _) in enumerate(found)
        ]

    def run_ours() -> object:
        found = head.propose(objects, region)
        truth = Objects(boxes, labels.clamp(min=0), usable)
        return sample(found.boxes, found.labels >= 0, truth, 512, THRESHOLDS[0], CLASSES)

    ours = head.propose(objects, region)
    for i, (box, score) in enumerate(stock_center2.stock_proposals(output, grid, 2000)):
        assert len(box) == int((ours.labels[i] >= 0).sum()) and torch.allclose(ours.scores[i, : len(score)], score)
    return run_stock, run_ours


def inference(device: torch.device) -> Contenders:
    """From predictions to detections, 8 images of 800 x 1344."""
    grid = grid_for(800, 1344, device)
    predicted = predictions(8, grid, device)
    region = torch.tensor([[0.0, 0, 1344, 800]], device=device).expand(8, 4)
    found = postprocess(*predicted, grid, region, Settings())
    for i, (boxes, scores, labels) in enumerate(stock.stock_postprocess(predicted, grid, region)):
        assert torch.equal(found.labels[i, : len(labels)], labels)
        torch.testing.assert_close(found.scores[i, : len(labels)], scores)
        torch.testing.assert_close(found.boxes[i, : len(labels)], boxes)

    def run_stock() -> object:
        return [[part.cpu() for part in image] for image in stock.stock_postprocess(predicted, grid, region)]

    return run_stock, lambda: postprocess(*predicted, grid, region, Settings()).cpu()


def focal(device: torch.device) -> Contenders:
    """Forward and backward over the logits of one level, 8 images."""
    logits = (torch.randn(8, 64 * 84, CLASSES, device=device) - 4).requires_grad_()
    point = torch.stack([torch.randperm(64 * 84)[:200] for _ in range(8)]).to(device)
    label = torch.randint(CLASSES, (8, 200), device=device)
    positive = torch.ones_like(label, dtype=torch.bool)

    def run_stock() -> None:
        one_hot = torch.zeros_like(logits)
        one_hot.view(8, -1).scatter_(1, point * CLASSES + label, 1.0)
        p = logits.sigmoid()
        cost = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
        p_t = p * one_hot + (1 - p) * (1 - one_hot)
        ((0.25 * one_hot + 0.75 * (1 - one_hot)) * cost * (1 - p_t) ** 2).sum().backward()

    return run_stock, lambda: sigmoid_focal_loss(logits, point, label, positive).backward()


def points(device: torch.device) -> Contenders:
    """The points of an 800 x 1344 canvas."""
    shapes = tuple((-(-800 // s), -(-1344 // s)) for s in STRIDES)
    return lambda: make_grid.__wrapped__(STRIDES, shapes, device), lambda: make_grid(STRIDES, shapes, device)


def one_convolution(device: torch.device) -> Contenders:
    """The last convolutions of the box tower, 4 images at stride 8 of 512 x 672."""
    x = torch.randn(4, 256, 64, 84, device=device).contiguous(memory_format=torch.channels_last)
    box, quality, both = (
        nn.Conv2d(256, n, 3, padding=1).to(device, memory_format=torch.channels_last) for n in (4, 1, 5)
    )
    return lambda: (box(x), quality(x)), lambda: both(x)


def suppression(device: torch.device) -> Contenders:
    """NMS of 8 images: one after another with class offsets, or all together by class."""
    corner = torch.rand(8, 3000, 2, device=device) * 800
    boxes = torch.cat([corner, corner + torch.rand(8, 3000, 2, device=device) * 200], -1)
    scores, labels = torch.rand(8, 3000, device=device), torch.randint(CLASSES, (8, 3000), device=device)

    def run_stock() -> object:
        return [stock.nms_of_image(*(part[i].cpu() for part in (boxes, scores, labels)))[:100] for i in range(8)]

    return run_stock, lambda: nms(boxes, scores, labels, 0.6, 100)


def upload(device: torch.device) -> Contenders:
    """A batch of 16 images of 512 x 672 to the device, normalized."""
    images = torch.randint(256, (16, 3, 512, 672), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    normalize = Normalize(PixelFormat(mean=IMAGENET_MEAN, std=IMAGENET_STD)).to(device)
    alone = [image.contiguous() for image in images]

    def run_stock() -> Tensor:
        batch = images.new_zeros((16, 3, 512, 672), dtype=torch.float32)
        for slot, image in zip(batch, alone, strict=True):
            slot.copy_((image.float() / 255 - mean / 255) / (std / 255))
        return batch.to(device)

    return run_stock, lambda: normalize(images.to(device))


def tower(device: torch.device) -> nn.Module:
    """Four 3 x 3 convolutions of 128 channels with group norm."""
    layers = [(nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(16, 128), nn.ReLU(inplace=True)) for _ in range(4)]
    return nn.Sequential(*(layer for block in layers for layer in block)).to(device)


def memory_format(device: torch.device) -> Contenders:
    """A tower forward and backward, fp32: contiguous, or channels_last."""
    x = torch.randn(4, 128, 64, 84, device=device)
    theirs, ours = tower(device), tower(device).to(memory_format=torch.channels_last)
    packed = x.contiguous(memory_format=torch.channels_last)
    return lambda: theirs(x).sum().backward(), lambda: ours(packed).sum().backward()


def half_precision(device: torch.device) -> Contenders:
    """A tower forward and backward, channels_last: fp32, or under bf16 autocast."""
    x = torch.randn(4, 128, 64, 84, device=device).contiguous(memory_format=torch.channels_last)
    model = tower(device).to(memory_format=torch.channels_last)

    def run_ours() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            y = model(x)
        y.float().sum().backward()

    return lambda: model(x).sum().backward(), run_ours


if __name__ == "__main__":
    main()
