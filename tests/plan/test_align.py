"""The collators, as planners and as an ordinary collate_fn."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastload import CenterAlign, Collator, PlanError, RandomAlign, TopLeftAlign
from fastload.errors import ArgumentError
from fastload.plan.batch_plan import BatchPlan

sizes = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=8).map(
    lambda size: np.array(size, np.int32)
)
collators = st.one_of(
    st.builds(TopLeftAlign, divisor=st.integers(1, 64)),
    st.builds(CenterAlign, divisor=st.integers(1, 64), grid=st.integers(1, 64)),
    st.builds(RandomAlign, divisor=st.integers(1, 64), grid=st.integers(1, 64)),
)


@given(sizes, collators, st.integers(0, 2**32))
def test_images_lie_within_the_smallest_canvas_of_the_divisor(size, collator, seed):
    """The canvas is the batch's largest extent rounded up, and every image is on it, on the grid."""
    plan = BatchPlan.of(np.arange(len(size)), size)
    collator.place(plan, np.random.default_rng(seed))
    for extent, needed in zip(plan.canvas, size.max(0).tolist(), strict=True):
        assert extent % collator.divisor == 0 and needed <= extent < needed + collator.divisor
    assert (plan.offset >= 0).all() and (plan.offset + plan.size <= plan.canvas).all()
    assert (plan.offset % getattr(collator, "grid", 1) == 0).all()
    assert plan.fill.tolist() == [124, 116, 104]


def test_where_each_collator_puts_an_image():
    """Top-left is the corner, centre the middle, and random reaches every offset of the grid about equally often."""
    size, canvas, rng = np.array([[10, 20]] * 3000, np.int32), (34, 32), np.random.default_rng(0)
    assert (TopLeftAlign().offsets(size, canvas, rng) == 0).all()
    assert (CenterAlign().offsets(size, canvas, rng) == (12, 6)).all()
    assert (CenterAlign(grid=8).offsets(size, canvas, rng) == (8, 0)).all()
    x, y = RandomAlign(grid=4).offsets(size, canvas, rng).T
    values, counts = np.unique(x, return_counts=True)
    assert values.tolist() == [0, 4, 8, 12, 16, 20, 24] and counts.min() > 300
    assert set(y.tolist()) == {0, 4, 8, 12}


def test_the_smallest_canvas_that_fits_is_taken():
    """Of several canvas_sizes, (height, width), the smallest by area that holds every image."""
    collator = TopLeftAlign(canvas_sizes=[(100, 100), (40, 80), (80, 40)])
    assert collator.canvas(np.array([[70, 30]])) == (80, 40)
    assert collator.canvas(np.array([[30, 70]])) == (40, 80)
    assert collator.canvas(np.array([[30, 70], [70, 30]])) == (100, 100)
    assert TopLeftAlign(canvas_sizes=(64, 96)).canvas(np.array([[3, 3]])) == (96, 64)
    assert TopLeftAlign(canvas_sizes=64).canvas(np.array([[3, 3]])) == (64, 64)
    with pytest.raises(PlanError, match=r"up to 101 high and 20 wide fits none .* max_size"):
        collator.canvas(np.array([[20, 101]]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopLeftAlign(divisor=0),
        lambda: RandomAlign(grid=0),
        lambda: TopLeftAlign(fill=(1, 2)),
        lambda: TopLeftAlign(fill=300),
        lambda: TopLeftAlign(canvas_sizes=(1.5, 2)),
        lambda: TopLeftAlign(canvas_sizes=[(1, 2, 3)]),
    ],
)
def test_wrong_settings_are_refused(make):
    """Nonsense is an error where it is written, not in mid-epoch."""
    with pytest.raises(ArgumentError):
        make()


def sample(width: int, height: int, dtype=torch.uint8):
    image = (torch.rand(3, height, width) * 255).to(dtype)
    target = {
        "boxes": torch.tensor([[1.0, 2.0, 5.0, 7.0]]),
        "labels": torch.tensor([3]),
        "masks": torch.ones(1, height, width, dtype=torch.uint8),
        "keypoints": torch.tensor([[[2.0, 3.0, 1.0], [0.0, 0.0, 0.0]]]),
    }
    return image, target


