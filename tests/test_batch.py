"""Targets: which boxes are on the canvas, where, and back."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastload import Batch, Mosaic, PlanError, RandomAlign, RandomFlip, ScaleJitterCrop, ShortestEdge, _core
from fastload.batch import Targets, targets_of
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from tests.support.memory_cache import MemoryCache

CACHE = MemoryCache(24)
RECORDS = ImageIndex(np.arange(24), CACHE.sizes)
IDS = torch.tensor([1, 7, 90])


def planned(transforms, index, seed=0) -> tuple[BatchPlan, np.ndarray]:
    index, rng = np.array(index), np.random.default_rng(seed)
    plan = RECORDS.plan(index)
    for transform in transforms:
        transform(plan, rng, RECORDS)
    RandomAlign().place(plan, rng)
    return plan, index


def made(transforms, index, seed=0, failed=()) -> Targets:
    return only_targets(*planned(transforms, index, seed), failed)


def only_targets(plan: BatchPlan, index: np.ndarray, failed=()) -> Targets:
    """Of a plan of one batch."""
    (targets,), _ = targets_of(plan, index, [len(index)], CACHE.annotations, IDS, failed)
    return targets


def expected_boxes(plan: BatchPlan, slot: int) -> list[tuple[list[float], int, bool]]:
    """The rules of the documentation, box by box."""
    kept = []
    for row in np.flatnonzero(plan.slot == slot):
        x, y, w, h = plan.clip[row].tolist()
        for k in range(CACHE.box_offsets[plan.index[row]], CACHE.box_offsets[plan.index[row] + 1]):
            whole = plan.map_boxes(CACHE.boxes[k : k + 1], np.array([row]))[0].astype(float)
            box = [max(whole[0], x), max(whole[1], y), min(whole[2], x + w), min(whole[3], y + h)]
            wide, high = box[2] - box[0], box[3] - box[1]
            cut = np.abs(whole - box).max() > 1 / 64
            share = max(wide, 0) * max(high, 0) / ((whole[2] - whole[0]) * (whole[3] - whole[1]))
            if cut and (wide < 1 or high < 1 or share < plan.min_visible):
                continue
            kept.append((box, int(CACHE.labels[k]), bool(CACHE.crowd[k])))
    return kept


recipes = st.sampled_from(
    [
        [],
        [ShortestEdge([20, 90], 120), RandomFlip()],
        [ScaleJitterCrop((40, 30)), RandomFlip()],
        [ScaleJitterCrop(40, min_visible=0.5)],
        [Mosaic(64), RandomFlip(), ScaleJitterCrop(50, (0.5, 2.0))],
    ]
)
indices = st.lists(st.integers(0, 23), min_size=1, max_size=6)


@given(recipes, indices, st.integers(0, 2**32))
def test_boxes_are_those_the_rules_keep(recipe, index, seed):
    """Against the rules applied box by box: the same boxes, labels and crowds, in order, and padding behind them."""
    plan, asked = planned(recipe, index, seed)
    targets = only_targets(plan, asked)
    for slot in range(len(index)):
        expected = expected_boxes(plan, slot)
        n = len(expected)
        assert targets.num_boxes[slot] == n
        np.testing.assert_allclose(
            targets.boxes[slot, :n].reshape(-1), [x for box, *_ in expected for x in box], atol=1e-3
        )
        assert targets.labels[slot, :n].tolist() == [label for _, label, _ in expected]
        assert targets.crowd[slot, :n].tolist() == [crowd for *_, crowd in expected]
        assert (targets.labels[slot, n:] == -1).all() and (targets.boxes[slot, n:] == 0).all()
        assert not targets.crowd[slot, n:].any() and (targets.area[slot, n:] == 0).all()
    assert targets.boxes.shape[1] == max(targets.num_boxes)


@given(
    st.sampled_from([[], [ShortestEdge([20, 90], 120), RandomFlip()], [ScaleJitterCrop((40, 30)), RandomFlip()]]),
    indices,
    st.integers(0, 2**32),
)
def test_to_original_is_the_inverse_of_the_plan(recipe, index, seed):
    """Boxes mapped by the plan come back to the source's pixels; scale, offset and flip are the formula documented."""
    plan, asked = planned(recipe, index, seed)
    targets = only_targets(plan, asked)
    rows = np.arange(len(index))
    source = np.random.default_rng(seed).uniform(0, 20, (len(index), 4)).astype(np.float32)
    source[:, 2:] += source[:, :2]
    canvas = torch.from_numpy(plan.map_boxes(source, rows))
    for i in rows:
        torch.testing.assert_close(
            targets.to_original(canvas[i : i + 1], int(i)), torch.from_numpy(source[i : i + 1]), atol=1e-2, rtol=0
        )
    together = targets.to_original(canvas, torch.arange(len(index)))
    torch.testing.assert_close(together, torch.from_numpy(source), atol=1e-2, rtol=0)
    width = targets.original_size[:, 1:]
    x = torch.where(
        targets.flip[:, None], width - torch.from_numpy(source[:, [2, 0]]), torch.from_numpy(source[:, [0, 2]])
    )
    torch.testing.assert_close(canvas[:, [0, 2]], (x * targets.scale[:, :1] + targets.offset[:, :1]).float())


