"""Evaluates a checkpoint: prints COCO's figures and the time of each stage.

python -m detector.evaluate runs/fcos/best.pt coco/ --batch-size 8
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from rich.console import Console
from rich.table import Table

from detector import checkpoint, distributed
from detector.cli import Positional, arg, parse, tell_errors
from detector.data import open_split
from detector.infer.coco import CocoMetrics
from detector.infer.evaluation import Evaluation, evaluate
from detector.infer.stream import compiled
from detector.model.fuse import fuse_batch_norm
from detector.preprocess import Overrides
from detector.runtime import keep_freed_memory, pick_device, pick_dtype
from fastload import show_progress


@dataclass(frozen=True)
class Options(Overrides):
    """Evaluate a checkpoint on a COCO folder."""

    checkpoint: Positional[Path]
    """Checkpoint file, such as runs/fcos/best.pt."""
    data: Annotated[Path | None, Positional, arg(metavar="FOLDER")] = None
    """COCO folder. Default: the sample dataset."""
    split: str = ""
    """NAME of annotations/instances_NAME.json. Default: the one that begins with "val"."""
    batch_size: int = 8
    """Images per batch."""
    fuse_bn: bool = False
    """Fold batch norms into the convolutions."""
    compile: bool = False
    """Compile the network (on a GPU with CUDA graphs). Images are then padded to a few fixed sizes."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, ..."""
    workers: int = 2
    """Number of native threads that decode images."""
    detections: Path | None = None
    """Output file for the detections, in COCO's results format."""


def run(options: Options, console: Console) -> Evaluation:
    """Evaluate a checkpoint, and print the figures to `console`."""
    keep_freed_memory()
    with distributed.process_group(pick_device(options.device)) as device:
        trained = checkpoint.load_model(options.checkpoint)
        config = options.config(trained.config, options.batch_size, options.workers)
        preprocess = options.preprocess(trained.preprocess)
        split = open_split(options.data, options.split, "val")
        checkpoint.check_categories(options.checkpoint, trained.categories, split.categories)
        model = fuse_batch_norm(trained.model) if options.fuse_bn else trained.model
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
        dtype = pick_dtype(config, device)
        network = compiled(model, device) if options.compile else None
        if options.detections:
            options.detections.parent.mkdir(parents=True, exist_ok=True)
        with show_progress("Evaluating") if distributed.rank() == 0 else nullcontext() as report:
            evaluation = evaluate(
                model, split, config, preprocess, device, dtype, options.batch_size, options.compile, report, network
            )
        if distributed.rank() == 0:
            if options.detections:
                options.detections.write_text(json.dumps(evaluation.results))
            console.print(figures_table(evaluation.metrics), classes_table(evaluation.metrics), str(evaluation.timing))
        return evaluation


def figures_table(metrics: CocoMetrics) -> Table:
    """COCO's 12 figures in one row."""
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


if __name__ == "__main__":
    tell_errors(lambda: run(parse(Options), Console()))
