"""Measures FastLoader on classified images, compared with DataLoader + Pillow + torchvision and with FFCV.

    python benchmarks/classification.py coco/train2017 --json r.json                    # FastLoader alone
    python benchmarks/classification.py coco/train2017 --json r.json --torchvision-python a/bin/python \\
        --ffcv-python b/bin/python

DATA has a folder for each class, or is any folder of images, which are then divided into ten classes. All loaders make
uint8 batches (B, 3, 224, 224) of random resized crops, half of them flipped, from the same JPEGs: FastLoader from
caches of the encodings `dct` and `original`, and `planes` at a short edge of 256; FFCV from its own files. The others
run in environments of their own, by peers_classification.py, with as many worker processes or threads as FastLoader has
threads. Loaders take turns in rounds; speeds are medians, and ratios are of two speeds of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from gil import gil_seconds
from machine import machine
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rounds import Rounds, ratios

from fastload import BuildOptions, Cache, Encoding, FastLoader, RandomFlip, RandomResizedCrop, Reduction, build_cache
from fastload.sources.files import IMAGE_SUFFIXES
from fastload.sources.pairs import paired_dataset

CACHES = {
    "dct": BuildOptions(Encoding.DCT),
    "original": BuildOptions(Encoding.ORIGINAL),
    "planes-256": BuildOptions(Encoding.PLANES, Reduction(short=256, quality=90, subsampling="420")),
}
PEERS = Path(__file__).with_name("peers_classification.py")
FFCV = ("ffcv-q90", "ffcv-q90-500", "ffcv-raw-500")
console = Console()


class Peer:
    """A process that runs rounds of published loaders on demand."""

    def __init__(self, python: Path, folder: Path, scratch: Path, loaders: list[str], options: argparse.Namespace):
        settings = {
            "--scratch": scratch,
            "--workers": options.threads,
            "--batch-size": options.batch_size,
            "--images": options.peer_images,
        }
        words = [str(word) for pair in settings.items() for word in pair]
        self.loaders = loaders
        self._process = subprocess.Popen(
            [str(python), str(PEERS), str(folder), *words, "--loaders", *loaders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self, loader: str) -> dict[str, float]:
        """Run one round of a loader."""
        assert self._process.stdin and self._process.stdout
        try:
            print(loader, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"the loader {loader} failed ({' '.join(map(str, self._process.args))}): see above")
        found: dict[str, float] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    options = _arguments()
    here = machine()
    for name, value in here.items():
        console.print(f"[dim]{name}:[/] {value}", highlight=False)
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        folder = class_folder(options.data.resolve(), Path(scratch))
        loaders = {name: loader_of(cache_of(folder, Path(scratch), name), options) for name in options.caches}
        environments = [(options.torchvision_python, ["torchvision"]), (options.ffcv_python, list(options.ffcv))]
        peers = [Peer(python, folder, Path(scratch), names, options) for python, names in environments if python]
        try:
            found = measure(loaders, peers, options.rounds)
        finally:
            for peer in peers:
                peer.close()
    print_results(found, list(loaders))
    if options.json:
        settings = {key: getattr(options, key) for key in ("threads", "batch_size", "rounds")}
        result = {"machine": here, **settings, "loaders": as_json(found, list(loaders))}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def class_folder(data: Path, scratch: Path) -> Path:
    """`data` if it has a folder for each class; else links to its images, in ten folders."""
    images = sorted(file for file in data.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        return data
    folder = scratch / "classes"
    for i, image in enumerate(images):
        link = folder / f"class{i % 10}" / image.name
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(image, link)
        except OSError:  # another file system
            shutil.copy(image, link)
    return folder


def cache_of(folder: Path, scratch: Path, name: str) -> Cache:
    """The cache of the class folders in an encoding of CACHES."""
    path = scratch / f"{name}.lmdb"
    build_cache(paired_dataset(None, folder, "classes").load(), path, CACHES[name])
    return Cache(path)


def loader_of(cache: Cache, options: argparse.Namespace) -> FastLoader:
    """A loader of `options.images` images, repeating those of the cache."""
    return FastLoader(
        cache.subset(list(islice(cycle(range(len(cache))), options.images))),
        options.batch_size,
        shuffle=True,
        num_workers=options.threads,
        targets="class_ids",
        transforms=[RandomResizedCrop(224), RandomFlip()],
    )


def measure(loaders: dict[str, FastLoader], peers: list[Peer], rounds: int) -> dict[str, Rounds]:
    """Run interleaved rounds; returns the measurements of the published loaders and of FastLoader."""
    found = {name: Rounds() for name in [name for peer in peers for name in peer.loaders] + list(loaders)}
    with Progress(console=console, transient=True, auto_refresh=False) as bars:  # a refresh thread would take the GIL
        task = bars.add_task("warming up", total=rounds)
        bars.refresh()
        for loader in loaders.values():
            epoch(loader, Rounds())
        for peer in peers:
            for name in peer.loaders:
                peer.round(name)  # FFCV compiles its pipeline
        for number in range(1, rounds + 1):
            bars.update(task, description=f"round {number} of {rounds}", refresh=True)
            for peer in peers:
                for name in peer.loaders:
                    answer = peer.round(name)
                    found[name].images_per_second.append(answer["images_per_second"])
                    found[name].cpu_ms.append(answer["cpu_ms"])
            for name, loader in loaders.items():
                epoch(loader, found[name])
            bars.update(task, advance=1, refresh=True)
    return found


def epoch(loader: FastLoader, rounds: Rounds) -> None:
    """Run one epoch, and add its measurements to `rounds`."""
    images, gil, cpu, start = 0, gil_seconds(), time.process_time(), time.perf_counter()
    for batch, _class_ids in loader:
        images += len(batch)
    rounds.images_per_second.append(images / (time.perf_counter() - start))
    rounds.cpu_ms.append(1e3 * (time.process_time() - cpu) / images)
    rounds.gil_us.append(1e6 * (gil_seconds() - gil) / images)


def as_json(found: dict[str, Rounds], ours: list[str]) -> dict[str, Any]:
    """The medians of each loader and the speeds of all rounds; of FastLoader's, the ratios to the others."""
    result: dict[str, Any] = {}
    for name, rounds in found.items():
        speeds = rounds.images_per_second
        result[name] = {"images_per_second": median(speeds), "rounds": speeds, "cpu_ms": median(rounds.cpu_ms)}
        if name in ours:
            result[name]["gil_us"] = median(rounds.gil_us)
            others = {other: ratios(rounds, found[other]) for other in found if other not in ours}
            result[name]["ratio"] = {other: median(shares) for other, shares in others.items()}
            result[name]["range"] = {other: [min(shares), max(shares)] for other, shares in others.items()}
            result[name]["cpu_ratio"] = {other: median(found[other].cpu_ms) / median(rounds.cpu_ms) for other in others}
    return result


