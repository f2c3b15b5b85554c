"""Loaders for a COCO folder; missing caches are built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data.distributed import DistributedSampler

from detector import distributed
from detector.checkpoint import Categories
from detector.config import Config
from detector.errors import ConfigError, DataError
from detector.preprocess import Preprocess
from detector.runtime import pick_dtype
from fastload import (
    Batch,
    Cache,
    FastLoader,
    RandomFlip,
    ScaleJitterCrop,
    ShortestEdge,
    Transform,
    build_cache,
    find_datasets,
    make_sample,
)

SAMPLE_FOLDER = Path("fastload-demo/sample")


@dataclass(frozen=True)
class Split:
    """A cache and the annotation file it was built from."""

    cache: Cache
    annotations: Path

    @property
    def categories(self) -> Categories:
        return [(category.id, category.name) for category in self.cache.categories]


def open_split(folder: Path | None, split: str, prefix: str) -> Split:
    """Open a split of a COCO folder or of the sample set; one process builds a missing cache, the others wait.

    Args:
        folder: the COCO folder; None: the sample set, which is made on first use.
        split: the name of the split; "": the only one whose name begins with `prefix`.
        prefix: "train" or "val".

    Raises:
        DataError: there is no such split, or more than one.
    """
    path, annotations = distributed.on_first_rank(lambda: _prepare(folder, split, prefix))
    return Split(Cache(path), annotations)


def _prepare(folder: Path | None, split: str, prefix: str) -> tuple[Path, Path]:
    """The cache of a split, built if it is missing, and its annotation file."""
    from fastload import show_progress  # needs rich, which loading a checkpoint should not

    if folder is None:
        folder = SAMPLE_FOLDER
        if not folder.exists():  # the sample set of `fastload demo` will do, whatever its size
            with show_progress("Making the sample set") as report:
                make_sample(folder, progress=report)
    splits = {dataset.split: dataset for dataset in find_datasets(folder, "coco")}
    names = [split] if split else [name for name in splits if name.startswith(prefix)]
    if len(names) != 1 or names[0] not in splits:
        raise DataError(
            f"{folder} has the splits {', '.join(splits)}: choose one with --{prefix}-split (in an evaluation with "
            f'--split), which is now "{split}".'
        )
    dataset = splits[names[0]]
    if not dataset.cache.exists():
        with show_progress(f"Building {dataset.cache}") as report:
            build_cache(dataset.load(), dataset.cache, progress=report)
    return dataset.cache, folder / "annotations" / f"instances_{dataset.split}.json"


def check_trainable(split: Split) -> None:
    """Raise DataError if no image has a box to learn."""
    boxes, crowd = split.cache.boxes, split.cache.crowd
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1) & ~crowd
    if not usable.any():
        raise DataError(
            f"{split.cache.path}: none of its {len(split.cache)} images has a box of a single object. Is "
            f"{split.annotations} the right file?"
        )


def training_loader(split: Split, config: Config, device: torch.device) -> FastLoader:
    """Shuffled, augmented batches of images of similar shapes on `device`: this process's share of each step."""
    rank, world = distributed.rank(), distributed.world_size()
    share = world * config.accumulate
    if config.batch_size % share:
        raise ConfigError(
            f"--batch-size {config.batch_size} cannot be shared by {world} processes with {config.accumulate} "
            "accumulated batches each: make it a multiple."
        )
    preprocess = Preprocess.of(config)
    if config.crop:  # of one shape, whatever the images' own
        scale: Transform = ScaleJitterCrop(config.crop)
        collator = preprocess.collator(config.crop, config.crop, few_shapes=True, training=True)
    else:
        scale = ShortestEdge(config.sizes, config.max_size, per_batch=True)
        collator = preprocess.collator(max(config.sizes), config.max_size, config.compile, training=True)
    return FastLoader(
        split.cache,
        batch_size=config.batch_size // share,
        sampler=DistributedSampler(split.cache, world, rank, seed=config.seed),
        group_by_aspect=not config.crop,
        num_workers=config.workers,
        collate_fn=collator,
        **preprocess.output(device, pick_dtype(config, device)),
        generator=torch.Generator().manual_seed(config.seed),
        transforms=[scale, RandomFlip(config.flip)],
    )


def evaluation_loader(
    split: Split,
    preprocess: Preprocess,
    batch_size: int,
    workers: int,
    device: torch.device,
    dtype: torch.dtype,
    few_shapes: bool = False,
) -> FastLoader:
    """This process's share of a split on `device`, at the test size, in batches of images of similar shapes."""
    share = split.cache.subset(range(distributed.rank(), len(split.cache), distributed.world_size()))
    return preprocess.loader(share, batch_size, workers, device, dtype, few_shapes, group_by_aspect=True)


def evaluation_batch(split: Split, indices: list[int], preprocess: Preprocess) -> Batch:
    """Some images of a split, preprocessed as in evaluation, but uint8."""
    return next(iter(preprocess.loader(split.cache.subset(indices), len(indices), 0, "cpu", torch.uint8)))
