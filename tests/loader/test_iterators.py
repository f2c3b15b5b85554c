"""Any number of iterators over one loader, in one thread and in several: number k gives the batches of epoch k."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, islice
from typing import Any

import pytest
import torch

from fastload import FastLoader, FastloadError, RandomAlign
from fastload.cache.format.layout import Encoding
from tests.support.engines import ENGINES
from tests.support.loaders import RANDOM, assert_equal, copies, ids, loader
from tests.support.memory_cache import MemoryCache

pytestmark = pytest.mark.timeout(60)  # what these tests look for hangs

SETTINGS: dict[str, Any] = {"shuffle": True, "transforms": RANDOM, "collate_fn": RandomAlign(), "batch_size": 3}
SMALL = MemoryCache(14)  # five batches
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(autouse=True)
def one_thread_of_torchs() -> Iterator[None]:
    """Torch's own threads would spin for one another while a busy machine lets neither go on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache
def cache_of(encoding: Encoding) -> MemoryCache:
    return MemoryCache(14, encoding=encoding)


def undisturbed(cache: MemoryCache, epochs: int, **arguments: Any) -> list[Batches]:
    """The batches of epochs that are iterated one after the other."""
    data = loader(cache, **SETTINGS, **arguments)
    return [copies(data) for _ in range(epochs)]


def in_threads(*functions: Callable[[], None]) -> None:
    """Call each in a thread of its own, at once; raise what one of them raises."""
    errors: list[BaseException] = []
    together = threading.Barrier(len(functions))

    def call(function: Callable[[], None]) -> None:
        try:
            together.wait()
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_loops_may_be_nested(workers):
    """Inside a loop over a loader, others over the same one are whole epochs; the outer one goes on unharmed."""
    data, expected = loader(SMALL, **SETTINGS, num_workers=workers), undisturbed(SMALL, 6)
    outer = []
    for inner, batch in enumerate(data, start=1):
        assert_equal(copies(data), expected[inner])
        outer += copies([batch])
    assert_equal(outer, expected[0])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("kept", [3, 30])
def test_iterators_may_be_kept(workers, kept):
    """However many have begun, each gives its epoch to the end, whatever the turns they are asked in."""
    data = loader(SMALL, **SETTINGS, num_workers=workers)
    expected = undisturbed(SMALL, kept)
    iterators = [iter(data) for _ in range(kept)]
    found: list[Batches] = [[] for _ in iterators]
    turns, rng = list(range(kept)) * 5, random.Random(kept)
    rng.shuffle(turns)
    for k in turns:
        found[k] += copies([next(iterators[k])])
    assert all(next(iterator, None) is None for iterator in iterators)
    for one, whole in zip(found, expected, strict=True):
        assert_equal(one, whole)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_iterator_that_waits_takes_nothing_from_others(workers):
    """`next(iter(loader))` now and then, kept or dropped, leaves whole epochs whole."""
    data = loader(MemoryCache(40), batch_size=1, num_workers=workers)
    kept = []
    for _ in range(3):
        batches = iter(data)
        next(batches)
        next(iter(data))
        kept.append(batches)
        assert sum(1 for _ in data) == 40
    assert [sum(1 for _ in batches) for batches in kept] == [39] * 3


def test_an_iterator_outlives_its_loader_and_others():
    """Iterators go on when the loader, and all others of it, are dropped."""
    data, expected = loader(SMALL, **SETTINGS, num_workers=2), undisturbed(SMALL, 3)
    iterators = [iter(data) for _ in range(3)]
    firsts = [copies([next(batches)]) for batches in iterators]
    del data
    gc.collect()
    for k in (1, 0, 2):
        assert_equal(firsts[k] + copies(iterators[k]), expected[k])
        iterators[k] = None
        gc.collect()


def iterate_in_threads(data: FastLoader, threads: int, epochs: int) -> list[Batches]:
    """What each iteration gave, of `epochs` in each thread, in no order."""
    found: list[Batches] = []

    def work() -> None:
        for _ in range(epochs):
            found.append(copies(data))

    in_threads(*[work] * threads)
    return found


def assert_same_epochs(found: list[Batches], expected: list[Batches]) -> None:
    """Each iteration was one of these epochs, each epoch one iteration's."""
    assert len(found) == len(expected)
    for epoch in expected:
        alike = [one for one in found if all(torch.equal(a, b) for (_, a), (_, b) in zip(one, epoch, strict=True))]
        assert len(alike) == 1
        assert_equal(alike[0], epoch)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("encoding", list(Encoding), ids=lambda encoding: encoding.label)
