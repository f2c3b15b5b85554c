"""Compares a whole training step (ResNet-18, batch 8, 512 px) with a stock implementation of the same network.

    python benchmarks/train_step.py --json train_step.json

Stock: fp32, contiguous images, the head of `stock.py`, a plain optimizer, the loss read every step, and the memory
allocator's default settings; and once more with those of the detector's commands, which keep freed memory. Ours: in
the same precision and layout, and what channels_last and bf16 add. For each of ours, its convolutions are also run
alone, forward and backward: no step of this network can be faster. Beside them runs torchvision's FCOS if torchvision
is installed.

Each contender has a process of its own. They take turns; medians are compared. All do the same work: one update, no
clipping, no averaged weights; with `--head centernet` only centers are positive; stock's `--head centernet2` needs
torchvision. Stock's images are normalized before the step, ours are uint8 and normalized in the step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import stock
import stock_center
import stock_center2
import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision_fcos import make_torchvision_fcos

from detector.config import PRESETS, Config
from detector.loss.center_assign import RANGES
from detector.model.detector import Detector
from detector.model.grid import grid_of
from detector.runtime import keep_freed_memory
from detector.train.trainer import Trainer
from fastload import Normalize, PixelFormat

CLASSES = 80
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OURS = (("fp32", "contiguous"), ("fp32", "channels_last"), ("bf16", "channels_last"))
KEPT = "freed memory kept"
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender runs")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=512, help="edge of the square images, a multiple of 32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", default=[""], help="run contenders that have these words in their name")
    parser.add_argument("--head", choices=("fcos", "centernet", "centernet2"), default="fcos")
    options = parser.parse_args()
    device = torch.device(options.device)
    stocks = partial(stock_step, config=settings("fp32", options.head))
    contenders: dict[str, Callable[..., Step]] = {
        "stock, fp32, contiguous": stocks,
        f"stock, fp32, contiguous, {KEPT}": stocks,
    }
    for precision, layout in OURS:
        make = partial(our_step, config=settings(precision, options.head), layout=LAYOUTS[layout])
        contenders[f"ours, {precision}, {layout}"] = make
    if options.head == "fcos" and make_torchvision_fcos(CLASSES, options.size):
        contenders["torchvision's FCOS, fp32, contiguous"] = torchvision_step
    processes = {
        name: Process(
            partial(make, device=device),
            options.batch_size,
            options.size,
            keep_memory=name.startswith("ours") or KEPT in name,
        )
        for name, make in contenders.items()
        if any(words in name for words in options.only)
    }
    turns: dict[str, Step] = {}
    for name, process in processes.items():
        turns[name] = partial(process.run, "step")
        if name.startswith("ours"):
            turns[f"{name}: convolutions"] = partial(process.run, "convolutions")
    times = take_turns(turns, options.rounds, device)
    base = next(iter(times.values()))
    steps: dict[str, dict[str, Any]] = {
        name: {
            "step_ms": times[name],
            "speedup": base / times[name],
            "convolutions_ms": times.get(f"{name}: convolutions"),
        }
        for name in processes
    }
    figures = {"machine": machine(), "device": device.type, **vars(options), "steps": steps}
    Console().print(table(figures))
    if device.type == "cuda":
        figures["syncs in a step"] = next(p.run("waits") for name, p in processes.items() if "bf16" in name)
        Console().print(f"waits for the device in one of our steps: {figures['syncs in a step']}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, default=str) + "\n")


class Process:
    """A contender in a process of its own, in which memory is kept as its users keep it.

    Args:
        make: makes its step from images and targets.
        batch, size: number of images, and the edge of each.
        keep_memory: let the allocator keep freed memory, as the detector's commands do.
    """

    def __init__(self, make: Callable[..., Step], batch: int, size: int, keep_memory: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, make, batch, size, keep_memory), daemon=True).start()
        theirs.close()
        self.pipe.recv()

    def run(self, what: str) -> Any:
        """Make a "step", run its "convolutions" alone, or count how often the host "waits" in it."""
        self.pipe.send(what)
        return self.pipe.recv()


def _serve(pipe: Connection, make: Callable[..., Step], batch: int, size: int, keep_memory: bool) -> None:
    if keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    step = make(*make_batch(batch, size))
    recorded = Convolutions()
    result = None
    while True:
        pipe.send(result)
        try:
            what = pipe.recv()
        except EOFError:  # the benchmark is over
            return
        result = None
        if what == "step":
            step()
        elif what == "waits":
            result = syncs(step)
        else:
            if not recorded.calls:
                with recorded:
                    step()
            recorded.run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()


class Convolutions(TorchDispatchMode):
    """Records which convolutions are computed, forward and backward, to compute them again without all the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., object], list[Any]]] = []
        self.tensors: dict[tuple[Any, ...], Tensor] = {}  # one for each shape, layout and precision

    def __torch_dispatch__(
        self, function: Callable[..., object], types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if function in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            self.calls.append((function, [self._same(x) if isinstance(x, Tensor) else x for x in args]))
        return function(*args, **(kwargs or {}))

    def _same(self, x: Tensor) -> Tensor:
        key = (x.shape, x.stride(), x.dtype)
        if key not in self.tensors:
            self.tensors[key] = x.detach().clone()
        return self.tensors[key]

    @torch.no_grad()
    def run(self) -> None:
        for function, args in self.calls:
            function(*args)


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


def table(figures: dict[str, Any]) -> Table:
    about = figures["machine"]
    title = (
        f"{about['processor']}, {about['cores']} cores, {torch.backends.cpu.get_cpu_capability()}, {about['software']}"
    )
    title += f", {torch.cuda.get_device_name()}" if figures["device"] == "cuda" else "; no GPU was measured"
    shown = Table("step", "time", "speed-up", "its convolutions alone", title=title)
    for name, row in figures["steps"].items():
        alone = row["convolutions_ms"]
        share = f"{alone:.0f} ms, {alone / row['step_ms']:.0%}" if alone else ""
        shown.add_row(name, f"{row['step_ms']:.0f} ms", f"{row['speedup']:.2f}x", share)
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
        loss = stock_losses(model, model(floats.to(device)), on_device.boxes, on_device.labels, config.head)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def stock_losses(model: Detector, output: Any, boxes: Tensor, labels: Tensor, head: str) -> Tensor:
    if head == "centernet2":
        objects = [(box[label >= 0], label[label >= 0]) for box, label in zip(boxes, labels, strict=True)]
        pool = partial(stock_center2.stock_pool, strides=model.strides)
        second = stock_center2.stock_losses(model.head, output, objects, pool)
        first = stock_center2.stock_first_losses(output, objects, grid_of(model.strides, output.objects.logits))
        return sum([*first, *second.values()])
    batch, grid = (boxes, labels, labels >= 0), grid_of(model.strides, output.logits)
    if head == "fcos":
        return sum(stock.stock_loss(output, stock.stock_assign(*batch, grid)))
    assigned = stock_center.stock_targets(*batch, grid, RANGES[5], CLASSES)
    return sum(stock_center.stock_losses(*output[:2], assigned, grid, RANGES[5], more=False))


def torchvision_step(images: Tensor, targets: SimpleNamespace, device: torch.device) -> Step:
    """torchvision's FCOS on a ResNet-18, with torchvision's images and targets."""
    model = make_torchvision_fcos(CLASSES, images.shape[-1]).to(device).train()
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
