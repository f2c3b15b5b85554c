"""From a COCO folder to loaders: caches are built where they are missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich import get_console
from rich.progress import Progress

from detector import distributed
from detector.batches import RankBatches
from detector.checkpoint import Categories
from detector.config import Align, Config
from detector.errors import ConfigError, DataError
from detector.fcos import SIZE_DIVISOR
from fastload import (
    Batch,
    Cache,
    CenterAlign,
    Collator,
    FastLoader,
    RandomAlign,
    RandomFlip,
    ShortestEdge,
    TopLeftAlign,
)
from fastload.cache.build import BuildOptions, build_cache
from fastload.sample import make_sample
from fastload.sources.detect import Dataset, find_datasets

SAMPLE_FOLDER = Path("fastload-demo/sample")
ALIGNERS: dict[Align, type[Collator]] = {"center": CenterAlign, "top-left": TopLeftAlign, "random": RandomAlign}


@dataclass(frozen=True)
class Split:
    """A cache and the annotation file it was built from."""

    cache: Cache
    annotations: Path

    @property
    def categories(self) -> Categories:
        return [(category.id, category.name) for category in self.cache.categories]


def open_split(folder: Path | None, split: str, prefix: str) -> Split:
    """The split named `split`, or the one whose name begins with `prefix`, of a COCO folder or of the sample set.

    One process builds what is missing, the others wait for it.
    """
    path, annotations = distributed.first_rank_does(lambda: _prepare(folder, split, prefix))
    return Split(Cache(path), annotations)


def _prepare(folder: Path | None, split: str, prefix: str) -> tuple[Path, Path]:
    with Progress(transient=True, disable=not get_console().is_terminal) as progress:
        task = progress.add_task("Making the sample set", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if folder is None:
            folder = SAMPLE_FOLDER
            if not folder.exists():  # the one that `fastload demo` made, of whatever size, serves as well
                make_sample(folder, progress=report)
        dataset = _choose(folder, split, prefix)
        progress.update(task, description=f"Building {dataset.cache}", total=None)
        if not dataset.cache.exists():
            build_cache(dataset.load(), dataset.cache, BuildOptions(), report)
    return dataset.cache, folder / "annotations" / f"instances_{dataset.split}.json"


def _choose(folder: Path, split: str, prefix: str) -> Dataset:
    found = {dataset.split: dataset for dataset in find_datasets(folder, "coco")}
    names = [split] if split else [name for name in found if name.startswith(prefix)]
    if len(names) != 1 or names[0] not in found:
        raise DataError(
            f"{folder} has the splits {', '.join(found)}: name the one to use with --{prefix}-split, which now is "
            f'"{split}".'
        )
    return found[names[0]]


def check_trainable(split: Split) -> None:
    """Raise DataError when there is nothing to learn."""
    boxes, crowd = split.cache.boxes, split.cache.crowd
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1) & ~crowd
    if not usable.any():
        raise DataError(
            f"{split.cache.path}: none of its {len(split.cache)} images has a box of a single object. Is "
            f"{split.annotations} the right file?"
        )


def training_loader(split: Split, config: Config) -> FastLoader:
    """Shuffled, augmented batches: this process's share."""
    rank, world = distributed.rank(), distributed.world_size()
    share = world * config.accumulate
    if config.batch_size % share:
        raise ConfigError(
            f"--batch-size {config.batch_size} cannot be shared by {world} processes with {config.accumulate} "
            "accumulated batches each: make it a multiple."
        )
    order = RankBatches(split.cache.sizes, config.batch_size // config.accumulate, config.seed, rank, world)
    return FastLoader(
        split.cache,
        batch_sampler=order,
        num_workers=config.workers,
        collate_fn=ALIGNERS[config.align](divisor=SIZE_DIVISOR),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(config.seed * world + rank),  # processes flip and scale differently
        transforms=[ShortestEdge(config.sizes, config.max_size), RandomFlip(config.flip)],
    )


def evaluation_loader(split: Split, config: Config, batch_size: int, align: Align) -> FastLoader:
    """This process's share of a split, at the test size, in batches of similar shapes."""
    share = range(distributed.rank(), len(split.cache), distributed.world_size())
    return _still_loader(split, list(share), config, batch_size, align)


def evaluation_batch(split: Split, indices: list[int], config: Config) -> Batch:
    """Some images of a split as they are evaluated."""
    return next(iter(_still_loader(split, indices, config, len(indices), config.align)))


def _still_loader(split: Split, indices: list[int], config: Config, batch_size: int, align: Align) -> FastLoader:
    return FastLoader(
        split.cache.subset(indices),
        batch_size=batch_size,
        num_workers=config.workers,
        collate_fn=ALIGNERS[align](divisor=SIZE_DIVISOR),
        pin_memory=torch.cuda.is_available(),
        group_by_aspect=True,
        transforms=[ShortestEdge(config.test_size, config.test_max_size)],
    )
