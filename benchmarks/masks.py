"""Measures what instance masks cost: FastLoader with boxes alone and with masks, beside DataLoader with pycocotools.

    python benchmarks/masks.py coco/ --json m.json

The dataset has COCO's layout, with polygons. Images are resized to a shortest edge, and masks have the size of the
canvas. Images with an object that has no mask are skipped. DataLoader decodes and resizes with Pillow, scales the
polygons and draws them with pycocotools, in as many worker processes as FastLoader has threads; its images are not
collated. Loaders take turns in rounds; speeds are medians, and costs are medians of the differences within a round.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from PIL import Image
from pycocotools import mask as coco
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from fastload import BuildOptions, Cache, FastLoader, ShortestEdge, build_cache, find_datasets

console = Console()
FAST = {
    "boxes": {},
    "masks, packed bits": {"masks": True},
    "masks, unpacked": {"masks": True},
    "masks, stride 4": {"masks": True, "mask_stride": 4},
    "masks, boxes from masks": {"masks": True, "boxes_from_masks": True},
}
STOCK = {"DataLoader, boxes": False, "DataLoader, pycocotools": True}


@dataclass
class Rounds:
    """The measurements of a loader, one number per round."""

    ms: list[float] = field(default_factory=list)  # per image
    cpu_ms: list[float] = field(default_factory=list)  # processor time of all threads and processes, per image


class StockImages(Dataset[Any]):
    """Images with the masks that pycocotools makes of their polygons.

    Args:
        folder: the folder of the images.
        cache: has the names and annotations of the images.
        indices: the images.
        size: the shortest edge in pixels.
        masks: whether to draw masks.
    """

    def __init__(self, folder: Path, cache: Cache, indices: list[int], size: int, masks: bool) -> None:
        self.size, self.masks = size, masks
        self.samples = []
        kept: dict[int, Any] = {}
        for i in indices:
            if i not in kept:
                record = cache.record(i)
                # Lists of Python numbers, as an annotation file has them.
                polygons = [[ring.ravel().tolist() for ring in rings] for rings in record.columns["polygons"]]
                runs = [bytes(data) for data in record.columns["rle"]] if "rle" in record.columns else []
                kept[i] = folder / cache.name(i), polygons, runs or [b""] * len(polygons), record.boxes
            self.samples.append(kept[i])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        path, polygons, runs, boxes = self.samples[i]
        image = Image.open(path).convert("RGB")
        width, height = image.size
        scale = min(self.size / min(width, height), longest(self.size) / max(width, height))
        w, h = round(width * scale), round(height * scale)
        resized = torch.from_numpy(np.array(image.resize((w, h), Image.Resampling.BILINEAR)))
        target = {"boxes": torch.from_numpy(boxes * np.float32(scale))}
        if self.masks:
            masks = [
                self._mask(rings, data, (width, height), (w, h)) for rings, data in zip(polygons, runs, strict=True)
            ]
            target["masks"] = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, h, w, dtype=torch.uint8)
        return resized.permute(2, 0, 1), target

    def _mask(self, rings: list[list[float]], runs: bytes, size: tuple[int, int], to: tuple[int, int]) -> Any:
        w, h = to
        if rings:
            scale = w / size[0]
            return coco.decode(coco.merge(coco.frPyObjects([[x * scale for x in ring] for ring in rings], h, w)))
        mask = coco.decode({"size": size[::-1], "counts": runs})
        return np.array(Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST))


def longest(size: int) -> int:
    """The limit of the longest edge."""
    return size * 5 // 3


def main() -> None:
    options = _arguments()
    here = machine()
    for name, value in here.items():
        console.print(f"[dim]{name}:[/] {value}", highlight=False)
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        (dataset,) = find_datasets(str(options.data), splits=[options.split], masks=True)
        source = dataset.load()
        folder = next(iter(source.samples())).path.parent
        build_cache(source, Path(scratch) / "masks.lmdb", BuildOptions(workers=options.threads))
        cache = Cache(Path(scratch) / "masks.lmdb")
        whole = with_masks(cache)
        indices = list(islice(cycle(whole), options.images))
        objects = sum(len(cache.record(i).boxes) for i in whole) / len(whole)
        console.print(f"[dim]data:[/] {len(whole)} images, {objects:.1f} objects an image", highlight=False)
        measured = measure(cache, folder, indices, options)
    print_results(measured, options)
    if options.json:
        settings = {key: getattr(options, key) for key in ("threads", "batch_size", "rounds", "size")}
        data = {"images": len(whole), "objects_per_image": objects}
        options.json.write_text(
            json.dumps({"machine": here, **settings, "data": data, "loaders": as_json(measured)}, indent=2) + "\n"
        )


def with_masks(cache: Cache) -> list[int]:
    """The images whose objects all have a mask."""
    chosen = []
    for i in range(len(cache)):
        columns = cache.record(i).columns
        lists = [columns[name] for name in ("polygons", "rle") if name in columns]
        if lists[0] and all(any(len(shape) for shape in shapes) for shapes in zip(*lists, strict=True)):
            chosen.append(i)
    if not chosen:
        raise SystemExit("no image of the dataset has masks for all its objects: use a dataset with segmentations")
    return chosen


def measure(cache: Cache, folder: Path, indices: list[int], options: argparse.Namespace) -> dict[str, Rounds]:
    """Run interleaved rounds of all loaders."""
    transforms = [ShortestEdge(options.size, max_size=longest(options.size))]
    fast = {
        name: FastLoader(
            cache.subset(indices),
            options.batch_size,
            shuffle=True,
            num_workers=options.threads,
            transforms=transforms,
            **arguments,
        )
        for name, arguments in FAST.items()
    }
    stock = {
        name: DataLoader(
            StockImages(folder, cache, indices[: options.stock_images], options.size, masks),
            options.batch_size,
            shuffle=True,
            num_workers=options.threads,
            collate_fn=list,
        )
        for name, masks in STOCK.items()
    }
    found = {name: Rounds() for name in (*fast, *stock)}
    with Progress(console=console, transient=True, auto_refresh=False) as bars:  # a refresh thread would take the GIL
        task = bars.add_task("warming up", total=options.rounds)
        for name, loader in fast.items():
            epoch(loader, read_batch(name), Rounds())
        for number in range(1, options.rounds + 1):
            bars.update(task, description=f"round {number} of {options.rounds}", refresh=True)
            for name, loader in fast.items():
                epoch(loader, read_batch(name), found[name])
            for name, stock_loader in stock.items():
                epoch(stock_loader, len, found[name])
            bars.update(task, advance=1, refresh=True)
    return found


def read_batch(name: str) -> Callable[[Any], int]:
    """What is done with the batches of a loader; returns the number of images."""

    def read(batch: Any) -> int:
        images, targets = batch
        if name == "masks, unpacked":
            targets.masks.dense()
        return len(images)

    return read


def epoch(loader: Iterable[Any], read: Callable[[Any], int], rounds: Rounds) -> None:
    """Run one epoch, and add its measurements to `rounds`."""
    images, cpu, start = 0, _cpu_seconds(), time.perf_counter()
    for batch in loader:
        images += read(batch)
    rounds.ms.append(1e3 * (time.perf_counter() - start) / images)
    rounds.cpu_ms.append(1e3 * (_cpu_seconds() - cpu) / images)


def _cpu_seconds() -> float:
    """Processor time of this process and of worker processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def baseline_of(name: str) -> str:
    """The loader of the same kind that makes no masks."""
    return "DataLoader, boxes" if name in STOCK else "boxes"


