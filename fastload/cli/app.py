"""The `fastload` command: parses arguments and prints results; other packages do the work."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from fastload.annotations import SCHEMA, Column
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.read.summary import Summary, summarize
from fastload.cache.read.verify import advice, verify_cache, verify_sources
from fastload.cli.caches import build_cache_command, convert_cache_command
from fastload.cli.plan import plan_command
from fastload.errors import FastloadError
from fastload.tools.doctor import examine
from fastload.tools.progress import show_progress
from fastload.tools.sample import make_sample
from fastload.tools.tables import console, print_table
from fastload.tools.text import escaped

app = typer.Typer(
    help="Build, inspect and verify the dataset caches that FastLoader reads.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("build-cache")(build_cache_command)
app.command("convert-cache")(convert_cache_command)
app.command("plan")(plan_command)
LISTED = 20  # damaged images named individually

CachePath = Annotated[Path, typer.Argument(metavar="CACHE", help="Cache file, such as coco/fastload/train2017.lmdb.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of threads. Default: one per core.")]


class Align(str, Enum):
    """Position of images on a batch's canvas."""

    TOP_LEFT = "top-left"
    CENTER = "center"
    RANDOM = "random"


@app.command()
def info(cache: CachePath) -> None:
    """Print a summary of a cache: counts, bytes of images and annotations, colors, distributions of sizes, classes."""
    opened = CacheFile(cache)
    summary = summarize(opened)
    source = opened.manifest.source
    print_table(
        str(cache),
        ("", ""),
        [
            ("images", f"{summary.images:,} ({summary.images_without_boxes:,} without boxes)"),
            ("boxes", f"{summary.boxes:,} ({summary.crowds:,} of them crowds)"),
            *_colors(summary),
            ("encodings", _counted(summary)),
            ("bytes", f"{summary.bytes:,}"),
            ("built from", f"{source.get('format')}: {source.get('location')}"),
            ("fingerprint", opened.fingerprint),
        ],
    )
    _print_bytes(summary, opened.store.columns)
    _print_distributions(summary)
    rows = [(name.name, f"{name.boxes:,}", f"{name.images:,}") for name in summary.classes]
    print_table("classes", ("class", "boxes", "images"), rows)


def _colors(summary: Summary) -> list[tuple[str, str]]:
    """Rows with the values for `Normalize`, and the way to get them if they are unknown."""
    if summary.color is None:
        return [("mean, std of RGB", "unknown: fastload build-cache DATASET --overwrite stores them")]
    return [
        (f"{name} of RGB, levels", ", ".join(f"{value:.2f}" for value in values))
        for name, values in summary.color._asdict().items()
    ]


def _counted(summary: Summary) -> str:
    counts, sizes = summary.encodings, summary.encoding_bytes
    return "; ".join(f"{name}: {counts[name]:,} images, {sizes[name]:,} bytes" for name in counts)


def _print_bytes(summary: Summary, extra: Sequence[Column]) -> None:
    """Print what the bytes of the file are: images, each column of annotations, and all else."""
    sizes = [("images", "", summary.encoding_bytes.total())]
    sizes += [(column.name, column.dtype, summary.column_bytes[column.name]) for column in (*SCHEMA, *extra)]
    sizes.append(("other", "", summary.bytes - sum(size for *_, size in sizes)))  # names, ids, the file's tree
    rows = [(name, dtype, f"{size:,}", f"{size / max(summary.images, 1):,.1f}") for name, dtype, size in sizes]
    print_table("bytes", ("", "type", "bytes", "an image"), rows)


def _print_distributions(summary: Summary) -> None:
    header = ("", "min", "25 %", "median", "75 %", "max")
    rows = [(name, *(f"{value:,.4g}" for value in values)) for name, values in summary.distributions.items() if values]
    print_table("distributions", header, rows)


