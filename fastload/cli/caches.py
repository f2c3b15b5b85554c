"""The commands that write caches: build-cache and convert-cache."""

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
from fastload.sources.base import SKIPPED, Dataset, Extras
from fastload.sources.detect import Format, find_datasets
from fastload.sources.pairs import paired_dataset
from fastload.tools.progress import show_progress
from fastload.tools.tables import console, print_table
from fastload.tools.text import escaped


class EncodingName(str, Enum):
    """`layout.Encoding` on the command line."""

    ORIGINAL = "original"
    DCT = "dct"
    DCT_FAST = "dct-fast"
    PLANES = "planes"


class SubsamplingName(str, Enum):
    """`resize.SUBSAMPLINGS` on the command line."""

    S444 = "444"
    S422 = "422"
    S420 = "420"


Short = Annotated[int | None, typer.Option(min=1, help="Downscale images: maximum shorter edge, in pixels.")]
MaxSize = Annotated[int | None, typer.Option(min=1, help="Downscale images: maximum longer edge, in pixels.")]
Quality = Annotated[int | None, typer.Option(min=1, max=100, help="Re-encode images as JPEGs of this quality.")]
ChromaSubsampling = Annotated[SubsamplingName | None, typer.Option(help="Re-encode with this chroma subsampling.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of threads. Default: one per core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing cache of other data or settings.")]


def build_cache_command(
    dataset: Annotated[Path | None, typer.Argument(help="Dataset folder, or the YAML file of a YOLO dataset.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder, or a file X.lmdb for a single split. Default: DATASET/fastload."),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Build only this split; repeatable.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="Annotations of any format, instead of DATASET.")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Image folder of --annotations.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Class names of --annotations, one a line (YOLO: or its YAML file)."),
    ] = None,
    format: Annotated[Format | None, typer.Option(help="Dataset format (detected by default).")] = None,
    encoding: Annotated[
        EncodingName,
        typer.Option(help="dct: the size of JPEG; dct-fast, planes: larger, faster from memory and fast disks."),
    ] = EncodingName.DCT,
    short: Short = None,
    max_size: MaxSize = None,
    quality: Quality = None,
    subsampling: ChromaSubsampling = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:TYPE]", help="Also store this field of annotations or images; repeatable."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Also store polygons and masks of objects (COCO).")] = False,
    keypoints: Annotated[bool, typer.Option("--keypoints", help="Also store keypoints of objects (COCO).")] = False,
    workers: Workers = None,
    overwrite: Overwrite = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if an image must be skipped.")] = False,
    exif_rotate: Annotated[
        bool,
        typer.Option("--exif-rotate", help="Apply EXIF rotation, for boxes annotated on rotated images."),
    ] = False,
) -> None:
    """Build a cache for each split of a dataset, or of --annotations with --images.

    Run it again to resume an interrupted build. Converted and skipped images are listed in X.problems.jsonl.
    """
    reduction = _reduction(short, max_size, quality, subsampling)
    options = BuildOptions(Encoding[encoding.name], reduction, exif_rotate, workers, overwrite, strict)
    extras = Extras(column or [], masks, keypoints)
    datasets = _chosen_datasets(dataset, annotations, images, classes, format, split or [], extras)
    for each, path in zip(datasets, _cache_paths(datasets, out), strict=True):
        if each.missing:
            console.print(f"[yellow]{escape(each.split)} is skipped:[/] {escape(each.missing)}", soft_wrap=True)
            continue
        _build_one(each, path, options, alone=len(datasets) == 1)


def convert_cache_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Cache to convert.")],
    out: Annotated[Path, typer.Argument(metavar="DST", help="Cache to write.")],
    encoding: Annotated[EncodingName, typer.Option(help="Encoding of DST.")],
    short: Short = None,
    max_size: MaxSize = None,
    quality: Quality = None,
    subsampling: ChromaSubsampling = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a cache to another encoding, or to smaller images, without the source dataset.

    Run it again to resume an interrupted conversion. Pixels change only with --short, --max-size, --quality or
    --subsampling. A cache of planes can only be converted to planes.
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
    classes: Path | None,
    format: Format | None,
    splits: list[str],
    extras: Extras,
) -> list[Dataset]:
    if annotations is not None or images is not None:
        if root is not None or splits:
            raise typer.BadParameter("--annotations and --images replace DATASET and --split: give one or the other")
        return [paired_dataset(annotations, images, format, classes, *extras)]
    if classes is not None:
        raise typer.BadParameter("--classes needs --annotations or --images")
    if root is None:
        raise typer.BadParameter("give DATASET, or --annotations with --images")
    return find_datasets(root, format, splits, *extras)


def _cache_paths(datasets: list[Dataset], out: Path | None) -> list[Path]:
    if out is None:
        return [dataset.cache for dataset in datasets]
    if out.suffix != ".lmdb":
        return [out / dataset.cache.name for dataset in datasets]
    if len(datasets) > 1:
        raise typer.BadParameter(f"{out} is one file for {len(datasets)} splits: give a folder, or one --split")
    return [out]


def _build_one(dataset: Dataset, path: Path, options: BuildOptions, alone: bool) -> None:
    with console.status(f"{dataset.split}: reading annotations"):
        source = dataset.load()
    if not alone and not len(source):
        console.print(f"[yellow]{escape(dataset.split)} is skipped:[/] it lists no images.", soft_wrap=True)
        return
    with show_progress(dataset.split) as progress:
        report = build_cache(source, path, options, progress)
    _print_report(dataset.split, report)


def _print_report(split: str, report: BuildReport) -> None:
    if report.restarted:
        console.print(f"[yellow]{escape(split)}: discarded an unfinished build of other data or settings.[/]")
    if report.resumed:
        console.print(f"{split}: resumed an interrupted build after {report.resumed} images.", markup=False)
    if report.changed:
        console.print(f"{split}: {report.changed} image files had changed, and were read again.", markup=False)
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
    for note in report.notes:
        console.print(f"{escaped(note)}.", soft_wrap=True, markup=False, highlight=False)
    if skipped := report.problems[SKIPPED]:
        console.print(f"[bold red]{skipped} images were skipped.[/]", highlight=False)
    if report.problems:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(report.problems.items()))
        console.print(f"{counts}: see {problems_path(report.path)}.", soft_wrap=True, markup=False)
