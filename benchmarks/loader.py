"""Measures the speed of loaders as a ratio to a bare libjpeg-turbo decode loop with the same number of threads.

    python benchmarks/loader.py coco/                          # the training split of a dataset
    python benchmarks/loader.py coco/val2017 --json r.json     # another split
    python benchmarks/loader.py coco/ --only fastload-dct      # some contenders; --peers adds other loaders
    python benchmarks/loader.py coco/ --readme                 # README's table and chart as well
    python benchmarks/loader.py coco/ --dtype bfloat16         # also FastLoader's floating-point batches
    python benchmarks/loader.py coco/ --memory                 # memory over 20 epochs instead

Machines are noisy and their clocks drift. So the reference runs before and after every epoch of a contender, the ratio
is to the mean of the two, and the result is the median over interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from contenders import CONTENDERS, Contender, FastLoaderDct, FastLoaderOriginal, Work, in_dtype
from gil import gil_seconds
from machine import machine
from memory import print_memory
from peers import BY_NAME, PEERS, check_installed
from pictures import open_pictures
from readme import README, update_readme
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fastload._core import testing
from fastload.cache.format.layout import Encoding
from fastload.tools.baseline import LONG_EDGE, SHORT_EDGE

console = Console()


@dataclass
class Rounds:
    """The measurements of a contender, one number per round."""

    bytes_per_image: float
    note: str = ""
    speeds: list[float] = field(default_factory=list)  # images/s
    ratios: list[float] = field(default_factory=list)  # to the reference around it
    gil_seconds: list[float] = field(default_factory=list)  # held by the consuming thread, per image


def main() -> None:
    options = _arguments()
    kinds = _chosen(options)
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        work = prepare(options, Path(scratch))
        for name, value in machine().items():
            console.print(f"[dim]{name}:[/] {value}", highlight=False)
        if options.memory:
            for kind in kinds if options.only else [FastLoaderDct]:
                print_memory(kind(work), console)
            return
        reference, results = run(work, kinds, options.rounds)
    print_results(reference, results, work)
    if options.dtype:
        print_cost_of(options.dtype, results)
    found = as_json(reference, results)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.readme:
        update_readme(options.readme, found, measured_how(work, options.rounds))


def prepare(options: argparse.Namespace, scratch: Path) -> Work:
    """List the images of an epoch."""
    pictures = open_pictures(options.data, scratch, console)
    count = options.images or max(len(pictures.samples), 1024)
    order = list(islice(cycle(range(len(pictures.samples))), count))
    return Work(pictures, order, options.batch_size, options.threads)


def run(work: Work, kinds: Sequence[type[Contender]], rounds: int) -> tuple[list[float], dict[str, Rounds]]:
    """Run interleaved rounds; returns the reference's images/s and the measurements of each contender."""
    original = work.pictures.cache(Encoding.ORIGINAL)
    files = [bytes(record.data) for record in original.records()]
    jpegs = [files[i] for i in work.order]
    contenders = [kind(work) for kind in kinds]
    results = {contender.name: Rounds(contender.bytes_per_image(), contender.note) for contender in contenders}
    with Progress(
        console=console, transient=True, auto_refresh=False
    ) as bars:  # a refresh thread would take the GIL and cache space
        task = bars.add_task("Warming up", total=(rounds + 2) * len(contenders))
        for contender in contenders * 2:  # twice, since worker processes started late share pages, copied on write
            warm_up(contender, len(work.order))
            bars.update(task, advance=1, refresh=True)
        reference = [decode_speed(jpegs, work.threads)]
        for number in range(1, rounds + 1):
            for contender in contenders:
                bars.update(task, description=f"Round {number} of {rounds}: {contender.name}", refresh=True)
                speed, gil = epoch(contender, len(work.order))
                reference.append(decode_speed(jpegs, work.threads))
                found = results[contender.name]
                found.speeds.append(speed)
                found.ratios.append(speed / mean(reference[-2:]))
                found.gil_seconds.append(gil)
                bars.update(task, advance=1)
    return reference, results


def measured_how(work: Work, rounds: int) -> str:
    """How README's figures were measured, in a sentence or two."""
    here = machine()
    return (
        f"Measured on {here['processor']} ({here['cores']} cores, {here['vector instructions']}) with "
        f"{work.threads} threads or worker processes, in batches of {work.batch_size}: {len(work.order)} images an "
        f"epoch of {work.pictures.name}, short edge {SHORT_EDGE}, long edge at most {LONG_EDGE}, flipped at random, "
        f"padded; median of {rounds} interleaved rounds, each beside a loop that only decodes JPEGs. "
        f"{here['software']}."
    )