def test_threads_may_iterate_one_loader(workers, encoding):
    """Two and more threads that loop over a loader get an epoch each time, to the last pixel."""
    cache = cache_of(encoding)
    data = loader(cache, **SETTINGS, num_workers=workers)
    assert_same_epochs(iterate_in_threads(data, 2, 3) + iterate_in_threads(data, 5, 1), undisturbed(cache, 11))


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_threads_may_iterate_whatever_the_engine(workers, engine):
    """The same for every engine."""
    data = loader(SMALL, **SETTINGS, num_workers=workers, engine=engine)
    assert_same_epochs(iterate_in_threads(data, 3, 2), undisturbed(SMALL, 6, engine=engine))


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_may_iterate_with_functions_and_on_a_device(workers):
    """The same with a function of the user's, and with batches normalised for a device."""

    def darken(image, target):
        return image // 2, target

    def boxes(batch):
        images, targets = batch
        return images.clone(), torch.cat([target["boxes"] for target in targets])

    def data() -> FastLoader:
        arguments = {**SETTINGS, "transforms": [*RANDOM, darken], "num_workers": workers, "device": "cpu"}
        return loader(SMALL, **arguments)

    one, several = data(), data()
    expected, found = [list(map(boxes, one)) for _ in range(6)], []
    in_threads(*[lambda: found.extend(list(map(boxes, several)) for _ in range(2))] * 3)
    assert_same_epochs(found, expected)


def test_threads_may_have_an_iterator_each():
    """Iterators made in one thread and used in others give their epochs; so do some that are handed on in between."""
    data, expected = loader(SMALL, **SETTINGS, num_workers=3), undisturbed(SMALL, 4)
    iterators, found = [iter(data) for _ in range(4)], [[] for _ in range(4)]

    def take(k: int, batches: int) -> Callable[[], None]:
        return lambda: found[k].extend(copies(islice(iterators[k], batches)))

    in_threads(*(take(k, 2) for k in range(4)))
    found[0] += copies([next(iterators[0])])
    in_threads(*(take(k, 9) for k in range(4)))
    for one, epoch in zip(found, expected, strict=True):
        assert_equal(one, epoch)


def test_two_threads_cannot_ask_at_a_time(sleeping_loader):
    """While one thread waits for a batch, another that asks gets an error at once; no batch is lost or comes twice."""
    expected, batches = ids(sleeping_loader), iter(sleeping_loader)
    found = ids([next(batches)])
    thread = threading.Thread(target=lambda: found.extend(ids([next(batches)])))
    thread.start()
    time.sleep(0.05)
    asked = time.monotonic()
    with pytest.raises(FastloadError, match="give each thread its own"):
        next(batches)
    assert time.monotonic() - asked < 0.1
    thread.join()
    assert [*found, *ids(batches)] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_that_ask_one_iterator_lose_nothing(workers):
    """Four threads that all ask, and try again when refused, get every batch of the epoch once."""
    data = loader(MemoryCache(200), 1, num_workers=workers)
    batches, found, refused = iter(data), [], []

    def work() -> None:
        while True:
            try:
                found.append(ids([next(batches)])[0][0])
            except FastloadError as error:
                refused.append(error)
                time.sleep(0.001)  # the one that waits needs the GIL
            except StopIteration:
                return

    in_threads(*[work] * 4)
    assert sorted(found) == data.dataset.image_ids.tolist() and found != refused
    assert data.stats().batches == 200


def test_each_iteration_has_its_own_figures():
    """`stats` are of the iteration begun last: what others do meanwhile is not counted."""
    data = loader(SMALL, **SETTINGS, num_workers=2)
    older, newer = iter(data), iter(data)
    next(newer)
    copies(older)
    found = data.stats()
    assert (found.batches, found.images, found.threads) == (1, 3, 2)
    copies(newer)
    found = data.stats()
    assert (found.batches, found.images) == (5, 14)
    assert found.seconds == pytest.approx(found.training + found.waiting + found.planning)
    assert min(found.training, found.waiting, found.planning) >= 0
    iter(data)
    assert data.stats().batches == 0


@dataclass(eq=False)
class Iteration:
    """An iterator, and what it is to give next."""

    batches: Iterator[Any]
    epoch: int
    step: int
    done: bool = False