def test_an_uncut_box_is_never_dropped():
    """Boxes shrunk below a pixel stay, as long as nothing was cut away."""
    targets = made([ShortestEdge(2)], range(24))
    assert list(targets.num_boxes) == np.diff(CACHE.box_offsets).tolist()
    assert (targets.boxes[..., 2:] - targets.boxes[..., :2])[targets.labels >= 0].min() < 1


def test_area_is_in_canvas_pixels_and_shrinks_with_what_is_cut():
    """The segmentation's area scales with the image, and for a cut box by the share that is left."""
    plan = RECORDS.plan(np.array([1]))
    plan.resize(plan.size * 2)
    x0, _y0, x1, _y1 = (CACHE.boxes[CACHE.box_offsets[1]] * 2).round().astype(int).tolist()
    whole = float(CACHE.area[CACHE.box_offsets[1]])
    middle = (x0 + x1) // 2
    for cut_at, share in ((plan.size[0, 0], 1.0), (middle, (middle - x0) / (x1 - x0))):
        part = RECORDS.plan(np.array([1]))
        part.resize(part.size * 2)
        part.crop_to(np.array([[0, 0, cut_at, part.size[0, 1]]]))
        part.place((256, 256), np.zeros((1, 2), int), np.zeros(3, np.uint8))
        assert float(only_targets(part, np.array([1])).area[0, 0]) == pytest.approx(whole * 4 * share, rel=0.1)


def test_dicts_follow_torchvisions_convention():
    """Each image is a dict with the dataset's own category ids and the padded tensors' values."""
    targets = made([], range(8))
    assert len(targets) == 8 and len(list(targets)) == 8
    for i, target in enumerate(targets):
        n = targets.num_boxes[i]
        assert target["image_id"] == CACHE.image_ids[i] and isinstance(target["image_id"], int)
        assert target["boxes"].shape == (n, 4) and target["boxes"].dtype == torch.float32
        assert target["labels"].tolist() == [int(IDS[k]) for k in CACHE.labels[CACHE.box_offsets[i] :][:n]]
        assert target["labels"].dtype == torch.int64 and target["iscrowd"].dtype == torch.int64
        assert target["area"].shape == (n,)
    assert torch.equal(targets[-1]["boxes"], targets[7]["boxes"])
    assert [t["image_id"] for t in targets[2:4]] == [120, 130]
    with pytest.raises(IndexError):
        targets[8]


def test_tensors_have_the_documented_types():
    """Shapes and types are as documented, for a batch without any box too."""
    targets = made([], [0, 4])
    assert targets.boxes.shape == (2, 0, 4) and targets.labels.shape == (2, 0) and targets.num_boxes == (0, 0)
    targets = made([], [3, 2])
    kinds = {
        "boxes": ((2, 3, 4), torch.float32),
        "labels": ((2, 3), torch.int64),
        "crowd": ((2, 3), torch.bool),
        "area": ((2, 3), torch.float32),
        "image_id": ((2,), torch.int64),
        "scale": ((2, 2), torch.float32),
        "offset": ((2, 2), torch.float32),
        "flip": ((2,), torch.bool),
        "size": ((2, 2), torch.int64),
        "original_size": ((2, 2), torch.int64),
        "category_ids": ((3,), torch.int64),
    }
    for name, (shape, dtype) in kinds.items():
        assert getattr(targets, name).shape == shape and getattr(targets, name).dtype == dtype, name
    assert targets.original_size.tolist() == CACHE.sizes[[3, 2], ::-1].tolist()


def test_a_mosaic_has_no_way_back():
    """Mosaics say how many sources they show, have NaN geometry, and refuse to_original."""
    targets = made([Mosaic(64)], [1, 2])
    assert targets.num_sources == (4, 4) and targets.scale.isnan().all() and not targets.flip.any()
    assert targets.image_id.tolist() == [110, 120]
    with pytest.raises(PlanError, match="several sources"):
        targets.to_original(torch.zeros(1, 4), 0)


