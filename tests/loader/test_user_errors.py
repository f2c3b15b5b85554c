"""What code of the user's raises arrives as it is, in its batch's turn, once; then the loop can go on."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from fastload import FastLoader, FastloadError, TopLeftAlign, Transform
from tests.support.loaders import IDS, ids, loader

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]


class Mine(Exception):
    """An error that nobody else knows."""


class Final(BaseException):
    """One that most code lets pass."""


ERRORS = (ValueError, KeyError, StopIteration, IndexError, Mine)
WRONG = 2  # the batch that is


class Code:
    """Raises `error` the call that is number `wrong`, and counts the calls."""

    def __init__(self, error: type[BaseException], wrong: int = WRONG) -> None:
        self.error, self.wrong, self.calls = error, wrong, 0

    def turn(self) -> None:
        self.calls += 1
        if self.calls == self.wrong + 1:
            raise self.error("mine")


class Edit(Code, Transform):
    """A transform of a batch."""

    def __call__(self, plan, rng, images):
        self.turn()


class EditOfRun(Edit):
    """A transform of all batches that are planned together."""

    spans_batches = True

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(error, wrong=0)


class Align(Code, TopLeftAlign):
    """A collator, placing batches one by one."""

    spans_batches = False

    def __init__(self, error: type[BaseException]) -> None:
        Code.__init__(self, error)
        TopLeftAlign.__init__(self)

    def place(self, plan, rng, ends):
        self.turn()
        super().place(plan, rng, ends)


class Function(Code):
    """A plain function of an image."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(error, wrong=4 * WRONG)

    def __call__(self, image, target):
        self.turn()
        return image, target


class Collate(Code):
    """A plain collate_fn."""

    def __call__(self, samples):
        self.turn()
        return TopLeftAlign()(samples)


def where(code: Code) -> dict[str, Any]:
    """The argument that it is for."""
    return {"transforms": [code]} if isinstance(code, Edit | Function) else {"collate_fn": code}


def outcomes(batches: Iterator[Any]) -> list[Any]:
    """What each `next` gives, as the ids of a batch or the error, up to the end."""
    found: list[Any] = []
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return found
        except Exception as error:
            found.append(error)
        else:
            targets = batch[1]
            found.append([t["image_id"] for t in targets])