def warm_up(contender: Contender, images: int) -> None:
    """Run an epoch, and check that all images come."""
    seen = sum(len(batch) for batch, _ in contender.batches())
    if seen != images:
        raise RuntimeError(f"{contender.name} gave {seen} images instead of {images}")


def epoch(contender: Contender, images: int) -> tuple[float, float]:
    """Images/s of one epoch, and CPU seconds per image for which this thread held the GIL."""
    start, gil = time.perf_counter(), gil_seconds()
    for _batch, _targets in contender.batches():
        pass
    return images / (time.perf_counter() - start), (gil_seconds() - gil) / images


def decode_speed(jpegs: list[bytes], threads: int) -> float:
    """The reference: images/s of decoding to RGB and nothing else."""
    return len(jpegs) / testing.decode_loop(jpegs, threads)


def as_json(reference: list[float], results: dict[str, Rounds]) -> dict[str, Any]:
    contenders = {
        name: {
            "ratio": median(found.ratios),
            "images_per_second": median(found.speeds),
            "range": [min(found.ratios), max(found.ratios)],
            "bytes_per_image": found.bytes_per_image,
        }
        for name, found in results.items()
    }
    return {"reference": median(reference), "contenders": contenders}


def print_results(reference: list[float], results: dict[str, Rounds], work: Work) -> None:
    table = Table(title=f"{len(work.order)} images an epoch, batches of {work.batch_size}, {work.threads} threads")
    table.add_column("", no_wrap=True)
    for heading in ("ratio", "range", "images/s", "KB/image", "GIL, µs/image"):
        table.add_column(heading, justify="right")
    table.add_row("libjpeg-turbo alone", "1.00", "", f"{median(reference):.0f}", "", "")
    for name, found in results.items():
        table.add_row(
            name,
            f"[bold]{median(found.ratios):.2f}[/]",
            f"{min(found.ratios):.2f} to {max(found.ratios):.2f}",
            f"{median(found.speeds):.0f}",
            f"{found.bytes_per_image / 1000:.0f}",
            f"{1e6 * median(found.gil_seconds):.1f}",
        )
    console.print(table)
    for name, found in results.items():
        if found.note:
            console.print(f"[dim]{name}: {found.note}[/]", highlight=False)
    console.print(
        "[dim]ratio: median over rounds, each to the reference runs before and after it. GIL: CPU time for which the "
        "consuming thread holds it (of other loaders that thread's whole CPU time, which may be a little more). Only "
        "FastLoader groups images by shape, as its default is.[/]"
    )


def print_cost_of(dtype: str, results: dict[str, Rounds]) -> None:
    """Print the speed of contenders with batches of `dtype`, compared with uint8 batches in the same round."""
    for name, found in results.items():
        if (floats := results.get(f"{name}-{dtype}")) is None:
            continue
        shares = [one / other for one, other in zip(floats.ratios, found.ratios, strict=True)]
        console.print(
            f"{name}: {dtype} batches at [bold]{median(shares):.2f}[/] of the images/s of uint8 ones "
            f"({min(shares):.2f} to {max(shares):.2f})",
            highlight=False,
        )


def _chosen(options: argparse.Namespace) -> list[type[Contender]]:
    kinds = [kind for kind in CONTENDERS if options.only is None or kind.name in options.only]
    if options.dtype:
        dtype = getattr(torch, options.dtype)
        kinds = [
            each
            for kind in kinds
            for each in ((kind, in_dtype(kind, dtype)) if issubclass(kind, FastLoaderOriginal) else (kind,))
        ]
    kinds += [BY_NAME[name] for name in options.peers]
    check_installed(kinds)
    return kinds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a dataset's folder, or the image folder of one of its splits")
    parser.add_argument("--threads", type=int, default=2, help="threads, or worker processes; default 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, help="images an epoch; default: all, repeated to 1024 if they are fewer")
    names = [[kind.name for kind in kinds] for kinds in (CONTENDERS, PEERS)]
    parser.add_argument("--only", nargs="+", choices=names[0], metavar="NAME", help=f"of: {', '.join(names[0])}")
    parser.add_argument("--peers", nargs="+", choices=names[1], default=[], metavar="NAME", help=", ".join(names[1]))
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="run FastLoader's contenders in this dtype as well"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument(
        "--readme", type=Path, nargs="?", const=README, metavar="FILE", help="rewrite its figures and chart"
    )
    parser.add_argument("--memory", action="store_true", help="show FastLoader's memory over 20 epochs instead")
    options = parser.parse_args()
    if options.dtype and options.readme:
        parser.error("README's figures are of uint8 batches: leave out --dtype or --readme")
    return options


if __name__ == "__main__":
    main()