def test_failed_slots_keep_no_boxes():
    """An image that did not decode has no boxes; the others keep theirs."""
    targets, whole = made([], [1, 2, 3], failed=[1]), made([], [1, 2, 3])
    assert targets.num_boxes == (1, 0, 3) and (targets.labels[1] == -1).all()
    assert torch.equal(targets.boxes[2], whole.boxes[2])


def test_batches_move_and_pickle_whole():
    """A batch unpacks, and moving, copying and pickling keep every field."""
    batch = Batch(torch.zeros(2, 3, 8, 8), made([], [1, 3]))
    images, targets = batch
    assert images is batch.images and targets is batch.targets
    meta = batch.to("meta")
    assert meta.images.is_meta and meta.targets.boxes.is_meta and meta.targets.num_boxes == (1, 3)
    for again in (pickle.loads(pickle.dumps(batch)).targets, copy.copy(targets), Targets(**asdict(targets))):
        assert torch.equal(again.boxes, targets.boxes) and torch.equal(again.area, targets.area)
        assert again.num_sources == (1, 1)


def core_place(annotations=None, **changes):
    """The core's `place` of one image on a canvas, with changed columns of the plan or arguments."""
    own = ("box_offsets", "boxes", "labels", "crowd", "area", "image_ids", "sizes", "source_sizes")
    arrays = {name: getattr(CACHE, name) for name in own} | (annotations or {})
    arguments = {"slot_index": np.array([1]), "ends": [1], "failed": []}
    plan = RECORDS.plan(np.array([1]))
    plan.resize(np.array([[9, 9]]))
    for name, value in changes.items():
        if name not in arguments:
            assert hasattr(plan, name)
            setattr(plan, name, value)
    given = {name: changes.get(name, value) for name, value in arguments.items()}
    return _core.Annotations(**arrays).place(plan, **given)


