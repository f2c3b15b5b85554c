"""`SimpleCopyPaste`: pixels, masks and boxes against images that are composed from the drawn parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastload import (
    ArgumentError,
    Batch,
    Cache,
    FastLoader,
    PlanError,
    RandomAffine,
    RandomFlip,
    RandomHSV,
    RandomZoomOut,
    Resize,
    SimpleCopyPaste,
    TopLeftAlign,
    Transform,
    recipes,
)
from fastload.annotations import POLYGONS, RLE
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.plan.batch_plan import BatchPlan
from fastload.sources.base import Category, Sample
from fastload.sources.run_lengths import encode
from tests.support.datasets import jpeg
from tests.support.masks import fill_rings

COUNT, SIZE = 8, (64, 48)


class Scattered:
    """Eight images of one size with 0 to 3 objects each, as polygons or run lengths; one is a crowd."""

    format, location, digest, problems = "test", "here", "0", ()
    categories = (Category(1, "cat"),)
    columns = (POLYGONS, RLE)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return COUNT

    def samples(self, start: int = 0):
        rng = np.random.default_rng(3)
        samples = []
        for i in range(COUNT):
            polygons, run_lengths, boxes = [], [], []
            for k in range(i % 4):
                corner = rng.uniform(0, 30, 2)
                ring = (corner + rng.uniform(0, 1, (4, 2)) * [30, 18])[[0, 1, 3, 2]].astype(np.float32)
                as_bytes = np.frombuffer(encode(fill_rings([ring], SIZE)), np.uint8)
                polygons.append([ring] if k % 2 == 0 else None)
                run_lengths.append(as_bytes if k % 2 else None)
                boxes.append([*ring.min(0), *ring.max(0)])
            values = {
                "boxes": np.array(boxes, np.float32).reshape(-1, 4),
                "label": [1] * len(boxes),
                "crowd": [i == 6 and k == 1 for k in range(len(boxes))],
                "polygons": polygons,
                "rle": run_lengths,
            }
            samples.append(Sample(i, f"{i}.jpg", self.folder / f"{i}.jpg", values, SIZE))
        yield from samples[start:]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("paste")
    for i in range(COUNT):
        (folder / f"{i}.jpg").write_bytes(jpeg(*SIZE, seed=i))
    build_cache(Scattered(folder), folder / "x.lmdb", BuildOptions())
    return Cache(folder / "x.lmdb")


class Seen(Transform):
    """Keeps the plan."""

    spans_batches = True

    def __call__(self, plan: BatchPlan, rng, images) -> None:
        self.plan = plan.take(np.arange(len(plan.size)))


def batch_of(cache: Cache, transforms: list, **settings) -> Batch:
    generator = torch.Generator().manual_seed(1)
    settings = {"masks": True, "collate_fn": TopLeftAlign(1), "generator": generator, **settings}
    (batch,) = FastLoader(cache, COUNT, transforms=transforms, **settings)
    return batch


@pytest.mark.parametrize(
    "before",
    [[], [Resize((60, 90)), RandomFlip()], [RandomAffine(degrees=20, translate=(0.1, 0.1))]],
    ids=["whole", "scaled", "turned"],
)
@pytest.mark.parametrize("skip_crowd", [False, True])
def test_objects_of_the_image_before_are_pasted(cache, before, skip_crowd):
    """Only their pixels change, they cut the masks under them, and what remains of boxes is around the masks."""
    seen = Seen()
    plain = batch_of(cache, before, skip_crowd=skip_crowd)
    images, targets = batch_of(cache, [*before, SimpleCopyPaste(), seen], boxes_from_masks=True, skip_crowd=skip_crowd)
    first = np.cumsum([0, *plain.targets.num_boxes])
    all_masks, plan, pasted = plain.targets.masks.dense(), seen.plan, 0
    offsets = cache.annotations_without_crowds.box_offsets if skip_crowd else cache.box_offsets
    for i in range(COUNT):
        rows = np.flatnonzero(plan.slot == i)
        chosen = []
        for row in rows[1:]:
            numbers = plan.selected[slice(*plan.objects[row])] - offsets[plan.index[row]]
            assert plan.index[row] == (i - 1) % COUNT and len(numbers)
            chosen += [all_masks[first[(i - 1) % COUNT] + number] for number in numbers]
        over = torch.stack(chosen).any(0) if chosen else torch.zeros_like(all_masks[0])
        expected = torch.where(over, plain.images[(i - 1) % COUNT], plain.images[i])
        assert (images[i].int() - expected.int()).abs().max() <= 1
        masks = [mask & ~over for mask in all_masks[first[i] : first[i + 1]]] + chosen
        masks = [mask for mask in masks if mask.any()]
        found = targets.masks[i].bool()
        assert len(found) == len(masks) == targets.num_boxes[i]
        for mask, other, box in zip(found, masks, targets.boxes[i], strict=False):
            assert torch.equal(mask, other)
            y, x = torch.nonzero(other, as_tuple=True)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        pasted += len(chosen)
    assert pasted >= 6


def test_half_size_masks_are_cut_too(cache):
    """With `mask_stride`, what is pasted covers the same places."""
    whole = batch_of(cache, [SimpleCopyPaste()]).targets.masks.dense()
    half = batch_of(cache, [SimpleCopyPaste()], mask_stride=2).targets.masks.dense()
    assert half.shape[1:] == (24, 32) and len(half) == len(whole)
    sampled = whole[:, 1::2, 1::2]
    assert (half != sampled).float().mean() < 0.02 and half.any()


def test_draws_are_torchvisions():
    """Of n objects, each is pasted with probability 1 - (1 - 1 / n)^n."""
    from tests.support.plans import assert_share, planned, same_images

    boxes = [[0, 0, 9, 9], [10, 10, 19, 19], [5, 20, 9, 29]]
    plan = planned(SimpleCopyPaste(), same_images(40, 40, boxes, count=4000))
    cut = plan.objects[:, 0] >= 0
    assert cut.sum() == 4000
    drawn = np.isin(np.arange(12000), plan.selected)
    for k in range(3):
        assert_share(drawn[k::3], 1 - (2 / 3) ** 3)


def test_the_recipe_pastes_after_jitter_and_flip(cache):
    """`recipes.lsj(copy_paste=True)` asks for masks; boxes end where they do, and the first rows are those of `lsj`."""
    seen, plain = Seen(), Seen()
    recipe, without = recipes.lsj(128, copy_paste=True), recipes.lsj(128)
    masked = batch_of(cache, [*recipe.transforms, seen], **settings(recipe))
    batch_of(cache, [*without.transforms, plain], **settings(without))
    assert "masks" not in without.train and masked.images.shape == (COUNT, 3, 128, 128)
    own = seen.plan.objects[:, 0] < 0
    assert (~own).sum() >= 3
    np.testing.assert_array_equal(seen.plan.crop[own], plain.plan.crop)
    np.testing.assert_array_equal(seen.plan.clip[own], plain.plan.clip)
    masks, boxes = masked.targets.masks.dense(), torch.cat([target["boxes"] for target in masked.targets])
    assert len(masks) == len(boxes) > 0
    for mask, box in zip(masks, boxes, strict=True):
        y, x = torch.nonzero(mask, as_tuple=True)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def settings(recipe: recipes.Recipe) -> dict[str, Any]:
    """The arguments of FastLoader for a recipe's training, without its transforms, with images without boxes."""
    return {name: value for name, value in recipe.train.items() if name not in ("transforms", "skip_empty")}


def test_what_cannot_be_pasted_is_explained(cache):
    with pytest.raises(PlanError, match="masks=True"):
        batch_of(cache, [SimpleCopyPaste()], masks=False)
    with pytest.raises(PlanError, match="before colors are adjusted"):
        batch_of(cache, [RandomHSV(), SimpleCopyPaste()])
    with pytest.raises(ArgumentError, match="images of one size"):
        batch_of(cache, [RandomZoomOut(p=1.0), SimpleCopyPaste()])
    with pytest.raises(PlanError, match=r'does not cut out objects\. Use engine="native"'):
        batch_of(cache, [SimpleCopyPaste()], engine="reference")