def print_results(found: dict[str, Rounds], ours: list[str]) -> None:
    others = [name for name in found if name not in ours]
    table = Table(title="random resized crops of 224 x 224, flipped, uint8")
    table.add_column("", no_wrap=True)
    for heading in ("images/s", *(f"x\n{name}" for name in others), "CPU\nms/image", "GIL\nµs/image"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rounds in found.items():
        compared = [f"[bold]{median(ratios(rounds, found[other])):.1f}[/]" if name in ours else "" for other in others]
        table.add_row(
            name,
            f"{median(rounds.images_per_second):.0f}",
            *compared,
            f"{median(rounds.cpu_ms):.2f}",
            f"{median(rounds.gil_us):.1f}" if rounds.gil_us else "",
        )
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with a folder for each class, or with images")
    names = list(CACHES)
    parser.add_argument("--caches", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--threads", type=int, default=2, help="threads, or worker processes (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (default: 64)")
    parser.add_argument("--images", type=int, default=8192, help="images in an epoch of FastLoader (default: 8192)")
    parser.add_argument("--peer-images", type=int, default=1024, help="images in a round of others (default: 1024)")
    parser.add_argument("--torchvision-python", type=Path, metavar="FILE", help="interpreter with torchvision, psutil")
    parser.add_argument("--ffcv-python", type=Path, metavar="FILE", help="interpreter with FFCV, Pillow and psutil")
    parser.add_argument("--ffcv", nargs="+", choices=FFCV, default=FFCV, metavar="NAME", help=", ".join(FFCV))
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