def test_the_core_refuses_arrays_that_do_not_fit():
    """Offsets, slots and indices beyond the arrays are errors, never reads out of bounds."""
    core_place()
    for changes in (
        {"index": np.array([24])},
        {"index": np.array([-3])},
        {"index": np.zeros(0, np.int64)},
        {"slot_index": np.array([24])},
        {"slot_index": np.array([-1])},
        {"slot": np.ones(1, np.int32)},
        {"slot": -np.ones(1, np.int32)},
        {"source": np.zeros((0, 2), np.int32)},
        {"crop": np.zeros((0, 4), np.float32)},
        {"clip": np.zeros((0, 4), np.int32)},
        {"flip": np.zeros(0, np.bool_)},
        {"warp": np.zeros((0, 2, 3), np.float32)},
        {"centers": np.zeros((0, 4), np.float32)},
        {"size": np.zeros((0, 2), np.int32)},
        {"crop": np.zeros((1, 4))},
        {"crop": np.zeros((4, 2), np.float32)[:, :1]},
        {"clip": None},
        {"ends": [2]},
        {"ends": [1, 0]},
        {"failed": [1]},
    ):
        with pytest.raises(ValueError):
            core_place(**changes)
    for changes in (
        {"box_offsets": CACHE.box_offsets * 1000},
        {"box_offsets": -CACHE.box_offsets},
        {"box_offsets": CACHE.box_offsets[1:]},
        {"boxes": CACHE.boxes[1:]},
        {"labels": CACHE.labels[1:]},
        {"crowd": CACHE.crowd[1:]},
        {"area": CACHE.area[1:]},
        {"image_ids": CACHE.image_ids[1:]},
        {"sizes": CACHE.sizes[1:]},
        {"source_sizes": CACHE.source_sizes[1:]},
    ):
        with pytest.raises(ValueError):
            core_place(changes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_core_places_boxes_as_the_plan_does(seed, count):
    """Boxes that a window does not cut are those of `BatchPlan.map_boxes` bit for bit, flips included."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(CACHE), count)
    plan = BatchPlan.of(index, CACHE.sizes[index])
    plan.resize(rng.integers(8, 90, (count, 2)).astype(np.int32))
    plan.flip_horizontally(rng.random(count) < 0.5)
    plan.crop_to(np.concatenate([rng.integers(0, 4, (count, 2)), rng.integers(4, 60, (count, 2))], 1).astype(np.int32))
    plan.place((99, 99), np.zeros((count, 2), np.int32), np.zeros(3, np.uint8))
    targets = only_targets(plan, index)
    for row in range(count):
        first, last = CACHE.box_offsets[index[row] : index[row] + 2]
        mapped = plan.map_boxes(CACHE.boxes[first:last], np.full(last - first, row))
        low, high = plan.clip[row, :2], plan.clip[row, :2] + plan.clip[row, 2:]
        uncut = (mapped[:, :2] >= low).all(1) & (mapped[:, 2:] <= high).all(1)
        shown = [box.tobytes() for box in targets.boxes[row].numpy()]
        assert all(box.tobytes() in shown for box in mapped[uncut])


@given(recipes, st.lists(indices, min_size=1, max_size=4), st.integers(0, 2**32))
def test_several_batches_planned_at_once_are_each_as_by_itself(recipe, batches, seed):
    """A plan of several batches splits into plans whose targets are those placed together, padded for each alone."""
    index, ends = np.concatenate(batches), np.cumsum([len(batch) for batch in batches]).tolist()
    plan, rng = RECORDS.plan(index), np.random.default_rng(seed)
    for transform in recipe:
        transform(plan, rng, RECORDS)
    RandomAlign().place(plan, rng, ends)
    together, _ = targets_of(plan, index, ends, CACHE.annotations, IDS)
    for part, targets, batch in zip(plan.split(ends), together, batches, strict=True):
        assert len(part.size) == len(batch) and (part.canvases == part.canvas).all()
        assert part.canvas == RandomAlign().canvas(part.size)
        alone = only_targets(part, np.array(batch))
        assert alone.num_boxes == targets.num_boxes and alone.num_sources == targets.num_sources
        for name in ("boxes", "labels", "crowd", "area", "image_id", "flip", "size", "original_size"):
            assert torch.equal(getattr(alone, name), getattr(targets, name)), name
        for name in ("scale", "offset"):
            torch.testing.assert_close(getattr(alone, name), getattr(targets, name), rtol=0, atol=0, equal_nan=True)


def test_small_and_narrow_boxes_are_dropped_when_a_plan_says_so():
    """`min_size` and `max_aspect` hold for all boxes, cut or not."""
    index = np.arange(24)
    plan, _ = planned([], index)
    before = only_targets(plan, index)
    sides = torch.cat([(before.boxes[i, :n, 2:] - before.boxes[i, :n, :2]) for i, n in enumerate(before.num_boxes)])
    plan.min_size = float(sides.median())
    assert sum(only_targets(plan, index).num_boxes) == int((sides.amin(1) >= plan.min_size).sum())
    plan.min_size, aspect = 0, sides.amax(1) / sides.amin(1)
    plan.max_aspect = float(aspect.median()) + 1e-4
    assert sum(only_targets(plan, index).num_boxes) == int((aspect <= plan.max_aspect).sum()) < len(sides)


def test_boxes_with_centers_elsewhere_are_dropped():
    """`keep_centered` drops those whose center a crop removes, in the slots it names; later crops do not matter."""
    index = np.arange(24)
    plan = RECORDS.plan(index)
    chosen = index % 2 == 0
    part = np.concatenate([np.zeros_like(plan.size), plan.size * 2 // 3], 1)
    plan.crop_to(part)
    plan.keep_centered(chosen)
    plan.crop_to(np.concatenate([np.zeros_like(plan.size), plan.size - 1], 1))
    RandomAlign().place(plan, np.random.default_rng(0))
    every = [row for i in index for row in expected_boxes(plan, i)]
    inside = []
    for i in index:
        offset = plan.offset[i].tolist() * 2
        for k in range(CACHE.box_offsets[i], CACHE.box_offsets[i + 1]):
            center = (CACHE.boxes[k, :2] + CACHE.boxes[k, 2:]) / 2
            box = plan.map_boxes(CACHE.boxes[k : k + 1], np.array([i]))[0] - offset
            whole = (box[:2] >= 0).all() and (box[2:] <= plan.size[i]).all()
            shown = (np.minimum(box[2:], plan.size[i]) - np.maximum(box[:2], 0) >= 1).all() or whole
            inside.append(shown and (not chosen[i] or (center <= part[i, 2:]).all()))
    assert sum(only_targets(plan, index).num_boxes) == sum(inside) < len(every)


def test_weights_of_mixed_images_are_a_column():
    """`mix_weight` has the weight of the row that shows the box, and 0 in the padding; it may be absent."""
    index = np.arange(6)
    plan, _ = planned([], index)
    assert "mix_weight" not in only_targets(plan, index).columns
    plan.weigh(np.linspace(0.5, 1, 6))
    plan.weigh(np.full(6, 0.5))
    targets = only_targets(plan, index)
    for i, n in enumerate(targets.num_boxes):
        assert targets[i]["mix_weight"].tolist() == pytest.approx([np.linspace(0.25, 0.5, 6)[i]] * n)
        assert not targets.columns["mix_weight"][i, n:].any()
