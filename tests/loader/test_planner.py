"""Runs: batches are planned many at a time, which nobody notices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastload import FastLoader, PlanError, RandomAlign, RandomFlip, ShortestEdge, Transform
from fastload.loader import planner
from fastload.loader.planner import RUN, PlannedRuns
from tests.support.loaders import CACHE, IDS, RANDOM, assert_equal, copies, ids, loader, seeded


@pytest.fixture
def short_runs(monkeypatch):
    """Runs of four batches, so that an epoch of the tests' cache has several."""
    monkeypatch.setattr(planner, "RUN", 4)


class SeesSizes(Transform):
    """Notes how many images it is given."""

    def __init__(self, spans_batches: bool) -> None:
        self.spans_batches, self.seen = spans_batches, []

    def __call__(self, plan, rng, images):
        self.seen.append(len(plan.size))


def test_a_users_transform_is_given_one_batch_at_a_time_unless_it_says_otherwise(short_runs):
    """Without `spans_batches` a transform's plan is a batch; with it, a run's, if all others agree."""
    for transforms, sizes in (
        ([SeesSizes(False)], [4] * 9 + [1]),
        ([SeesSizes(True)], [16, 16, 5]),
        ([SeesSizes(True), ShortestEdge([32, 48], per_batch=True)], [16, 16, 5]),
        ([SeesSizes(True), SeesSizes(False)], [4] * 9 + [1]),
        ([SeesSizes(True), *RANDOM], [16, 16, 5]),
    ):
        assert ids(loader(transforms=transforms)) == [IDS[i : i + 4] for i in range(0, 37, 4)]
        assert transforms[0].seen == sizes


def test_one_size_for_a_batch_is_one_for_each_of_a_run(short_runs):
    """`ShortestEdge(per_batch=True)` draws once for every batch."""
    transforms = [ShortestEdge(list(range(20, 60)), per_batch=True)]
    shortest = [targets.size.min(1).values.unique().tolist() for _, targets in loader(transforms=transforms)]
    assert all(len(sizes) == 1 for sizes in shortest) and len({size for (size,) in shortest}) > 3


@pytest.mark.parametrize("step", range(11))
def test_a_run_is_the_same_wherever_one_resumes_in_it(short_runs, step):
    """After any number of batches, the state's loader goes on with the same pixels and boxes."""
    settings = {"transforms": RANDOM, "shuffle": True, "collate_fn": RandomAlign()}
    whole = copies(loader(**settings))
    first = loader(**settings)
    batches = iter(first)
    for _ in range(step):
        next(batches)
    second = loader(**settings, generator=seeded(1))
    second.load_state_dict(first.state_dict())
    assert_equal(copies(second), whole[step:] if step else whole)


def test_a_batch_that_cannot_be_planned_spoils_no_other(short_runs):
    """In a run, an image too large for the canvas is an error in its batch's turn, whatever the prefetching."""

    def outcome(**arguments):
        batches = iter(loader(transforms=[RandomFlip()], collate_fn=RandomAlign(canvas_sizes=(80, 80)), **arguments))
        found = []
        while True:
            try:
                found.append(next(batches).images.clone())
            except StopIteration:
                return found
            except PlanError as error:
                assert "fits none of the canvas sizes" in str(error)
                found.append(None)

    expected = [(CACHE.sizes[i : i + 4].max() > 80) for i in range(0, 37, 4)]
    assert True in expected and False in expected
    found = outcome()
    assert [images is None for images in found] == expected
    again = outcome(num_workers=2, prefetch_factor=7)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_a_failing_sampler_raises_after_the_batches_it_gave(short_runs):
    """The batches of an incomplete run come first, then the sampler's own exception, in its turn."""

    def failing():
        yield from ([0, 1], [2, 3], [4, 5], [6, 7], [8, 9])
        raise KeyError("mine")

    batches = iter(FastLoader(CACHE, batch_sampler=failing(), generator=seeded()))
    assert ids([next(batches) for _ in range(5)]) == [IDS[i : i + 2] for i in range(0, 10, 2)]
    with pytest.raises(KeyError, match="mine"):
        next(batches)
    assert list(batches) == []


def test_runs_begin_at_the_same_batches_after_any_cut():
    """Numbers and contents of the runs do not depend on where one starts, only what is left of the first."""

    def plan(step, batches):
        return [Run([(step, k, int(batch)) for k, batch in enumerate(batches)])]

    class Run(list):
        """Stands in for a run of such batches."""

        ends = property(list)

        def part(self, begin, end):
            return Run(self[begin:end])

    def runs(cut):
        batches = iter(np.arange(3 * RUN + 5))
        return [job for runs in PlannedRuns(plan, batches, start=7, cut=cut) for run in runs for job in run]

    whole = runs(0)
    assert whole[RUN] == (7 + RUN, 0, RUN)
    for cut in (1, RUN - 1, RUN, RUN + 1, 3 * RUN + 4, 3 * RUN + 5):
        assert runs(cut) == whole[cut:]
