"""The demo: a sample set, its cache, a speed comparison with a typical DataLoader, and a drawing of a batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fastload.cache.progress import OnProgress
from fastload.cache.read.cache import Cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.loader.fast_loader import FastLoader
from fastload.plan.transforms import RandomFlip, ShortestEdge
from fastload.sources.base import Sample
from fastload.sources.detect import find_datasets
from fastload.tools.baseline import LONG_EDGE, SHORT_EDGE, BaselineDataset, baseline_loader
from fastload.tools.contact_sheet import draw, save
from fastload.tools.progress import show_progress
from fastload.tools.sample import make_sample

BATCH_SIZE = 16
ROUNDS = 3  # timed epochs of each loader, which take turns
WORKERS = os.cpu_count() or 1


@dataclass(frozen=True)
class DemoResult:
    """The result of the demo.

    Args:
        usual: images/s of the typical DataLoader, the median over rounds.
        fast: images/s of FastLoader, the median over rounds.
        cache: the cache that was built.
        picture: the drawing of a batch.
    """

    usual: float
    fast: float
    cache: Path
    picture: Path


def run_demo(folder: Path, images: int = 300) -> DemoResult:
    """Make a sample set and its cache, compare loaders on it, and draw a batch.

    An existing sample set and cache are used again.

    Args:
        folder: where to put `sample/` and `batch.png`.
        images: number of images in the sample set.

    Raises:
        SourceError: `folder`/sample holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with show_progress("1/4 sample set") as report:
        data = make_sample(folder / "sample", images, progress=report)
    (dataset,) = find_datasets(data, splits=["train"])
    source = dataset.load()
    with show_progress("2/4 cache") as report:
        build_cache(source, dataset.cache, BuildOptions(), report)
    cache = Cache(dataset.cache)
    with show_progress("3/4 comparison") as report:
        usual, fast = _compare(cache, list(source.samples()), report)
    with show_progress("4/4 drawing") as report:
        drawing = _draw_batch(cache, folder / "batch.png")
        report(BATCH_SIZE, BATCH_SIZE)
    return DemoResult(usual, fast, dataset.cache, drawing)


def _compare(cache: Cache, samples: list[Sample], report: OnProgress) -> list[float]:
    """Return the images/s of the typical loader and of FastLoader, after a warm-up epoch of each."""
    loaders: list[Iterable[Any]] = [
        baseline_loader(BaselineDataset(samples), BATCH_SIZE, WORKERS),
        _fast_loader(cache, WORKERS),
    ]
    speeds: list[list[float]] = [[] for _ in loaders]
    done, total = 0, len(cache) * len(loaders) * (1 + ROUNDS)
    for _ in range(1 + ROUNDS):
        for loader, timed in zip(loaders, speeds, strict=True):
            start = time.perf_counter()
            for images, _targets in loader:
                done += len(images)
                report(done, total)
            timed.append(len(cache) / (time.perf_counter() - start))
    return [median(timed[1:]) for timed in speeds]


def _fast_loader(cache: Cache, workers: int) -> FastLoader:
    return FastLoader(
        cache,
        BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        transforms=[ShortestEdge(SHORT_EDGE, max_size=LONG_EDGE), RandomFlip()],
    )


def _draw_batch(cache: Cache, file: Path) -> Path:
    images, targets = next(iter(_fast_loader(cache, workers=0)))
    save(draw(images, targets, cache.categories), file)
    return file
