"""The time of each stage of decoding an image, for every encoding and SIMD level, compared with memory speed.

    python benchmarks/stages.py coco/ [--images 100] [--rounds 9] [--json FILE]

On one thread: reading the record from memory, entropy decoding, the inverse DCT, resampling (with color conversion and
flip) to a short edge of 512 pixels, and storing the canvas past the caches. For JPEGs that libjpeg-turbo decodes, such
as progressive ones, everything counts as inverse DCT. The floor is the least that any loader has to do: read the record
once and write the canvas once. Rounds are interleaved, so that a busy machine slows every stage alike. `x` is the ratio
to a bare libjpeg-turbo RGB decode in the same round, as in loader.py on one thread.

A second table has steps of some recipes on canvases of that size: sampling a source that is rotated by 10 degrees
("warp"; "resample" comes before it), and blending two images ("mix").
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
RECIPE_STEPS = ("warp", "mix")


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
            "warp": testing.warp_loop(self.records, self.sizes, self.level),
            "mix": testing.mix_loop(self.sizes, self.level),
            "floor": read + testing.store_loop(self.sizes, self.level, out),
            "checksum": checksum_loop(self.records),
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


def recipe_table(found: list[dict[str, Any]]) -> Table:
    """A table of milliseconds per image and SIMD level: the medians over caches, which matter little."""
    table = Table(title="steps of recipes, ms an image, one thread", box=box.SIMPLE_HEAD)
    table.add_column("SIMD")
    for step in RECIPE_STEPS:
        table.add_column(step, justify="right")
    for level in dict.fromkeys(row["simd"] for row in found):
        rows = [row for row in found if row["simd"] == level]
        table.add_row(level, *(f"{1000 * median(row[step] for row in rows):.2f}" for step in RECIPE_STEPS))
    return table


def summary(job: Job, rounds: list[dict[str, float]], reference: list[float]) -> dict[str, Any]:
    """Medians per image, and the ratio of the reference to the sum of the stages in each round."""
    count = len(job.records)
    sums = [sum(found[stage] for stage in STAGES) for found in rounds]
    return {
        "name": job.name,
        "encoding": job.encoding.label,
        "simd": job.level,
        **{stage: median(found[stage] for found in rounds) / count for stage in (*STAGES, *BESIDE, *RECIPE_STEPS)},
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
        out = np.zeros(CANVAS_BYTES, np.uint8)
        reference: list[float] = []
        times: list[list[dict[str, float]]] = [[] for _ in jobs]
        for _ in track(range(rounds), "Measuring", console=console, transient=True):
            reference.append(testing.decode_loop(files, 1))
            for job, found in zip(jobs, times, strict=True):
                found.append(job.measure(out))
        found = [summary(job, measured, reference) for job, measured in zip(jobs, times, strict=True)]
        packing = packing_time(files)
    console.print(as_table(found))
    console.print(recipe_table(found))
    bare = 1000 * median(reference) / len(files)
    console.print(f"Bare RGB decode {bare:.2f} ms; packing a JPEG as dct {1000 * packing:.1f} ms.", highlight=False)
    if json_file:
        json_file.write_text(json.dumps({"stages": found, "packing": packing}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
