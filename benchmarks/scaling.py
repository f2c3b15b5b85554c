"""Measures how far one Python process scales: the time per image with the GIL, and images/s with many threads.

    python benchmarks/scaling.py coco/val2017 [--json r.json]

**The GIL**: all Python code of a process shares it, so the time per image that it is held limits images/s on any
machine. That is the CPU time of the Python thread, without the time that the core spends outside the GIL. It is
measured twice: with threads that sleep, and with threads that decode, which share cores and caches with Python.

**Threads**: FastLoader with its usual queue and threads, but each image's native work is a sleep, so that this machine
stands in for one with a core per thread. If a timer oversleeps, the thread's next sleep is shorter. The ideal is one
image per thread and sleep.
"""

from __future__ import annotations

import json
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from engines import SLEEPING, SleepingEngine
from gil import gil_seconds
from machine import machine
from pictures import open_pictures
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fastload import Cache, FastLoader, RandomFlip, ShortestEdge
from fastload.cache.format.layout import Encoding
from fastload.loader.fast_loader import ENGINES
from fastload.tools.baseline import LONG_EDGE, SHORT_EDGE

EPOCH = 4096  # images; the fixed cost of an epoch is small for COCO's 118,000
THREADS = (1, 2, 4, 8, 16, 32, 64, 128)
console = Console()


def loader(cache: Cache, images: int, batch_size: int, threads: int, engine: str) -> FastLoader:
    """A loader of `images` images, repeating those of the cache."""
    return FastLoader(
        cache.subset(list(islice(cycle(range(len(cache))), images))),
        batch_size,
        shuffle=True,
        num_workers=threads,
        transforms=[ShortestEdge(SHORT_EDGE, max_size=LONG_EDGE), RandomFlip()],
        engine=engine,  # type: ignore[arg-type]  # also the engine of engines.py
    )


def gil_microseconds(cache: Cache, batch_size: int, threads: int, engine: str, rounds: int) -> float:
    """CPU time per image for which the GIL is held; median over epochs."""
    images = max(len(cache), EPOCH)
    batches = loader(cache, images, batch_size, threads, engine)
    held = []
    for _ in track(
        range(rounds), f"Holding the GIL, {engine} engine", console=console, transient=True, auto_refresh=False
    ):
        start = gil_seconds()
        for _pixels, targets in batches:
            _ = targets.boxes, targets.labels  # training reads these
        held.append(1e6 * (gil_seconds() - start) / images)
    return median(held)


def speed(cache: Cache, batch_size: int, threads: int, seconds: float) -> float:
    """Images/s of `threads` sleeping threads over about `seconds`."""
    per_second = 1e6 * threads / SleepingEngine.microseconds
    images = -(-int(seconds * per_second) // batch_size) * batch_size
    batches = loader(cache, images, batch_size, threads, engine="sleeping")
    next(iter(batches))  # starts the threads
    start = time.perf_counter()
    for _batch in batches:
        pass
    return images / (time.perf_counter() - start)


def print_results(found: dict[str, Any], batch_size: int) -> None:
    for what, held in found["gil_microseconds_per_image"].items():
        console.print(f"GIL held for [bold]{held:.1f} µs[/] an image in batches of {batch_size}, threads {what}")
    table = Table(title=f"native work: {found['emulated_microseconds'] / 1000:g} ms of sleep an image")
    for heading in ("threads", "images/s", "ideal", "share"):
        table.add_column(heading, justify="right")
    for threads, row in found["threads"].items():
        speeds = (f"{row[name]:,.0f}" for name in ("images_per_second", "ideal"))
        table.add_row(threads, *speeds, f"[bold]{row['share']:.2f}[/]")
    console.print(table)


def main(
    data: Annotated[Path, typer.Argument(help="a dataset's folder, or the image folder of one of its splits")],
    milliseconds: Annotated[float, typer.Option(help="native work an image: 2 is a COCO JPEG")] = 2.0,
    batch_size: Annotated[int, typer.Option()] = 16,
    seconds: Annotated[float, typer.Option(help="to measure each number of threads for")] = 1.0,
    rounds: Annotated[int, typer.Option(help="epochs that the GIL is measured over, and runs of each number")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the results to this file")] = None,
) -> None:
    """Print the time per image that the GIL is held, and images/s for 1 to 128 emulated threads."""
    ENGINES.update(SLEEPING)
    SleepingEngine.microseconds = round(1000 * milliseconds)
    for name, value in machine().items():
        console.print(f"[dim]{name}:[/] {value}", highlight=False)
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        cache = open_pictures(data, Path(scratch), console).cache(Encoding.DCT)
        gil = {
            what: gil_microseconds(cache, batch_size, threads, engine, rounds)
            for what, engine, threads in (("sleeping", "sleeping", 16), ("decoding", "native", 2))
        }
        runs: dict[int, list[float]] = {threads: [] for threads in THREADS}
        for _ in track(range(rounds), "Sleeping", console=console, transient=True, auto_refresh=False):
            for threads in THREADS:
                runs[threads].append(speed(cache, batch_size, threads, seconds))
    found: dict[str, Any] = {
        "gil_microseconds_per_image": gil,
        "emulated_microseconds": SleepingEngine.microseconds,
        "threads": {str(threads): against_ideal(threads, median(speeds)) for threads, speeds in runs.items()},
    }
    print_results(found, batch_size)
    if json_file:
        json_file.write_text(json.dumps(found, indent=2) + "\n")


def against_ideal(threads: int, images_per_second: float) -> dict[str, float]:
    """Images/s compared with one image per thread and sleep."""
    ideal = 1e6 * threads / SleepingEngine.microseconds
    return {"images_per_second": images_per_second, "ideal": ideal, "share": images_per_second / ideal}


if __name__ == "__main__":
    typer.run(main)
