"""Measures the memory of every engine over epochs. Exits with 1 if it grows.

python benchmarks/engine_memory.py coco/                                  # 30 epochs of 64 images with each engine
python benchmarks/engine_memory.py coco/val2017 --engines dali --epochs 100 --images 500
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from machine import machine
from memory import anonymous_bytes
from pictures import open_pictures
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fastload import Cache, CenterAlign, ColorJitter, FastLoader, RandomFlip, ShortestEdge
from fastload.cache.format.layout import Encoding
from fastload.loader.fast_loader import ENGINES

LIMIT = 24  # MB; a leak of one byte per pixel, or of one image per epoch, exceeds it
console = Console()


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        cache = open_pictures(options.data, Path(scratch), console).cache(Encoding.ORIGINAL)
        for name, value in machine().items():
            console.print(f"[dim]{name}:[/] {value}", highlight=False)
        found = {engine: epochs(cache, engine, options) for engine in options.engines}
    print_results(found, options.images, options.epochs)
    if leaking := [engine for engine, held in found.items() if growth(held) > LIMIT]:
        raise SystemExit(f"{', '.join(leaking)}: memory grows by more than {LIMIT} MB")


def epochs(cache: Cache, engine: str, options: argparse.Namespace) -> list[float]:
    """MB held after each epoch. Plans use all features; every fifth epoch is left half-way."""
    loader = FastLoader(
        cache.subset(range(min(options.images, len(cache)))),
        batch_size=8,
        shuffle=True,
        num_workers=2,
        collate_fn=CenterAlign(),
        transforms=[
            ShortestEdge(range(options.short, options.short * 5 // 4, 16)),
            RandomFlip(),
            ColorJitter(0.2, 0.2, 0.2, 0.1),
        ],
        engine=engine,
    )
    held = []
    for epoch in track(range(options.epochs), engine, console=console, transient=True):
        for step, _batch in enumerate(loader):
            if epoch % 5 == 4 and step * 2 >= len(loader):
                break
        held.append(anonymous_bytes() / 2**20)
    return held


def growth(held: Sequence[float]) -> float:
    """MB from the median of the first third of the epochs to that of the last third."""
    third = max(len(held) // 3, 1)
    return median(held[-third:]) - median(held[:third])


def print_results(found: dict[str, list[float]], images: int, epochs: int) -> None:
    """Print one row per engine."""
    table = Table(title=f"MB held over {epochs} epochs of {images} images, without page cache")
    for name in ("engine", "after the first", "half-way", "at the end", "growth, last third to first"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    for engine, held in found.items():
        numbers = (held[0], held[len(held) // 2], held[-1], growth(held))
        table.add_row(engine, *(f"{number:.1f}" for number in numbers))
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of a dataset, or of the images of one of its splits")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), help="default: all")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, default=64, help="an epoch; default: 64")
    parser.add_argument("--short", type=int, default=192, help="the shorter edge, in pixels; default: 192")
    return parser.parse_args()


if __name__ == "__main__":
    main()
