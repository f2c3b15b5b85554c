"""The commands that make caches, from datasets and from one another."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fastload.cache.format.layout import Encoding
from fastload.cache.format.problems import problems_path
from fastload.cache.write.assemble import BuildReport
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.cache.write.resize import Reduction
from fastload.sources.base import SKIPPED
from fastload.sources.detect import Dataset, Format, coco_dataset, find_datasets
from fastload.tools.progress import show_progress
from fastload.tools.tables import console, print_table


class EncodingName(str, Enum):
    """`layout.Encoding` on the command line."""

    ORIGINAL = "original"
    DCT = "dct"
    DCT_FAST = "dct-fast"
    PLANES = "planes"


class SubsamplingName(str, Enum):
    """`reduce.SUBSAMPLINGS` on the command line."""

    S444 = "444"
    S422 = "422"
    S420 = "420"


Short = Annotated[int | None, typer.Option(min=1, help="Shrink pictures: the shorter edge to so many pixels at most.")]
MaxSize = Annotated[int | None, typer.Option(min=1, help="Shrink pictures: the longer edge to so many pixels at most.")]
Quality = Annotated[int | None, typer.Option(min=1, max=100, help="Encode pictures anew as JPEGs of this quality.")]
ChromaSubsampling = Annotated[SubsamplingName | None, typer.Option(help="Encode pictures anew with such chroma.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads. Default: one for every core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace caches built from something else.")]


def build_cache_command(
    dataset: Annotated[Path | None, typer.Argument(help="The folder of a dataset.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where caches go: a folder, or a file X.lmdb for a single split. Default: DATASET/fastload."),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="A COCO annotation file; needs --images.")] = None,
    images: Annotated[Path | None, typer.Option(help="The image folder of --annotations.")] = None,
    format: Annotated[Format | None, typer.Option(help="What DATASET is. Default: found out.")] = None,
    encoding: Annotated[
        EncodingName,
        typer.Option(help="dct: fastest at a JPEG's size; dct-fast, planes: larger, for fast disks and memory."),
    ] = EncodingName.DCT,
    short: Short = None,
    max_size: MaxSize = None,
    quality: Quality = None,
    subsampling: ChromaSubsampling = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:TYPE]", help="Keep a further field of annotations or images; may be repeated."),
    ] = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when an image has to be left out.")] = False,
    exif_rotate: Annotated[
        bool,
        typer.Option("--exif-rotate", help="Turn pictures upright as EXIF says, for boxes drawn on upright pictures."),
    ] = False,
) -> None:
    """Build the cache of every split of a dataset (COCO, Pascal VOC, YOLO, or a folder of pictures).

    Run it again to carry on after an interruption. Images that cannot go in are listed in X.problems.jsonl.
    """
    reduction = _reduction(short, max_size, quality, subsampling)
    options = BuildOptions(Encoding[encoding.name], reduction, exif_rotate, workers, overwrite, strict)
    datasets = _chosen_datasets(dataset, annotations, images, format, split or [], column or [])
    for each, path in zip(datasets, _cache_paths(datasets, out), strict=True):
        if each.missing:
            console.print(f"[yellow]{each.split} is skipped:[/] {escape(each.missing)}", soft_wrap=True)
            continue
        _build_one(each, path, options)


def convert_cache_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The cache to convert.")],
    out: Annotated[Path, typer.Argument(metavar="DST", help="The cache to make.")],
    encoding: Annotated[EncodingName, typer.Option(help="The encoding of DST.")],
    short: Short = None,
    max_size: MaxSize = None,
    quality: Quality = None,
    subsampling: ChromaSubsampling = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a cache of another encoding, or with smaller pictures, from a cache alone.

    Run it again to carry on after an interruption. Without --short, --max-size, --quality and --subsampling no pixel
    changes. Planes have no way back: from them only planes can be made.
    """
    reduction = _reduction(short, max_size, quality, subsampling)
    options = ReencodeOptions(Encoding[encoding.name], reduction, workers, overwrite)
    with show_progress(out.stem) as progress:
        report = transcode_cache(source, out, options, progress)
    _print_report(out.stem, report)


def _reduction(
    short: int | None, max_size: int | None, quality: int | None, subsampling: SubsamplingName | None
) -> Reduction:
    return Reduction(short, max_size, quality, None if subsampling is None else subsampling.value)


def _chosen_datasets(
    root: Path | None,
    annotations: Path | None,
    images: Path | None,
    format: Format | None,
    splits: list[str],
    columns: list[str],
) -> list[Dataset]:
    if (annotations is None) != (images is None):
        raise typer.BadParameter("--annotations and --images go together")
    if annotations is not None and images is not None:
        if root is not None or splits or format not in (None, Format.COCO):
            raise typer.BadParameter("--annotations is instead of DATASET, --split and --format")
        return [coco_dataset(annotations, images, columns)]
    if root is None:
        raise typer.BadParameter("say which DATASET, or give --annotations with --images")
    return find_datasets(root, format, splits, columns)


def _cache_paths(datasets: list[Dataset], out: Path | None) -> list[Path]:
    if out is None:
        return [dataset.cache for dataset in datasets]
    if out.suffix != ".lmdb":
        return [out / dataset.cache.name for dataset in datasets]
    if len(datasets) > 1:
        raise typer.BadParameter(f"{out} is one file for {len(datasets)} splits: name a folder, or one --split")
    return [out]


def _build_one(dataset: Dataset, path: Path, options: BuildOptions) -> None:
    with console.status(f"{dataset.split}: reading annotations"):
        source = dataset.load()
    with show_progress(dataset.split) as progress:
        report = build_cache(source, path, options, progress)
    _print_report(dataset.split, report)


def _print_report(split: str, report: BuildReport) -> None:
    if report.restarted:
        console.print(f"[yellow]{escape(split)}: an unfinished build of something else was there; began afresh.[/]")
    if report.resumed:
        console.print(f"{split}: carried on after {report.resumed} images of an interrupted build.", markup=False)
    title = f"{report.path}" if report.built else f"{report.path} is up to date"
    rows = [
        ("images", f"{report.images:,}"),
        ("boxes", f"{report.boxes:,}"),
        ("classes", f"{report.categories:,}"),
        ("bytes", f"{report.bytes:,}"),
        ("seconds", f"{report.seconds:.1f}"),
        ("problems", f"{report.problems.total():,}"),
    ]
    print_table(title, ("", ""), rows)
    if skipped := report.problems[SKIPPED]:
        console.print(f"[bold red]{skipped} images were skipped.[/]", highlight=False)
    if report.problems:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(report.problems.items()))
        console.print(f"{counts}: {problems_path(report.path)} says why.", soft_wrap=True, markup=False)
