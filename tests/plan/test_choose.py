"""RandomApply, OneOf and During: which images, batches and epochs their transforms apply to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fastload import ArgumentError, Transform
from fastload.plan.transforms import (
    ByEpoch,
    During,
    OneOf,
    RandomApply,
    RandomHSV,
    RandomZoomOut,
    Resize,
    SanitizeBoxes,
    size_ramp,
)
from tests.support.plans import assert_share, drawn, planned


class Whole(Transform):
    """Treats a batch as a whole."""

    def __call__(self, plan, rng, images):
        plan.resize(np.full_like(plan.size, 7))


def test_random_apply_applies_all_or_none_to_an_image():
    """In the share of images asked for, in order, with the rows of others unchanged."""
    plan = drawn(RandomApply([Resize(20), RandomZoomOut((2, 2), fill=1, p=1), RandomHSV()], p=0.3), 9, 9, count=3000)
    applied = plan.size[:, 0] == 40
    assert_share(applied, 0.3)
    assert (plan.size[~applied] == 9).all()
    assert (np.bincount(plan.slot) == np.where(applied, 3, 1)).all()
    images = plan.index >= 0
    assert plan.index[images].tolist() == list(range(3000))


def test_random_apply_decides_for_batches():
    """Images of a batch are treated alike, batches independently."""
    plan = drawn(RandomApply(Resize(20), 0.4, per_batch=True), 9, 9, count=6000, batch=3)
    applied = (plan.size[:, 0] == 20).reshape(-1, 3)
    assert (applied == applied[:, :1]).all()
    assert_share(applied[:, 0], 0.4)
    alone = [(planned(RandomApply(Resize(20), 0.5, per_batch=True), seed=seed).size == 20).all() for seed in range(200)]
    assert_share(np.array(alone), 0.5)


def test_one_of_applies_one_choice_to_each_image():
    """With its share of the probabilities; an empty list leaves the image."""
    plan = drawn(OneOf([Resize(20), [Resize(3), Resize(30)], []], p=(1, 2, 1)), 9, 9, count=4000)
    for edge, p in ((20, 0.25), (30, 0.5), (9, 0.25)):
        assert_share(plan.size[:, 0] == edge, p)
    even = drawn(OneOf([Resize(20), []]), 9, 9)
    assert_share(even.size[:, 0] == 20, 0.5)


def test_one_of_chooses_for_batches():
    """Images of a batch get the same choice, batches independent ones."""
    plan = drawn(OneOf([Resize(20), []], p=(1, 3), per_batch=True), 9, 9, count=6000, batch=3)
    chosen = (plan.size[:, 0] == 20).reshape(-1, 3)
    assert (chosen == chosen[:, :1]).all()
    assert_share(chosen[:, 0], 0.25)


@pytest.mark.parametrize(("start", "end", "epochs"), [(0, None, range(9)), (2, None, range(2, 9)), (1, 4, range(1, 4))])
def test_during_applies_in_its_epochs(start, end, epochs):
    """From `start` up to `end`, exclusive; inside of other choices too."""
    nested = RandomApply(OneOf([During([Resize(5), SanitizeBoxes(3)], start, end)]), p=1)
    for epoch in range(9):
        for transform in (During([Resize(5), SanitizeBoxes(3)], start, end), nested):
            plan = planned(transform, epoch=epoch)
            assert ((plan.size == 5).all(), plan.min_size == 3) == (epoch in epochs, epoch in epochs)


def test_by_epoch_has_the_latest_stage():
    """The stage whose first epoch came last; none before the first, and an empty one leaves the image."""
    stages = ByEpoch({6: [Resize(7), SanitizeBoxes(3)], 2: Resize(5), 8: []})
    plans = [planned(stages, epoch=epoch) for epoch in range(10)]
    original = planned([]).size
    for epoch, plan in enumerate(plans):
        expected = 5 if 2 <= epoch < 6 else 7 if 6 <= epoch < 8 else original
        assert (plan.size == expected).all() and (plan.min_size == 3) == (6 <= epoch < 8)


@pytest.mark.parametrize(("first", "last", "start", "end"), [(160, 192, 35, 76), (128, 224, 0, 10), (192, 96, 2, 7)])
def test_size_ramps_round_a_line_to_multiples(first, last, start, end):
    """For each epoch the nearest multiple to the line between both; only changes are listed."""
    ramp = size_ramp(first, last, start, end)
    for epoch in range(end + 20):
        share = min(max((epoch - start) / (end - start), 0), 1)
        size = ramp[max(begun for begun in ramp if begun <= epoch)]
        assert size == round((first + share * (last - first)) / 32) * 32
    assert list(ramp) == sorted(ramp) and all(one != other for one, other in pairwise(ramp.values()))
    assert size_ramp(100, 110, 0, 2, multiple=1) == {0: 100, 1: 105, 2: 110}
    for wrong in ((160, 192, 4, 4), (160, 192, -1, 4), (10, 192, 0, 4), (160, 192, 0, 4, 0)):
        with pytest.raises(ArgumentError, match="size_ramp"):
            size_ramp(*wrong)


@pytest.mark.parametrize(
    "wrap", [RandomApply, During, lambda inner: ByEpoch({3: inner}), lambda inner: OneOf([Resize(3), inner])]
)
def test_choices_span_batches_if_all_of_theirs_do(wrap):
    """One that needs a batch as a whole is still called per batch."""
    assert wrap([Resize(5), RandomHSV()]).spans_batches
    assert not wrap([Resize(5), Whole()]).spans_batches
