"""Short ways to make loaders and to compare what they give."""

from __future__ import annotations

import torch

from fastload import ColorJitter, FastLoader, RandomFlip, ShortestEdge
from tests.support.memory_cache import MemoryCache

CACHE = MemoryCache(37)
IDS = CACHE.image_ids.tolist()
RANDOM = [ShortestEdge([32, 48], 80), RandomFlip(), ColorJitter(0.2, 0.2, 0.2, 0.1)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loader(cache=CACHE, batch_size=4, **arguments) -> FastLoader:
    return FastLoader(cache, batch_size, generator=arguments.pop("generator", seeded()), **arguments)


def ids(batches) -> list[list[int]]:
    return [batch.targets.image_id.tolist() for batch in batches]


def copies(batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images.clone(), targets.boxes) for images, targets in batches]


def assert_equal(first, second) -> None:
    assert len(first) == len(second)
    for (images, boxes), (other_images, other_boxes) in zip(first, second, strict=True):
        assert torch.equal(images, other_images) and torch.equal(boxes, other_boxes)
