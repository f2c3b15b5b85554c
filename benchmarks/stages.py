"""The time of each stage of decoding an image, for every encoding and SIMD level, compared with memory speed.

    python benchmarks/stages.py coco/ [--images 100] [--rounds 9] [--json FILE]

On one thread: reading the record from memory, entropy decoding, the inverse DCT, resampling (with color conversion and
flip) to a short edge of 512 pixels, and storing the canvas past the caches. For JPEGs that libjpeg-turbo decodes, such
as progressive ones, everything counts as inverse DCT. The floor is the least that any loader has to do: read the record
once and write the canvas once. Rounds are interleaved, so that a busy machine slows every stage alike. `x` is the ratio
to a bare libjpeg-turbo RGB decode in the same round, as in loader.py on one thread.

A second table has the steps of recipes on canvases of 640 x 640 pixels, at every SIMD level: the tile of a rotated
source, which is an axis-aligned row; sampling the tile at 10 degrees so that it covers the canvas ("warp"); blending
two images ("mix"); changing hue, saturation and value ("hsv"), colors by a matrix ("recolor") and levels by tables
("table"); counting the levels for such a table ("histogram"); filling ("fill"). An affine transform is a tile and a
warp. The floor is to read a canvas from memory and to write one; steps after the tile work on lines in the CPU's
caches.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from contenders import CONTENDERS, FastLoaderOriginal
from machine import machine
from numpy.typing import NDArray
from pictures import Pictures, open_pictures
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fastload import _core
from fastload._core import testing
from fastload.cache.format.layout import Encoding
from fastload.cache.format.record import HEADER_SIZE
from fastload.tools.baseline import scaled_size

console = Console()
CANVAS_BYTES = 64 << 20  # more than the caches hold
STAGES = ("read", "entropy", "inverse DCT", "resample", "store")
BESIDE = ("floor", "checksum")  # the least that any loader has to do; the cost of verifying a record
STEPS = ("tile", "warp", "mix", "hsv", "recolor", "table", "histogram", "fill", "floor")
SIDE = 640  # pixels of the canvas of a step


@dataclass
class Job:
    """Records of one encoding, to be timed at one SIMD level."""

    name: str
    encoding: Encoding
    level: str
    records: list[memoryview]
    sizes: NDArray[np.int32]  # (N, 2) width, height on the canvas

    def measure(self, out: NDArray[np.uint8]) -> dict[str, float]:
        """Seconds of each stage for all records."""
        read = testing.read_loop(self.records)
        planes = testing.planes_loop(self.records, self.level)
        entropy = testing.entropy_loop(self.records, self.level) if self.encoding != Encoding.PLANES else 0.0
        draw = partial(testing.render_loop, self.records, self.sizes, self.level, out)
        resample, both = draw(False), draw(True)
        return {
            "read": read,
            "entropy": max(0.0, entropy - read),
            "inverse DCT": max(0.0, planes - max(entropy, read)),
            "resample": resample,
            "store": max(0.0, both - resample),
            "floor": read + testing.store_loop(self.sizes, self.level, out),
            "checksum": checksum_loop(self.records),
        }


@dataclass
class Steps:
    """Steps of recipes, to be timed at one SIMD level."""

    level: str
    records: list[memoryview]

    def measure(self, out: NDArray[np.uint8]) -> dict[str, float]:
        """Seconds of each step for as many canvases as records."""
        sizes = np.full((len(self.records), 2), SIDE, np.int32)
        canvas = 3 * SIDE * SIDE
        places = [at * canvas % (CANVAS_BYTES - canvas) for at in range(len(sizes))]
        adjust = {
            step: sum(testing.adjust_loop(step, SIDE, SIDE, self.level) for _ in sizes)
            for step in ("hsv", "recolor", "table", "histogram")
        }
        return adjust | {
            "tile": testing.render_loop(self.records, sizes, self.level, out, False),
            "warp": testing.warp_loop(self.records, sizes, self.level),
            "mix": testing.mix_loop(sizes, self.level),
            "fill": testing.fill_loop(sizes),
            "floor": testing.read_loop([memoryview(out)[at : at + canvas] for at in places])
            + testing.store_loop(sizes, self.level, out),
        }


def jobs_of(pictures: Pictures, images: int) -> list[Job]:
    """Every cache that loader.py measures, at every SIMD level."""
    jobs = []
    for kind in CONTENDERS:
        if not issubclass(kind, FastLoaderOriginal):
            continue
        cache = pictures.cache(kind.encoding, kind.reduction)
        chosen = np.linspace(0, len(cache) - 1, min(images, len(cache))).round().astype(int).tolist()
        records = [cache.record_bytes(i) for i in chosen]
        sizes = np.array([scaled_size(*cache.sizes[i].tolist()) for i in chosen], np.int32)
        name = kind.name.removeprefix("fastload-").replace("fastload", "original")
        jobs += [Job(name, kind.encoding, level, records, sizes) for level in testing.simd_levels()]
    return jobs


def checksum_loop(records: list[memoryview]) -> float:
    """Seconds that `verify_checksums` adds to reading all `records`."""
    start = perf_counter()
    for record in records:
        _core.xxh64(record)
    return perf_counter() - start


def packing_time(files: list[bytes]) -> float:
    """Seconds per image to convert a JPEG to a `dct` payload."""
    start = perf_counter()
    for file in files:
        _core.encode_payload(file, Encoding.DCT)
    return (perf_counter() - start) / len(files)


def as_table(found: list[dict[str, Any]]) -> Table:
    """A table of milliseconds per image."""
    table = Table(title="ms an image, one thread", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 0), pad_edge=False)
    for heading in ("cache", "SIMD"):
        table.add_column(heading, no_wrap=True)
    for heading in ("read", "entropy", "IDCT", "resample", "store", "sum", "floor", "checksum", "x"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found:
        shown = {name: f"{1000 * row[name]:.2f}" for name in (*STAGES, *BESIDE)}
        table.add_row(
            row["name"], row["simd"], *(shown[stage] for stage in STAGES),
            f"[bold]{1000 * row['sum']:.2f}[/]", *(shown[name] for name in BESIDE), f"[bold]{row['ratio']:.2f}[/]",
        )  # fmt: skip
    return table


def step_table(found: list[dict[str, Any]]) -> Table:
    """A table of milliseconds per canvas and SIMD level."""
    title = f"steps of recipes, ms for {SIDE} x {SIDE} pixels, one thread"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("SIMD", no_wrap=True)
    for step in STEPS:
        table.add_column(step, justify="right", no_wrap=True)
    for row in found:
        table.add_row(row["simd"], *(f"{1000 * row[step]:.3f}" for step in STEPS))
    return table


def summary(job: Job, rounds: list[dict[str, float]], reference: list[float]) -> dict[str, Any]:
    """Medians per image, and the ratio of the reference to the sum of the stages in each round."""
    count = len(job.records)
    sums = [sum(found[stage] for stage in STAGES) for found in rounds]
    return {
        "name": job.name,
        "encoding": job.encoding.label,
        "simd": job.level,
        **{stage: median(found[stage] for found in rounds) / count for stage in (*STAGES, *BESIDE)},
        "sum": median(sums) / count,
        "ratio": median(bare / total for bare, total in zip(reference, sums, strict=True)),
    }


def main(
    data: Annotated[Path, typer.Argument(help="a dataset's folder, or the image folder of one of its splits")],
    images: Annotated[int, typer.Option(help="images of a round")] = 100,
    rounds: Annotated[int, typer.Option(help="rounds to take the median of")] = 9,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the seconds to this file")] = None,
) -> None:
    """Print the milliseconds of every stage, and their ratio to bare JPEG decoding."""
    for name, value in machine().items():
        console.print(f"[dim]{name}:[/] {value}", highlight=False)
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        jobs = jobs_of(open_pictures(data, Path(scratch), console), images)
        files = [bytes(record)[HEADER_SIZE:] for record in jobs[0].records]
        recipe_steps = [Steps(level, jobs[0].records) for level in testing.simd_levels()]
        out = np.zeros(CANVAS_BYTES, np.uint8)
        reference: list[float] = []
        times: list[list[dict[str, float]]] = [[] for _ in jobs]
        step_times: list[list[dict[str, float]]] = [[] for _ in recipe_steps]
        for _ in track(range(rounds), "Measuring", console=console, transient=True):
            reference.append(testing.decode_loop(files, 1))
            for job, measured in zip((*jobs, *recipe_steps), (*times, *step_times), strict=True):
                measured.append(job.measure(out))
        found = [summary(job, measured, reference) for job, measured in zip(jobs, times, strict=True)]
        steps = [
            {"simd": each.level, **{step: median(row[step] for row in measured) / len(files) for step in STEPS}}
            for each, measured in zip(recipe_steps, step_times, strict=True)
        ]
        packing = packing_time(files)
    console.print(as_table(found))
    console.print(step_table(steps))
    bare = 1000 * median(reference) / len(files)
    console.print(f"Bare RGB decode {bare:.2f} ms; packing a JPEG as dct {1000 * packing:.1f} ms.", highlight=False)
    if json_file:
        json_file.write_text(json.dumps({"stages": found, "steps": steps, "packing": packing}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