def cost(measured: dict[str, Rounds], name: str, kind: str) -> float:
    """The median of milliseconds an image beyond boxes alone."""
    pairs = zip(getattr(measured[name], kind), getattr(measured[baseline_of(name)], kind), strict=True)
    return median(one - base for one, base in pairs)


def as_json(measured: dict[str, Rounds]) -> dict[str, Any]:
    return {
        name: {
            "images_per_second": 1e3 / median(rounds.ms),
            "rounds": [1e3 / ms for ms in rounds.ms],
            "cpu_ms": median(rounds.cpu_ms),
            "ms_beyond_boxes": cost(measured, name, "ms"),
            "cpu_ms_beyond_boxes": cost(measured, name, "cpu_ms"),
        }
        for name, rounds in measured.items()
    }


def print_results(measured: dict[str, Rounds], options: argparse.Namespace) -> None:
    table = Table(title=f"masks, shortest edge {options.size}, {options.threads} threads")
    table.add_column("", no_wrap=True)
    for heading in ("images/s", "ms/image\nbeyond boxes", "CPU\nms/image", "CPU ms/image\nbeyond boxes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rounds in measured.items():
        beyond = [f"{cost(measured, name, kind):.3f}" for kind in ("ms", "cpu_ms")]
        if name == baseline_of(name):
            beyond = ["", ""]
        table.add_row(name, f"{1e3 / median(rounds.ms):.0f}", beyond[0], f"{median(rounds.cpu_ms):.2f}", beyond[1])
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset in COCO's layout")
    parser.add_argument("--split", default="train2017", help="split (default: train2017)")
    parser.add_argument("--threads", type=int, default=2, help="threads, or worker processes (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch (default: 16)")
    parser.add_argument("--images", type=int, default=2048, help="images in an epoch of FastLoader (default: 2048)")
    parser.add_argument("--stock-images", type=int, default=400, help="images in a round of DataLoader (default: 400)")
    parser.add_argument("--size", type=int, default=640, help="shortest edge in pixels (default: 640)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
