"""The command that shows what each way of storing a dataset costs and gives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from fastload.sources.detect import Format, find_datasets
from fastload.tools.advise import BATCH_SIZE, LONG_EDGE, SHORT_EDGE, Advice, Option, advise
from fastload.tools.plot import check_plot, plot_advice
from fastload.tools.progress import show_progress
from fastload.tools.tables import console, human_bytes, print_table


def plan_command(
    dataset: Annotated[Path, typer.Argument(help="The folder of a dataset.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    format: Annotated[Format | None, typer.Option(help="What DATASET is. Default: found out.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Images to measure, chosen at random.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Default: one for every core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw bytes against images/s.")] = None,
) -> None:
    """Measure on a sample what each encoding and size of cache would cost and give for a whole dataset."""
    if plot is not None:
        check_plot(plot)
    datasets = [each for each in find_datasets(dataset, format, split or []) if not each.missing]
    sources = [each.load() for each in datasets]
    with show_progress("plan", unit="options") as progress:
        advice = advise(sources, datasets[0].cache.parent, sample, threads or os.cpu_count() or 1, progress)
    if as_json:
        print(json.dumps(advice.as_json(), indent=2))
    else:
        _print_advice(advice)
    if plot is not None:
        plot_advice(advice, plot)
        if not as_json:
            console.print(f"The same as a picture: {plot}", soft_wrap=True, markup=False, highlight=False)


def _print_advice(advice: Advice) -> None:
    print_table(
        f"{advice.images:,} images, from a sample of {advice.sampled}. Speed: short edge {SHORT_EDGE}, at most "
        f"{LONG_EDGE}, flip, batches of {BATCH_SIZE}, {advice.threads} threads",
        ("", "size", "build", "images/s", "PSNR", "fits"),
        [_row(option) for option in advice.options],
    )
    free = f"{human_bytes(advice.free_disk)} of disk and {human_bytes(advice.free_memory)} of memory are free"
    console.print(f"{free}. PSNR: to the original, in dB; exact: bit for bit.", soft_wrap=True, highlight=False)
    best = max((option for option in advice.options if option.fits_disk), key=_merit, default=None)
    if best is not None:
        console.print(f"The fastest that loses nothing: fastload build-cache DATASET {best.command}", soft_wrap=True)


def _merit(option: Option) -> tuple[bool, bool, float]:
    """Exact ones first; of them those in memory, which no disk slows down; then speed."""
    return option.psnr is None, option.fits_memory, option.images_per_second


def _row(option: Option) -> tuple[str, ...]:
    fits = "memory" if option.fits_memory else "disk" if option.fits_disk else "NO"
    psnr = "exact" if option.psnr is None else f"{option.psnr:.1f}"
    size, seconds = human_bytes(option.bytes), _duration(option.build_seconds)
    return f"{option.encoding}, {option.reduction}", size, seconds, f"{option.images_per_second:,.0f}", psnr, fits


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
