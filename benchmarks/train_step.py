"""Compares a whole training step (ResNet-18, batch 16, 512 px) with a stock implementation of the same network.

    python benchmarks/train_step.py --json train_step.json

Stock: fp32, contiguous images, the head of `stock.py`, a plain optimizer, the loss read every step. Two more
contenders: the optimized head in stock's precision and layout, which shows the gain of the head alone, and
torchvision's FCOS if torchvision is installed. Contenders take turns; medians are compared. All do the same work: one
update, no clipping, no averaged weights; with `--head centernet` only centers are positive. Stock's images are
normalized before the step, ours are uint8 and normalized in the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import stock
import stock_center
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from detector.config import PRESETS, Config
from detector.loss.center_assign import RANGES
from detector.model.detector import Detector
from detector.train.trainer import Trainer
from fastload import Normalize, PixelFormat

CLASSES = 80
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender runs")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=512, help="edge of the square images, a multiple of 32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="ours")
    parser.add_argument("--head", choices=("fcos", "centernet"), default="fcos")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    images, targets = make_batch(options.batch_size, options.size)
    contenders: dict[str, Step] = {
        "stock, fp32, contiguous": stock_step(images, targets, device, settings("fp32", options.head)),
        "our head, fp32, contiguous": our_step(
            images, targets, device, settings("fp32", options.head), torch.contiguous_format
        ),
        f"ours, {options.precision}": our_step(images, targets, device, settings(options.precision, options.head)),
    }
    if options.head == "fcos" and (peer := torchvision_step(images, targets, device)):
        contenders["torchvision's FCOS, fp32, contiguous"] = peer
    times = take_turns(contenders, options.rounds, device)
    base = next(iter(times.values()))
    figures = {name: {"step_ms": value, "speedup": base / value} for name, value in times.items()}
    Console().print(table(figures, device))
    if device.type == "cuda":
        counted = syncs(list(contenders.values())[2])
        figures["syncs in a step"] = {"ours": counted}
        Console().print(f"waits for the device in one of our steps: {counted}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def take_turns(contenders: dict[str, Step], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, step in contenders.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def table(figures: dict[str, dict[str, float]], device: torch.device) -> Table:
    title = f"{device.type}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    title += "" if device.type == "cuda" else "; no GPU was measured"
    shown = Table("step", "time", "speed-up", title=title)
    for name, row in figures.items():
        shown.add_row(name, f"{row['step_ms']:.0f} ms", f"{row['speedup']:.2f}x")
    return shown


def make_batch(batch: int, size: int) -> tuple[Tensor, SimpleNamespace]:
    """uint8 images in channels_last, like FastLoader's, with up to 30 boxes each."""
    images = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    extent = torch.exp(torch.rand(batch, 30, 2) * torch.tensor(size / 16).log()) * 12
    corner = torch.rand(batch, 30, 2) * (size - extent)
    labels = torch.randint(CLASSES, (batch, 30)).masked_fill(torch.arange(30) >= torch.randint(1, 31, (batch, 1)), -1)
    targets = SimpleNamespace(boxes=torch.cat([corner, corner + extent], -1), labels=labels)
    targets.crowd = torch.zeros_like(labels, dtype=torch.bool)
    targets.offset, targets.size = torch.zeros(batch, 2), torch.full((batch, 2), size)
    fields = dict(vars(targets))
    targets.to = lambda device, non_blocking=False: SimpleNamespace(
        **{name: value.to(device, non_blocking=non_blocking) for name, value in fields.items()}
    )
    return images.contiguous(memory_format=torch.channels_last), targets


def settings(precision: str, head: str = "fcos") -> Config:
    strides = (8, 16, 32, 64, 128)
    return replace(PRESETS["fcos_r18_rt"], strides=strides, precision=precision, head=head, more_positives=False)


def our_step(
    images: Tensor,
    targets: SimpleNamespace,
    device: torch.device,
    config: Config,
    layout: torch.memory_format | None = None,
) -> Step:
    """The detector's step, in its own choice of memory format or in `layout`."""
    trainer = Trainer(config, CLASSES, 1000, device)
    if layout is not None:
        trainer.memory_format = layout
        trainer.model.to(memory_format=layout)
    return lambda: trainer.update([(images, targets)])


def stock_step(images: Tensor, targets: SimpleNamespace, device: torch.device, config: Config) -> Step:
    """The same network with the stock head, as most training scripts are written."""
    model = Detector.from_config(config, CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    floats = Normalize(PixelFormat(mean=model.backbone.mean, std=model.backbone.std))(images).contiguous()

    def step() -> float:
        on_device = targets.to(device)
        predictions = model(floats.to(device))
        grid = model.head.grid(predictions)
        batch = on_device.boxes, on_device.labels, on_device.labels >= 0
        if config.head == "fcos":
            loss = sum(stock.stock_loss(predictions, stock.stock_assign(*batch, grid)))
        else:
            assigned = stock_center.stock_targets(*batch, grid, RANGES[5], CLASSES)
            loss = sum(stock_center.stock_losses(*predictions[:2], assigned, grid, RANGES[5], more=False))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torchvision_step(images: Tensor, targets: SimpleNamespace, device: torch.device) -> Step | None:
    """torchvision's FCOS on a ResNet-18, with torchvision's images and targets; None without torchvision."""
    try:
        from torchvision.models.detection import FCOS as Peer
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    except (ImportError, RuntimeError):
        return None
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5, returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )  # fmt: skip
    size = images.shape[-1]
    model = Peer(backbone, CLASSES, min_size=size, max_size=size).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    pictures = [image.contiguous().float() / 255 for image in images]

    def step() -> float:
        on_device = targets.to(device)
        notes = [
            {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]}
            for boxes, labels in zip(on_device.boxes, on_device.labels, strict=True)
        ]
        loss = sum(model([picture.to(device) for picture in pictures], notes).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def syncs(step: Step) -> int:
    """How often the host waits for the device in one step."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


if __name__ == "__main__":
    main()
