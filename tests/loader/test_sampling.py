"""The order of an epoch."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastload.loader.sampling import EpochOrder, EpochRandom, cut_batches_by_aspect

orders = st.builds(
    EpochOrder,
    aspect=st.integers(0, 700).map(lambda n: np.random.default_rng(n).uniform(0.3, 3, n)),
    batch_size=st.integers(1, 9),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    grouped=st.booleans(),
)


@given(orders, st.integers(0, 2**63 - 1), st.integers(0, 100))
def test_every_position_comes_exactly_once(order, seed, epoch):
    """Whatever the settings, an epoch has each position once; drop_last leaves out less than a batch."""
    batches = list(order.batches(seed, epoch))
    seen = np.concatenate([np.zeros(0, int), *batches])
    n = len(order.aspect)
    assert len(set(seen.tolist())) == len(seen) == (n // order.batch_size * order.batch_size if order.drop_last else n)
    assert all(len(batch) == order.batch_size for batch in batches[:-1])
    assert len(batches) == (n // order.batch_size if order.drop_last else -(-n // order.batch_size))


@given(orders, st.integers(0, 2**63 - 1))
def test_an_epoch_is_a_function_of_seed_and_number(order, seed):
    """The same seed and epoch give the same batches; another epoch another order."""
    first, again, later = (list(order.batches(seed, epoch)) for epoch in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    if order.shuffle and not order.drop_last and len(order.aspect) > 20:
        assert not np.array_equal(np.concatenate(first), np.concatenate(later))


def test_groups_have_similar_aspect_ratios():
    """Grouping leaves little spread of aspect ratio within a batch, where plain batches have the whole range."""
    aspect = np.random.default_rng(0).uniform(0.5, 2, 2048)
    order = np.random.default_rng(1).permutation(2048)
    spread = [np.ptp(aspect[b]) for b in cut_batches_by_aspect(order, aspect, 16, False, np.random.default_rng(2))]
    assert np.mean(spread) < 0.06 and np.mean([np.ptp(aspect[b]) for b in order.reshape(-1, 16)]) > 1.2


def test_dropped_images_are_the_tail_of_the_order_not_the_widest():
    """What drop_last leaves out is decided by the shuffle, so no kind of image is systematically unseen."""
    aspect, order = np.linspace(0.5, 2, 105), np.random.default_rng(3).permutation(105)
    batches = cut_batches_by_aspect(order, aspect, 10, True, np.random.default_rng(0))
    assert set(order[-5:].tolist()) == set(range(105)) - set(np.concatenate(list(batches)).tolist())


def test_sequential_order_is_kept():
    """Without shuffle or sampler, positions come in order."""
    order = EpochOrder(np.ones(7), 3, drop_last=False, shuffle=False, grouped=False)
    assert [batch.tolist() for batch in order.batches(0, 0)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_endless_sampler_is_read_lazily():
    """A sampler without end yields batches without end."""
    order = EpochOrder(np.ones(2), 3, drop_last=False, shuffle=True, grouped=True, sampler=iter(lambda: 1, 2))
    assert next(order.batches(0, 0)).tolist() == [1, 1, 1]


def test_steps_have_numbers_of_their_own():
    """No two steps or epochs share random numbers, and none depends on another having been drawn."""
    draws = {(e, s): tuple(EpochRandom(5, e).step(s).random(4)) for e in range(20) for s in range(50)}
    assert len(set(draws.values())) == 1000
    random = EpochRandom(5, 7)
    assert tuple(random.order().random(4)) not in draws.values()
    for step in (9, 3, 9):
        assert tuple(random.step(step).random(4)) == draws[7, step]
        random.step(step).integers(3, size=5, dtype=np.int32)  # leaves half a word behind
