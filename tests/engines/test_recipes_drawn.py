"""Every recipe drawn by the native engine, as the reference engine draws it."""

from __future__ import annotations

import numpy as np
import pytest

from fastload import recipes
from fastload.engines.native import NativeEngine
from fastload.engines.reference import ReferenceEngine
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms import RandAugment, Resize
from tests.support.memory_cache import MemoryCache

CACHE = MemoryCache(12)
IMAGES = ImageIndex(np.arange(12), CACHE.sizes, CACHE.box_offsets, CACHE.boxes)
SMALL = {"size": 96}
SETTINGS = {"detr": {}, "multiscale": {}, "retinanet": {}, "rfdetr": {"resolution": 112, "patch": 16}}


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_native_draws_what_the_reference_specifies(name):
    """Rotations, blends, fills, colors and layers, in an early and a late epoch: about a level apart on average."""
    recipe = recipes.recipe_named(name, **SETTINGS.get(name, SMALL))
    for epoch in (5, 400):
        plan, rng = IMAGES.plan(np.arange(4)), np.random.default_rng(epoch)
        plan.epoch, plan.batch = epoch, np.zeros(4, np.int32)
        for transform in recipe.transforms:
            transform(plan, rng, IMAGES)
        if plan.size.max() > 500:
            Resize(96)(plan, rng, IMAGES)
        type(recipe.aligner)(divisor=1).place(plan, rng)
        assert_drawn_alike(plan)


def test_rand_augment_is_drawn_alike():
    """Tables that depend on what is below them too."""
    for seed in range(4):
        plan, rng = IMAGES.plan(np.arange(12)), np.random.default_rng(seed)
        Resize(64)(plan, rng, IMAGES)
        RandAugment(3, 12)(plan, rng, IMAGES)
        recipes.TopLeftAlign(divisor=1).place(plan, rng)
        assert_drawn_alike(plan)


def assert_drawn_alike(plan):
    images = []
    for engine in (NativeEngine(CACHE, 0), ReferenceEngine(CACHE)):
        ticket = engine.submit(plan, [len(plan.size)])
        shown = engine.images(ticket, 0) if isinstance(engine, NativeEngine) else None
        assert engine.wait(ticket, 0) == {}
        images.append((engine.images(ticket, 0) if shown is None else shown).numpy().astype(int))
    difference = np.abs(images[0] - images[1])
    assert difference.mean() < 1.5, [np.abs(a - b).mean() for a, b in zip(*images, strict=True)]