@app.command()
def verify(
    cache: CachePath,
    sources: Annotated[
        bool, typer.Option("--sources", help="Instead, list source files that have changed since the build.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Verify every checksum of a cache and decode every image. Exits with status 1 if anything is damaged."""
    if sources:
        _verify_sources(cache)
        return
    with show_progress("verify") as progress:
        damage = verify_cache(cache, workers, progress)
    if not damage:
        console.print(f"{cache} is sound: {len(CacheFile(cache)):,} images.", soft_wrap=True, markup=False)
        return
    for found in damage[:LISTED]:
        console.print(f"image {found.image_id} ({escaped(found.name)}): {found.reason}", soft_wrap=True, markup=False)
    if len(damage) > LISTED:
        console.print(f"... and {len(damage) - LISTED} more")
    console.print(
        f"{len(damage)} images of {cache} are damaged. {advice(cache)}", style="bold red", soft_wrap=True, markup=False
    )
    raise typer.Exit(1)


def _verify_sources(cache: Path) -> None:
    changed = verify_sources(cache)
    if not changed:
        console.print(f"The source files of {cache} have not changed.", soft_wrap=True, markup=False)
        return
    for path, kind in changed:
        console.print(f"{kind}: {escaped(path)}", soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"{len(changed)} source files of {cache} have changed since it was built. To store the new versions, run the "
        "`fastload build-cache` that built it again.",
        style="bold red",
        soft_wrap=True,
        markup=False,
    )
    raise typer.Exit(1)


@app.command()
def view(
    cache: CachePath,
    index: Annotated[list[int] | None, typer.Option(help="Position of an image to show; repeatable.")] = None,
    image_id: Annotated[list[int] | None, typer.Option(help="Id of an image to show; repeatable.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="File name of an image to show; repeatable.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Number of random images, if none is named.")] = 16,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed of that choice.")] = None,
    batch: Annotated[bool, typer.Option("--batch/--raw", help="Show loader batches, or images as stored.")] = False,
    align: Annotated[Align, typer.Option(help="With --batch: position of images on the canvas.")] = Align.TOP_LEFT,
    recipe: Annotated[str | None, typer.Option(help="Show what a published recipe makes of them: yolox, ...")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="With --recipe: epoch of its schedule.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="With --recipe: epochs of the whole training.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Output file.")] = Path("contact-sheet.png"),
) -> None:
    """Draw images of a cache with their boxes and class names on a contact sheet."""
    from fastload.cache.read.cache import Cache  # needs torch, which takes two seconds
    from fastload.plan.align import CenterAlign, RandomAlign, TopLeftAlign
    from fastload.recipes import recipe_named
    from fastload.tools.contact_sheet import choose, save, view, view_recipe

    collators = {Align.TOP_LEFT: TopLeftAlign, Align.CENTER: CenterAlign, Align.RANDOM: RandomAlign}
    opened = Cache(cache)
    chosen = choose(opened, index or [], image_id or [], name or [], images, seed)
    if recipe is not None:
        settings = {} if epochs is None else {"epochs": epochs}
        save(view_recipe(opened, chosen, recipe_named(recipe, **settings), epoch, seed), out)
    else:
        save(view(opened, chosen, collators[align]() if batch else None), out)
    console.print(f"{out} shows {len(chosen)} images of {cache}.", soft_wrap=True, markup=False, highlight=False)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to create.")],
    images: Annotated[int, typer.Option(min=2, help="Number of images.")] = 300,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Random seed of the images.")] = 0,
) -> None:
    """Generate a sample dataset in COCO layout: photo-like images, eight classes, crowds and segmentations."""
    with show_progress("sample set") as progress:
        made = make_sample(folder, images, seed, progress)
    console.print(f"{made} holds {images} images. Next: fastload build-cache {folder}", soft_wrap=True, markup=False)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Output folder.")] = Path("fastload-demo"),
    images: Annotated[int, typer.Option(min=2, help="Number of sample images; 4 of 5 are used for the race.")] = 300,
) -> None:
    """Generate a sample dataset, build its cache, race FastLoader against torch's DataLoader, and draw a batch."""
    from fastload.tools.demo import BATCH_SIZE, WORKERS, run_demo  # needs torch, which takes two seconds

    found = run_demo(folder, images)
    print_table(
        f"short edge 512, flip, pad, batches of {BATCH_SIZE}, {WORKERS} workers",
        ("", "images/s", "times as fast"),
        [
            ("torch DataLoader, Pillow", f"{found.usual:,.0f}", "1.0"),
            ("fastload FastLoader", f"{found.fast:,.0f}", f"{found.fast / found.usual:.1f}"),
        ],
    )
    console.print(f"A batch with its boxes: {found.picture}", soft_wrap=True, markup=False, highlight=False)
    console.print("Next, your own data: [bold]fastload build-cache COCO_FOLDER[/], and in your training script")
    console.print("  [red]- loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=8, ...)[/]")
    line = f'  + loader = FastLoader("{found.cache}", batch_size=16, shuffle=True, num_workers=8, ...)'
    console.print(line, style="green", soft_wrap=True, markup=False, highlight=False)


@app.command()
def doctor() -> None:
    """List what fastload uses on this machine, what is missing, and the command that installs it."""
    findings = examine()
    for finding in findings:
        sign = "[green]ok     [/]" if finding.found else "[red]MISSING[/]" if finding.needed else "[yellow]none   [/]"
        text = escape(f"{finding.what}: {finding.found or finding.fix}")
        console.print(f"{sign} {text}", soft_wrap=True, highlight=False)
    if any(finding.needed and not finding.found for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line. A FastloadError is printed as one line; the exit status is then 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal's encoding does not
    try:
        app()
    except FastloadError as error:
        Console(stderr=True).print(Text.assemble(("fastload: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)
