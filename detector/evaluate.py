"""Evaluation: detections of a whole split, COCO's figures, and how long each part took.

python -m detector.evaluate runs/fcos/best.pt coco/ --batch-size 8 --align center
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from detector import checkpoint, distributed
from detector.coco import CocoMetrics, Results, coco_metrics, evaluate_coco, to_results
from detector.command_line import Positional, arg, parse, tell_errors
from detector.config import Align, Config
from detector.data import Split, evaluation_loader, open_split
from detector.fcos import grid_of
from detector.fuse import fuse_batch_norm
from detector.postprocess import Settings, postprocess, to_original
from detector.precision import autocast, pick_device, pick_format

__all__ = ["coco_metrics", "detect", "evaluate"]


@dataclass
class Timing:
    """Seconds spent on each part of a number of images."""

    images: int = 0
    load: float = 0.0
    forward: float = 0.0
    postprocess: float = 0.0


@dataclass(frozen=True)
class Options:
    """Evaluates a checkpoint on a COCO folder."""

    checkpoint: Positional[Path]
    """Such as runs/fcos/best.pt."""
    data: Annotated[Path | None, Positional, arg(metavar="FOLDER")] = None
    """A COCO folder; without one, the sample set."""
    split: str = ""
    """Which annotations/instances_NAME.json; empty: the one that begins with "val"."""
    batch_size: int = 8
    """Images at a time."""
    align: Align = "center"
    """Where an image lies on its canvas."""
    fuse_bn: bool = False
    """Fold batch norms into the convolutions first."""
    test_size: int = 0
    """The short edge in pixels; 0: as in the checkpoint's configuration."""
    test_max_size: int = 0
    """The longest long edge; 0: likewise."""
    precision: str = ""
    """fp32, bf16 or fp16; empty: likewise."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    workers: int = 2
    """Native threads that decode images."""
    detections: Path | None = None
    """Write the detections here, in COCO's results format."""


def settings_of(config: Config) -> Settings:
    """The inference settings of a configuration."""
    return Settings(config.score_threshold, config.candidates, config.nms_threshold, config.max_detections)


@torch.no_grad()
def detect(
    model: nn.Module,
    batches: Iterable[Any],
    strides: tuple[int, ...],
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Results, Timing]:
    """Detections of all `batches` (of a FastLoader), in COCO's results format and pixels of the original images."""
    results: Results = []
    timing = Timing()
    start = time.perf_counter()
    for images, targets in batches:
        loaded = time.perf_counter()
        images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        with autocast(device, dtype):
            predictions = model(images)
        _finish(device)
        seen = time.perf_counter()
        region = torch.cat([targets.offset, targets.offset + targets.size.flip(1)], 1).float()
        found = postprocess(*predictions, grid_of(strides, predictions), region, settings)
        found = to_original(found, targets.scale, targets.offset, targets.original_size).cpu()
        results += to_results(found, targets.image_id.tolist(), targets.category_ids.tolist())
        end = time.perf_counter()
        timing.images += len(images)
        timing.load += loaded - start
        timing.forward += seen - loaded
        timing.postprocess += end - seen
        start = end
    return results, timing


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, over all processes; the timing is this process's own."""

    metrics: CocoMetrics
    results: Results = field(repr=False)
    timing: Timing


def evaluate(
    model: nn.Module,
    split: Split,
    config: Config,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 8,
    align: Align = "center",
) -> Evaluation:
    """Evaluate `model` (in evaluation mode) on a split. Every process must take part; each gets the figures."""
    loader = evaluation_loader(split, config, batch_size, align)
    found, timing = detect(model, loader, config.strides, settings_of(config), device, dtype)
    results = distributed.gather(found)
    metrics = distributed.first_rank_does(lambda: evaluate_coco(split.annotations, results))
    return Evaluation(metrics, results, timing)


def run(options: Options, console: Console) -> Evaluation:
    """Evaluate a checkpoint as the command line asks."""
    with distributed.processes(pick_device(options.device)) as device:
        model, config, categories = checkpoint.load_model(options.checkpoint)
        config = replace(
            config,
            workers=options.workers,
            test_size=options.test_size or config.test_size,
            test_max_size=options.test_max_size or config.test_max_size,
            precision=options.precision or config.precision,  # type: ignore[arg-type]
        )
        split = open_split(options.data, options.split, "val")
        checkpoint.check_categories(options.checkpoint, categories, split.categories)
        model = fuse_batch_norm(model) if options.fuse_bn else model
        model = model.to(device, memory_format=torch.channels_last)
        dtype = pick_format(config, device)
        outcome = evaluate(model, split, config, device, dtype, options.batch_size, options.align)
        if distributed.rank() == 0:
            if options.detections:
                options.detections.write_text(json.dumps(outcome.results))
            console.print(figures_table(outcome.metrics), classes_table(outcome.metrics), speed_line(outcome.timing))
        return outcome


def figures_table(metrics: CocoMetrics) -> Table:
    """COCO's 12 figures in a row."""
    table = Table(*metrics.figures)
    table.add_row(*(_shown(value) for value in metrics.figures.values()))
    return table


def classes_table(metrics: CocoMetrics) -> Table:
    """AP of each class, best first."""
    table = Table("class", "AP")
    for name, value in sorted(metrics.per_class.items(), key=lambda item: -item[1]):
        table.add_row(name, _shown(value))
    return table


def _shown(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "-"


def speed_line(timing: Timing) -> str:
    """Images a second, and the milliseconds an image that each part took."""
    parts = {"load": timing.load, "forward": timing.forward, "postprocess": timing.postprocess}
    each = ", ".join(f"{name} {1000 * seconds / max(timing.images, 1):.1f} ms" for name, seconds in parts.items())
    return f"{timing.images / max(sum(parts.values()), 1e-9):.1f} images/s on {timing.images} images: {each} an image"


if __name__ == "__main__":
    tell_errors(lambda: run(parse(Options), Console()))
