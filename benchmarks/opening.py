"""Measures seconds and memory of opening a large cache: of the file alone, and up to a loader's first batch.

python benchmarks/opening.py                                        # 1,000,000 images with 7 boxes each; 5 GB of disk
python benchmarks/opening.py --images 10000 --boxes 20
python benchmarks/opening.py --cache coco/fastload/train2017.lmdb   # an existing cache

The cache is made of tiny images in a temporary folder, and is in the page cache when it is opened. Each figure comes
from a separate process. Memory is the peak growth of its resident set, including mapped pages.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fastload.cache.format.layout import Encoding
from fastload.cache.format.manifest import Manifest, describe_arrays
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.write.assemble import fill
from fastload.cache.write.checked_image import admit
from fastload.cache.write.ingest import IngestedImage, encode, make_entry
from fastload.cache.write.writer import CacheWriter
from fastload.sources.base import Category

KINDS = 64  # of images, and of their boxes
CATEGORIES = tuple(Category(id, f"class {id}", "") for id in range(1, 81))
console = Console()


def main() -> None:
    options = _arguments()
    if options.measure:
        print(json.dumps(WAYS[options.measure](options.cache)))
        return
    from machine import machine  # needs torch, whose memory is not to be measured

    for name, value in machine().items():
        console.print(f"[dim]{name}:[/] {value}", highlight=False)
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        path = options.cache or make_cache(Path(scratch) / "opened.lmdb", options.images, options.boxes, options.side)
        found = {way: [measure(way, path) for _ in range(options.repeats)] for way in WAYS}
        print_results(found, CacheFile(path))


def make_cache(path: Path, images: int, boxes: int, side: int) -> Path:
    """Make a cache of `images` images of noise, `side` pixels wide, with `boxes` boxes each."""
    rng = np.random.default_rng(0)
    made = [_outcome(rng, boxes, side) for _ in range(KINDS)]

    def outcomes() -> Iterator[IngestedImage]:
        for i in range(images):
            outcome = made[i % KINDS]
            assert outcome.entry is not None
            yield replace(outcome, entry=replace(outcome.entry, image_id=images - i, name=f"train/{i:012}.jpg"))

    job = {"format": "benchmark", "images": images}
    with (
        CacheWriter.locked(path.with_name(path.name + ".partial"), job) as unfinished,
        Progress(transient=True) as bars,
    ):
        task = bars.add_task(f"Making {images:,} images")
        fill(unfinished, outcomes(), images, lambda done, total: bars.update(task, completed=done, total=total))
        index = unfinished.index()
        source = {**job, "location": "noise"}
        manifest = Manifest("original", images, images * boxes, CATEGORIES, source, describe_arrays(index))
        unfinished.finish(index, manifest, path)
    return path


def _outcome(rng: np.random.Generator, boxes: int, side: int) -> IngestedImage:
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(stream, "JPEG", quality=90, subsampling=0)
    record, _ = encode(admit(stream.getvalue()), Encoding.ORIGINAL)
    low = rng.uniform(0, side / 2, (boxes, 2))
    corners = np.concatenate([low, low + rng.uniform(2, side / 2, (boxes, 2))], 1).astype(np.float32)
    columns = {
        "boxes": corners,
        "label": rng.integers(0, len(CATEGORIES), boxes).astype(np.int32),
        "crowd": np.zeros(boxes, np.uint8),
        "area": (corners[:, 2:] - corners[:, :2]).prod(1),
        "annotation_id": rng.integers(0, 1 << 40, boxes),
    }
    return IngestedImage(record, make_entry(record, 0, "", (side, side), columns), [])


def measure(way: str, path: Path) -> tuple[float, float]:
    """Seconds and MB of one of WAYS, in a fresh process."""
    command = [sys.executable, __file__, "--measure", way, "--cache", str(path)]
    seconds, megabytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, megabytes


def open_file(path: Path) -> tuple[float, float]:
    """The file alone, as the command line opens it."""
    return _cost(lambda: CacheFile(path))


def first_batch(path: Path) -> tuple[float, float]:
    """Open the cache in a FastLoader, and read the first of shuffled batches."""
    from fastload import FastLoader

    return _cost(lambda: next(iter(FastLoader(path, batch_size=16, shuffle=True, num_workers=2))))


def choose_images(path: Path) -> tuple[float, float]:
    """Select the images with boxes by image id, and read the first batch."""
    from fastload import Cache, FastLoader

    def work() -> object:
        cache = Cache(path)
        positions = np.asarray(cache.without_empty().indices)
        subset = cache.subset(cache.index_of(cache.image_ids[positions]))
        return next(iter(FastLoader(subset, batch_size=16, shuffle=True, num_workers=2)))

    return _cost(work)


WAYS: dict[str, Callable[[Path], tuple[float, float]]] = {
    "CacheFile(path)": open_file,
    "first batch of FastLoader(path)": first_batch,
    "the same of a subset": choose_images,
}


def _cost(work: Callable[[], object]) -> tuple[float, float]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = _resident("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result
    return seconds, _resident("VmHWM") - before


def _resident(name: str) -> float:
    """MB of memory, from Linux's counter `name`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1000


def print_results(found: dict[str, list[tuple[float, float]]], cache: CacheFile) -> None:
    """Print the median of the runs, one row per way of opening."""
    table = Table("", "ms", "MB", title=f"Opening a cache of {len(cache):,} images with {len(cache.boxes):,} boxes")
    for way, runs in found.items():
        seconds, megabytes = (median(values) for values in zip(*runs, strict=True))
        table.add_row(way, f"{1000 * seconds:,.1f}", f"{megabytes:,.0f}")
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--boxes", type=int, default=7, help="an image; default: 7")
    parser.add_argument("--side", type=int, default=32, help="of a picture, in pixels; 8: several share a page")
    parser.add_argument("--cache", type=Path, help="open this one instead")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