@dataclass
class Mixture:
    """Iterators of loaders begun, advanced, kept and dropped at random, resumed in others, in several threads.

    All that is drawn depends on `seed` only. Every batch must be the one of an undisturbed epoch.
    """

    seed: int
    live: list[Iteration] = field(default_factory=list)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)  # batches, and what they were

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.cache = cache_of(self.rng.choice(list(Encoding)))
        self.reference, self.epochs = loader(self.cache, **SETTINGS), []
        self.another_loader()

    def run(self, steps: int) -> None:
        moves = (self.begin, self.advance, self.advance, self.advance, self.drop, self.let_go, self.advance_in_threads,
                 self.begin_in_threads, self.resume, self.another_loader, gc.collect)  # fmt: skip
        for _ in range(steps):
            self.rng.choice(moves)()
            assert all(torch.equal(now, was) for now, was in self.kept)
        while self.live:
            self.take(self.live.pop(), 100)

    def expected(self, epoch: int) -> Batches:
        while len(self.epochs) <= epoch:
            self.epochs.append(copies(self.reference))
        return self.epochs[epoch]

    def new_loader(self) -> FastLoader:
        depth = self.rng.choice([None, 1, 2, 5])
        workers = self.rng.randrange(4)
        return loader(self.cache, **SETTINGS, num_workers=workers, prefetch_factor=depth if workers else None)

    def another_loader(self) -> None:
        """The former is dropped; its iterators live on."""
        self.data, self.next_epoch, self.latest = self.new_loader(), 0, None

    def begin(self) -> None:
        self.latest = Iteration(iter(self.data), self.next_epoch, 0)
        self.next_epoch += 1
        self.live.append(self.latest)

    def advance(self) -> None:
        if self.live:
            self.take(self.rng.choice(self.live), self.rng.randrange(4))

    def take(self, one: Iteration, batches: int) -> None:
        whole = self.epochs[one.epoch] if one.epoch < len(self.epochs) else self.expected(one.epoch)
        for _ in range(batches):
            batch = next(one.batches, None)
            if batch is None:
                one.done = True
            assert (batch is None) == (one.step == len(whole))
            if batch is None:
                return
            assert_equal([(batch.images, batch.targets.boxes)], [whole[one.step]])
            one.step += 1
            if one.step % 3 == 0:
                self.kept.append((batch.images, batch.images.clone()))

    def drop(self) -> None:
        if self.live:
            del self.live[self.rng.randrange(len(self.live))]

    def let_go(self) -> None:
        del self.kept[: self.rng.randrange(len(self.kept) + 1)]

    def advance_in_threads(self) -> None:
        """Some iterators, each in a thread."""
        for one in self.live:
            self.expected(one.epoch)
        some = self.rng.sample(self.live, min(len(self.live), 4))
        steps = [self.rng.randrange(6) for _ in some]
        if some:
            in_threads(*(lambda one=one, n=n: self.take(one, n) for one, n in zip(some, steps, strict=True)))

    def begin_in_threads(self) -> None:
        """Whole epochs, while iterators are dropped."""
        threads = self.rng.randrange(1, 4)
        first = self.next_epoch
        self.next_epoch += threads
        expected = [self.expected(epoch) for epoch in range(first, self.next_epoch)]
        found: list[Batches] = []
        in_threads(*[lambda: found.append(copies(self.data))] * threads, self.drop)
        assert_same_epochs(found, expected)
        self.latest = None  # whichever

    def resume(self) -> None:
        """A fresh loader goes on where the latest iteration is, and may take the old one's place."""
        one = self.latest
        if one is None:
            return
        state = self.data.state_dict()
        epoch, step = (one.epoch + 1, 0) if one.done else (one.epoch, one.step)
        assert (state["epoch"], state["step"]) == (epoch, step)
        other = self.new_loader()
        other.load_state_dict(state)
        resumed = Iteration(iter(other), epoch, step)
        self.take(resumed, self.rng.randrange(7))
        if self.rng.random() < 0.5:
            self.live.append(resumed)
            self.data, self.next_epoch, self.latest = other, epoch + 1, resumed


@pytest.mark.parametrize("seed", range(6))
def test_random_mixtures_of_iterators(seed):
    """Whatever is begun, kept, dropped and resumed, in whatever thread: every batch is right."""
    Mixture(seed).run(60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_random_mixtures_of_iterators():
    """The same for three minutes, with other seeds each time; the one at work is printed."""
    end, first = time.monotonic() + 180, random.SystemRandom().randrange(10**9)
    for seed in count(first):
        print("seed", seed, flush=True)
        Mixture(seed).run(200)
        if time.monotonic() > end:
            return
