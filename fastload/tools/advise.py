"""Compare ways of storing a dataset by size, speed and quality, measured on a sample of its images."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf, log10
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

import fastload._core as _core
from fastload.annotations import Column
from fastload.cache.format.layout import Encoding
from fastload.cache.progress import OnProgress, no_progress
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.checked_image import checked_jpeg
from fastload.cache.write.resize import Reduction
from fastload.errors import SourceError
from fastload.sources.base import Category, Problem, Sample, Source

REDUCTIONS = {
    "lossless": Reduction(),
    "q90 4:2:0": Reduction(quality=90, subsampling="420"),
    "short 512": Reduction(short=512),
    "short 512, q90 4:2:0": Reduction(short=512, quality=90, subsampling="420"),
    "short 320, q90 4:2:0": Reduction(short=320, quality=90, subsampling="420"),
}
# The timed workload: a typical detector training.
SHORT_EDGE, LONG_EDGE, BATCH_SIZE = 512, 736, 16
SECONDS = 1.0  # minimum time to measure the speed of an option


@dataclass(frozen=True)
class Option:
    """One way of storing the dataset.

    Args:
        encoding: the label of the encoding.
        reduction: a key of REDUCTIONS.
        bytes: size of the cache of the whole dataset.
        build_seconds: time to build the cache of the whole dataset.
        images_per_second: speed of loading.
        psnr: dB, in RGB at the original size. None: lossless.
        fits_disk: whether the cache fits on the disk.
        fits_memory: whether the cache fits in memory, so that nothing is read from disk after the first epoch.
    """

    encoding: str
    reduction: str
    bytes: int
    build_seconds: float
    images_per_second: float
    psnr: float | None
    fits_disk: bool
    fits_memory: bool

    @property
    def command(self) -> str:
        """The arguments of `fastload build-cache` for this option."""
        settings = REDUCTIONS[self.reduction].describe().items()
        reduction = "".join(f" --{name.replace('_', '-')} {value}" for name, value in settings if value is not None)
        return f"--encoding {self.encoding}{reduction}"


@dataclass(frozen=True)
class Advice:
    """The options for storing a dataset.

    Args:
        images: number of images in the dataset.
        sampled: number of images that were measured.
        threads: number of threads that were used.
        free_disk: bytes, on the disk where the caches would be.
        free_memory: bytes that could hold a cache.
        options: the measured options.
    """

    images: int
    sampled: int
    threads: int
    free_disk: int
    free_memory: int
    options: tuple[Option, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the advice as lists and dicts."""
        options = [asdict(option) | {"command": option.command} for option in self.options]
        return asdict(self) | {"options": options}


class SampleOf:
    """A source with random images of several sources.

    Args:
        sources: the sources to choose from.
        count: maximum number of images.
        seed: seed of the random choice.
    """

    format, location = "sample", "a sample"

    def __init__(self, sources: Sequence[Source], count: int, seed: int) -> None:
        total = sum(map(len, sources))
        chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
        self._samples = list(_pick(sources, set(chosen.tolist())))
        known: dict[int, Category] = {category.id: category for source in sources for category in source.categories}
        self.categories: tuple[Category, ...] = tuple(known[id] for id in sorted(known))
        self.problems: tuple[Problem, ...] = ()
        self.columns: tuple[Column, ...] = ()
        self.digest = f"{seed} {count}"

    def __len__(self) -> int:
        return len(self._samples)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """See `Source.samples`."""
        return iter(self._samples[start:])