BATCHES = [IDS[i : i + 4] for i in range(0, 37, 4)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("code", [Edit, Align, Function, Collate])
def test_an_error_comes_in_its_batchs_turn_and_the_loop_goes_on(code, error, workers):
    """Batches before and after it come as ever; StopIteration, which would end the loop, comes as RuntimeError."""
    wrong = code(error)
    data = loader(**where(wrong), num_workers=workers)
    found = outcomes(iter(data))
    raised = found.pop(WRONG)
    assert found == BATCHES[:WRONG] + BATCHES[WRONG + 1 :]
    if error is StopIteration:
        assert type(raised) is RuntimeError and isinstance(raised.__cause__, StopIteration)
    else:
        assert type(raised) is error and raised.args == ("mine",)
    assert wrong.calls == (37 - 3 if code is Function else 10)  # of the failed batch's images, the others are not seen
    assert outcomes(iter(data)) == BATCHES


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_a_transform_of_whole_runs_comes_first(error, workers):
    """What keeps a whole run from being planned is raised once, in the place of all its batches."""
    wrong = EditOfRun(error)
    data = loader(transforms=[wrong], num_workers=workers)
    (raised,) = outcomes(iter(data))
    assert type(raised) is (RuntimeError if error is StopIteration else error) and wrong.calls == 1
    assert outcomes(iter(data)) == BATCHES


class Order:
    """A sampler that fails once it has given `good` positions; `each` makes batches of what it gives."""

    def __init__(self, error: type[BaseException], good: int, each: Callable[[int], Any]) -> None:
        self.error, self.good, self.each, self.begun = error, good, each, 0

    def __iter__(self):
        self.begun += 1
        for i in range(self.good):
            yield self.each(i)
        raise self.error("mine")

    def __len__(self) -> int:
        return 10


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [ValueError, KeyError, StopIteration, Mine])
@pytest.mark.parametrize("kind", ["sampler", "batch_sampler"])
def test_an_error_in_a_sampler_comes_after_what_it_gave(kind, error, workers):
    """As with DataLoader without processes: whole batches, the error, and then the end."""
    order = Order(error, 10, (lambda i: i) if kind == "sampler" else (lambda i: [i, i + 1]))
    arguments: dict[str, Any] = {kind: order} | ({"batch_size": 4} if kind == "sampler" else {})
    found = outcomes(iter(FastLoader(loader().dataset, **arguments, num_workers=workers)))
    pairs = [(i, {"image_id": i}) for i in IDS]
    theirs = outcomes(iter(DataLoader(pairs, **arguments, collate_fn=lambda samples: [None, [t for _, t in samples]])))
    assert found[:-1] == theirs[:-1] and len(found) == (3 if kind == "sampler" else 11)
    assert type(found[-1]) is type(theirs[-1]) is (RuntimeError if error is StopIteration else error)
    assert order.begun == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_that_cannot_begin_is_an_error_once(workers):
    """What `__iter__` raises comes from the first `next`."""

    class Never:
        def __iter__(self):
            raise Mine("mine")

    for kind in ("sampler", "batch_sampler"):
        (raised,) = outcomes(iter(FastLoader(loader().dataset, **{kind: Never()}, num_workers=workers)))
        assert type(raised) is Mine


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Final])
@pytest.mark.parametrize("code", [Edit, Align, Function, Collate])
def test_what_ends_a_program_gets_through(code, error, workers):
    """SystemExit and its like come unchanged; who catches them still gets every batch, in a loop that goes on."""
    wrong = code(error)
    data = loader(**where(wrong), num_workers=workers)
    batches = iter(data)
    found: list[Any] = []
    with pytest.raises(error):
        while True:
            found += [[t["image_id"] for t in next(batches)[1]]]
    assert found == BATCHES[: len(found)]
    assert found + outcomes(batches) == BATCHES
    assert data.state_dict()["epoch"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_order_that_was_interrupted_is_not_taken_for_a_short_epoch(workers):
    """What ends a sampler's generator comes at once; batches that it gave come, then an error instead of the end."""
    data = FastLoader(loader().dataset, sampler=Order(Final, 10, lambda i: i), batch_size=4, num_workers=workers)
    batches, found = iter(data), []
    with pytest.raises(Final):
        while True:
            found += ids([next(batches)])
    found += outcomes(batches)
    assert found[:-1] == BATCHES[:2] and isinstance(found[-1], FastloadError)
    assert "start another iteration" in str(found[-1])


LEAVE = """
import gc, sys, time
import psutil
from fastload import FastLoader, TopLeftAlign, Transform

path, kind = sys.argv[1:]

def fail(*arguments):
    raise ValueError("mine")

class Fails(Transform):
    __call__ = fail

WHERE = {"function": {"transforms": [fail]}, "collate_fn": {"collate_fn": fail}, "transform": {"transforms": [Fails()]}}

def train():
    for batch in FastLoader(path, batch_size=3, num_workers=2, **WHERE[kind]):
        pass

process = psutil.Process()
list(FastLoader(path, num_workers=1))
gc.collect()
held = lambda: (process.num_threads(), sum(path in m.path for m in process.memory_maps(grouped=False)),
                process.num_fds())
before, kept = held(), []
for _ in range(20):
    try:
        train()
    except ValueError as error:
        kept.append(error)
assert len(kept) == 20 and all(error.__traceback__ for error in kept)
if kind == "function":  # some sooner, some later
    del kept[:10]
    gc.collect()
kept.clear()
gc.collect()
end = time.monotonic() + 10
while held() != before and time.monotonic() < end:
    time.sleep(0.02)
print(held() == before or (before, held()))
"""


@pytest.mark.parametrize("kind", ["function", "collate_fn", "transform"])
def test_kept_errors_hold_nothing_once_they_are_dropped(small_cache, kind):
    """Loops left twenty times by an error: no crash; threads, files and mappings go with the errors' tracebacks."""
    command = [sys.executable, "-c", LEAVE, str(small_cache), kind]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stdout + done.stderr


@pytest.mark.parametrize("taken", [1, WRONG + 1])
@pytest.mark.parametrize("code", [Edit, Align, Function, Collate])
def test_an_error_does_not_keep_its_iterator(code, taken):
    """Neither one that was raised nor one that is still to come. Only errors of planning, which are in the loop's own
    frames until their turn, are left to the garbage collector."""
    wrong = code(Mine)
    batches = iter(loader(**where(wrong), num_workers=2))
    gc.collect()
    gc.disable()
    try:
        for _ in range(taken):
            with suppress(Mine):
                next(batches)
        gone = weakref.ref(batches)
        del batches
        if code in (Edit, Align):
            gc.collect()
        assert gone() is None
    finally:
        gc.enable()
