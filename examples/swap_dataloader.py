"""The one-line swap: the same training loop over torch's DataLoader and over FastLoader.

    python examples/swap_dataloader.py                # on a generated sample dataset
    python examples/swap_dataloader.py coco/

The dataset class is typical of training scripts. Given this dataset, FastLoader loads it as DataLoader does. Given the
path of a cache, it delivers the same images and targets several times faster.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fastload import (
    BuildOptions,
    FastLoader,
    RandomFlip,
    ShortestEdge,
    TopLeftAlign,
    build_cache,
    find_datasets,
    make_sample,
)
from fastload.tools.baseline import BaselineDataset

BATCH_SIZE, WORKERS = 16, 2


def train_one_epoch(loader: Iterable[Any]) -> tuple[int, int]:
    """Stands for a training loop: counts images and boxes. Both loaders give (B, 3, H, W) and B target dicts."""
    images_seen = boxes_seen = 0
    for images, targets in loader:
        images_seen += len(images)
        boxes_seen += sum(len(target["boxes"]) for target in targets)
    return images_seen, boxes_seen


def main() -> None:
    coco = Path(sys.argv[1]) if len(sys.argv) > 1 else make_sample(Path("runs/sample"), images=100)
    training_split = find_datasets(coco)[0]
    source = training_split.load()
    build_cache(source, training_split.cache, BuildOptions())  # what `fastload build-cache` does; once

    dataset = BaselineDataset(list(source.samples()))
    before = FastLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=WORKERS, collate_fn=TopLeftAlign())
    after = FastLoader(
        training_split.cache,
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=WORKERS,
        generator=torch.Generator().manual_seed(0),
        transforms=[ShortestEdge(512, max_size=736), RandomFlip()],
    )
    for name, loader in (("dataset", before), ("cache", after)):
        start = time.perf_counter()
        images, boxes = train_one_epoch(loader)
        print(f"{name}: {images} images with {boxes} boxes, {images / (time.perf_counter() - start):.0f} images/s")


if __name__ == "__main__":
    main()