def advise(
    sources: Sequence[Source],
    home: Path,
    count: int = 64,
    threads: int = 1,
    progress: OnProgress = no_progress,
) -> Advice:
    """Measure every option on random images of a dataset.

    The caches are built in a temporary folder and are read from memory, so the speed of the disk has no influence.

    Args:
        sources: the splits of the dataset.
        home: the folder where the caches would be, to check its free disk space.
        count: number of images to measure.
        threads: number of threads for building and loading.
        progress: called with (options done, options in total).

    Raises:
        SourceError: there are no images.
        CacheError: none of the chosen images can be stored.
    """
    total = sum(map(len, sources))
    if not total:
        locations = ", ".join(source.location for source in sources)
        raise SourceError(f"there are no images to measure in {locations}: choose another dataset or split.")
    sample = SampleOf(sources, count, seed=0)
    free_disk, free_memory = shutil.disk_usage(_existing(home)).free, available_memory()
    options: list[Option] = []
    with tempfile.TemporaryDirectory(prefix="fastload-plan-") as folder:
        original = Path(folder) / "original.lmdb"
        build_cache(sample, original, BuildOptions(Encoding.ORIGINAL, workers=threads))
        todo = list(_combinations(CacheFile(original)))
        for done, (reduction, encoding, psnr) in enumerate(todo):
            progress(done, len(todo))
            path = Path(folder) / "option.lmdb"
            built = BuildOptions(encoding, REDUCTIONS[reduction], workers=threads, overwrite=True)
            report = build_cache(sample, path, built)
            size = round(report.bytes / len(sample) * total)
            options.append(
                Option(
                    encoding.label,
                    reduction,
                    bytes=size,
                    build_seconds=report.seconds / len(sample) * total,
                    images_per_second=_speed(path, threads),
                    psnr=None if psnr == inf else psnr,
                    fits_disk=size <= free_disk,
                    fits_memory=size <= free_memory,
                )
            )
        progress(len(todo), len(todo))
    return Advice(total, len(sample), threads, free_disk, free_memory, tuple(options))


def available_memory() -> int:
    """Return the bytes of memory that are free or can be freed, including the page cache; 0 if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 0


def _combinations(original: CacheFile) -> Iterator[tuple[str, Encoding, float]]:
    """Yield each reduction with a distinct effect on the images, in each encoding, with its PSNR to `original`."""
    seen: set[tuple[tuple[int, int], ...]] = set()
    for name, reduction in REDUCTIONS.items():
        sizes = tuple(reduction.size_of((int(width), int(height))) for width, height in original.sizes)
        key = (*sizes, (reduction.quality or 0, 0))
        if key in seen:  # all images are smaller already
            continue
        seen.add(key)
        psnr = _psnr(original, reduction)
        for encoding in Encoding:
            if encoding != Encoding.ORIGINAL or not reduction:
                yield name, encoding, psnr


def _psnr(original: CacheFile, reduction: Reduction) -> float:
    """Return the PSNR in dB over all RGB values, with shrunk images enlarged again (bicubic)."""
    squares, samples = 0.0, 0
    for record in original.records():
        before = checked_jpeg(bytes(record.data))
        after = reduction.apply(before)
        if after is before:
            samples += 3 * before.size[0] * before.size[1]
            continue
        pixels, image = _core.decode_rgb(before.jpeg)[0], Image.fromarray(_core.decode_rgb(after.jpeg)[0])
        restored = np.asarray(image.resize(before.size, Image.Resampling.BICUBIC))
        squares += float(np.square(pixels.astype(np.float32) - restored).sum(dtype=np.float64))
        samples += pixels.size
    return inf if squares == 0 else 10 * log10(255**2 * samples / squares)


def _speed(path: Path, threads: int) -> float:
    """Return the images/s of FastLoader on the cache at `path`: the median over epochs, after a warm-up epoch."""
    from fastload.loader.fast_loader import FastLoader  # imports torch, which takes two seconds
    from fastload.plan.transforms import RandomFlip, ShortestEdge

    loader = FastLoader(
        path,
        BATCH_SIZE,
        shuffle=True,
        num_workers=threads,
        transforms=[ShortestEdge(SHORT_EDGE, LONG_EDGE), RandomFlip()],
    )
    epochs = [_epoch(loader)]
    end = time.perf_counter() + SECONDS
    while len(epochs) < 2 or time.perf_counter() < end:
        epochs.append(_epoch(loader))
    return len(loader.dataset) / median(epochs[1:])  # type: ignore[arg-type]


def _epoch(loader: Iterable[Any]) -> float:
    """Return the seconds of one epoch."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def _pick(sources: Sequence[Source], chosen: set[int]) -> Iterator[Sample]:
    position = 0
    for source in sources:
        for sample in source.samples():
            if position in chosen:
                yield sample
            position += 1


def _existing(folder: Path) -> Path:
    """Return `folder`, or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