@pytest.mark.parametrize("collator", [TopLeftAlign(), CenterAlign(), RandomAlign(fill=(1, 2, 3))])
def test_collating_moves_pixels_and_targets_alike(collator):
    """On the canvas, each image is found unchanged at its offset, its targets with it, and fill around it."""
    samples = [sample(40, 30), sample(20, 50)]
    images, targets = collator(samples)
    assert images.shape == (2, 3, 64, 64) and images.dtype == torch.uint8
    for canvas, moved, (image, target) in zip(images, targets, samples, strict=True):
        x, y = moved["offset"].tolist()
        height, width = image.shape[1:]
        assert torch.equal(canvas[:, y : y + height, x : x + width], image)
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[y : y + height, x : x + width] = False
        assert (canvas[:, outside] == torch.tensor(collator.fill, dtype=torch.uint8)[:, None]).all()
        assert torch.equal(moved["masks"][0], (~outside).to(torch.uint8))
        assert torch.equal(moved["boxes"], target["boxes"] + torch.tensor([x, y, x, y]))
        assert torch.equal(moved["keypoints"], target["keypoints"] + torch.tensor([[x, y, 0], [0, 0, 0]]))
        assert "offset" not in target and torch.equal(target["boxes"], torch.tensor([[1.0, 2.0, 5.0, 7.0]]))


def test_float_images_keep_their_type_and_get_scaled_fill():
    """Floating-point images stay so, padded with fill / 255; fill=0 serves normalised ones."""
    images, _ = TopLeftAlign(fill=(255, 51, 0))([(torch.zeros(3, 8, 8), None)])
    assert images.dtype == torch.float32
    torch.testing.assert_close(images[0, :, -1, -1], torch.tensor([1.0, 0.2, 0.0]))


def test_pil_images_and_any_target_are_taken():
    """PIL images of any mode become RGB tensors; targets that are no dicts pass untouched."""
    images, targets = TopLeftAlign(divisor=1)(
        [(Image.new("L", (5, 4), 7), 42), (Image.new("RGB", (2, 2), (1, 2, 3)), 43)]
    )
    assert images.shape == (2, 3, 4, 5) and (images[0] == 7).all() and images[1, :, 0, 0].tolist() == [1, 2, 3]
    assert targets == [42, 43]


def test_other_images_are_refused():
    """What is not a 3-channel image is named in the error."""
    with pytest.raises(ArgumentError, match=r"Tensor of shape \(1, 4, 4\)"):
        TopLeftAlign()([(torch.zeros(1, 4, 4), None)])


def test_collate_fn_is_repeatable_and_picklable():
    """RandomAlign as a collate_fn draws from torch's generator, also after a trip to another process."""
    samples = [sample(40, 30), sample(20, 50)]
    torch.manual_seed(3)
    first, _ = RandomAlign()(samples)
    torch.manual_seed(3)
    again, _ = pickle.loads(pickle.dumps(RandomAlign()))(samples)
    assert torch.equal(first, again)


def test_a_collator_of_ones_own_needs_two_methods():
    """A subclass that decides the canvas and the offsets plans batches, and collates, with nothing else."""

    class BottomRight(Collator):
        def canvas(self, sizes):
            return 120, 100

        def offsets(self, sizes, canvas, rng):
            return np.array(canvas) - sizes

    plan = BatchPlan.of(np.arange(1), np.array([[50, 40]], np.int32))
    BottomRight().place(plan, np.random.default_rng(0))
    assert plan.canvas == (120, 100) and plan.clip.tolist() == [[70, 60, 50, 40]]
    assert BottomRight()([(torch.ones(3, 4, 5), {})])[1][0]["offset"].tolist() == [115, 96]


def test_collators_say_what_they_are():
    """A collator's repr shows its settings."""
    assert repr(RandomAlign(grid=8)) == ("RandomAlign(divisor=32, fill=(124, 116, 104), canvas_sizes=None, grid=8)")
