"""The plan command: size and speed of each way to store a dataset."""

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
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    split: Annotated[list[str] | None, typer.Option(help="Measure only this split; repeatable.")] = None,
    format: Annotated[Format | None, typer.Option(help="Dataset format (detected by default).")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Number of randomly chosen images to measure.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads. Default: one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Plot bytes against images/s.")] = None,
) -> None:
    """Estimate size, build time and speed of each encoding and image size from a sample of a dataset."""
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
            console.print(f"Plot: {plot}", soft_wrap=True, markup=False, highlight=False)


def _print_advice(advice: Advice) -> None:
    print_table(
        f"{advice.images:,} images, from a sample of {advice.sampled}. Speed: short edge {SHORT_EDGE}, at most "
        f"{LONG_EDGE}, flip, batches of {BATCH_SIZE}, {advice.threads} threads",
        ("", "size", "build", "images/s", "PSNR", "fits"),
        [_row(option) for option in advice.options],
    )
    free = f"{human_bytes(advice.free_disk)} of disk and {human_bytes(advice.free_memory)} of memory are free"
    console.print(f"{free}. PSNR: against the original, in dB; exact: bit-identical.", soft_wrap=True, highlight=False)
    best = max((option for option in advice.options if option.fits_disk), key=_merit, default=None)
    if best is not None:
        console.print(f"Fastest lossless option: fastload build-cache DATASET {best.command}", soft_wrap=True)


def _merit(option: Option) -> tuple[bool, bool, float]:
    """Lossless options first, then those that fit in memory, then the fastest."""
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
