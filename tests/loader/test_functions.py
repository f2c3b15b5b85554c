"""Python functions in `transforms` and as `collate_fn`: what they get, and threads of their own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastload import IMAGENET_MEAN, IMAGENET_STD, CenterAlign, FastLoader, RandomAlign, RandomFlip
from fastload.errors import ArgumentError
from fastload.pixel_format import MEMORY_FORMATS
from tests.support.loaders import CACHE, IDS, RANDOM, loader
from tests.support.memory_cache import MemoryCache


class Image(torch.Tensor):
    """Stands for tv_tensors.Image."""

    def __new__(cls, data):
        return torch.as_tensor(data).as_subclass(cls)


class BoundingBoxes(torch.Tensor):
    """Stands for tv_tensors.BoundingBoxes."""

    def __new__(cls, data, *, format, canvas_size):
        boxes = torch.as_tensor(data).as_subclass(cls)
        boxes.format, boxes.canvas_size = format, canvas_size
        return boxes


@pytest.fixture
def tv_tensors(monkeypatch) -> None:
    module = SimpleNamespace(Image=Image, BoundingBoxes=BoundingBoxes)
    monkeypatch.setitem(sys.modules, "torchvision.tv_tensors", module)


@pytest.mark.parametrize("batch_size", [4, None])
def test_functions_get_tv_tensors(tv_tensors, batch_size):
    """Where torchvision has been imported, images and boxes are its own types, with the size of the image."""
    seen = []

    def look(image, target):
        seen.append((image, target))
        return image, target

    list(loader(batch_size=batch_size, transforms=[look], dtype=torch.float32))
    expected = list(FastLoader(CACHE, None, dtype=torch.float32))
    assert len(seen) == 37
    for (image, target), (plain, described) in zip(seen, expected, strict=True):
        boxes = target["boxes"]
        assert type(image) is Image and torch.equal(torch.as_tensor(image), plain)
        assert type(boxes) is BoundingBoxes and (boxes.format, boxes.canvas_size) == ("XYXY", tuple(plain.shape[1:]))
        assert torch.equal(boxes, described["boxes"]) and target["image_id"] == described["image_id"]
        assert type(target["labels"]) is torch.Tensor and type(described["boxes"]) is torch.Tensor


def test_tv_tensors_are_collated(tv_tensors):
    """The batch of collators is of plain shape whatever functions got and returned."""
    same = lambda image, target: (image, target)  # noqa: E731
    found, plain = (next(iter(loader(transforms=functions, collate_fn=CenterAlign()))) for functions in ([same], []))
    assert torch.equal(torch.as_tensor(found[0]), plain.images)
    assert all(map(torch.equal, (t["boxes"] for t in found[1]), (t["boxes"] for t in plain.targets)))


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("constants", [{}, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}], ids=["unit", "normalized"])
def test_padding_is_the_same_with_functions_as_without(constants, layout):
    """A function that changes nothing does not change a bit of a batch: the fill color is converted, too."""
    settings = {"dtype": torch.bfloat16, "memory_format": layout, "collate_fn": CenterAlign(fill=(7, 120, 250))}
    same = lambda image, target: (image, target)  # noqa: E731
    for found, plain in zip(
        loader(transforms=[same], **settings, **constants), loader(**settings, **constants), strict=True
    ):
        assert torch.equal(found[0], plain.images) and found[0].is_contiguous(memory_format=layout)


def test_without_functions_nothing_is_a_tv_tensor(tv_tensors):
    """A `collate_fn` gets plain tensors, as torchvision's own gets from a dataset without transforms."""
    samples = next(iter(loader(collate_fn=list)))
    assert all(type(image) is torch.Tensor and type(target["boxes"]) is torch.Tensor for image, target in samples)


def plain(batches) -> list:
    return [
        (images.clone(), [t["boxes"] for t in targets], [t["image_id"] for t in targets]) for images, targets in batches
    ]


def assert_same(first, second) -> None:
    assert len(first) == len(second)
    for (images, boxes, found), (others, expected, also) in zip(first, second, strict=True):
        assert torch.equal(images, others) and all(map(torch.equal, boxes, expected)) and found == also


def darker(image, target):
    time.sleep(0.0005 * (target["image_id"] % 7))  # so that later batches are done before earlier ones
    return image // 2, target


@pytest.mark.parametrize("settings", [{"num_workers": 0}, {"num_workers": 2}, {"num_workers": 2, "prefetch_factor": 1}])
@pytest.mark.parametrize("workers", [1, 4])
def test_function_workers_do_not_change_a_bit(settings, workers):
    """Batches are those of the calling thread, in the same order, in every epoch."""
    common = {"shuffle": True, "transforms": [*RANDOM, darker], "collate_fn": RandomAlign()}
    here, elsewhere = loader(**common), loader(**common, **settings, function_workers=workers)
    for _ in range(2):
        assert_same(plain(elsewhere), plain(here))


@pytest.mark.parametrize("what", ["transforms", "collate_fn"])
def test_functions_run_in_threads_of_their_own(what):
    """Several at a time, for `transforms` and for a `collate_fn`; none of it where there are no functions."""
    meeting, names = threading.Barrier(2, timeout=20), set()

    def meet(*samples):
        meeting.wait()  # passes only if another batch's function is there as well
        names.add(threading.current_thread().name)
        return samples if what == "transforms" else len(*samples)

    def sizes():
        data = FastLoader(MemoryCache(8), 1, num_workers=1, function_workers=2, **given)
        return [batch if isinstance(batch, int) else len(batch[0]) for batch in data]

    given = {what: [meet] if what == "transforms" else meet}
    assert sizes() == [1] * 8
    assert names and all(name.startswith("fastload-function") for name in names)
    given = {"transforms": [RandomFlip()]}
    before = set(threading.enumerate())
    batches = iter(FastLoader(MemoryCache(8), 1, function_workers=2, **given))
    next(batches)
    assert set(threading.enumerate()) <= before


def faulty(error):
    def fail(image, target):
        if target["image_id"] in (IDS[9], IDS[21]):
            raise error
        return image, target

    return fail


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    ("error", "caught", "match"),
    [(KeyError("mine"), KeyError, "mine"), (StopIteration(5), RuntimeError, "raised StopIteration")],
    ids=["own", "StopIteration"],
)
def test_a_functions_error_comes_in_its_turn(workers, error, caught, match):
    """At its own batch, the others before and after it; a StopIteration does not end the loop without a word."""
    batches = iter(loader(transforms=[faulty(error)], num_workers=2, function_workers=workers))
    found = []
    for step in range(10):
        if step in (2, 5):
            with pytest.raises(caught, match=match) as raised:
                next(batches)
            assert caught is KeyError or raised.value.__cause__ is error
        else:
            found.append([target["image_id"] for target in next(batches)[1]])
    assert found == [IDS[4 * step : 4 * step + 4] for step in range(10) if step not in (2, 5)]
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_collate_fns_stop_iteration_is_an_error(workers):
    """As of functions in transforms."""

    def collate(samples):
        raise StopIteration

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(loader(collate_fn=collate, function_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_is_that_of_what_came(workers):
    """Batches that threads have done ahead do not count; a loader resumed there has the rest, bit for bit."""
    common = {"shuffle": True, "transforms": [RandomFlip(), darker], "collate_fn": RandomAlign()}
    data = loader(**common, num_workers=2, function_workers=workers)
    batches = iter(data)
    for _ in range(3):
        next(batches)
    time.sleep(0.05)
    state, rest = data.state_dict(), plain(batches)
    again = loader(**common, function_workers=2 - workers, generator=torch.Generator().manual_seed(9))
    again.load_state_dict(state)
    assert state["step"] == 3 and len(rest) == 7
    assert_same(plain(again), rest)


def test_damaged_images_are_skipped_from_threads():
    """on_error="skip" works there: all are named, and a warning counts them at the end."""
    data = loader(MemoryCache(37, damaged=[3, 20]), transforms=[darker], function_workers=3, on_error="skip")
    with pytest.warns(UserWarning, match="2 images"):
        batches = plain(data)
    assert sorted(data.skipped) == [IDS[3], IDS[20]] and [i for *_, found in batches for i in found] == IDS


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_gets_through_to_the_caller(workers):
    """While a function runs, an interrupt is a KeyboardInterrupt; of threads' batches none is lost by it."""

    def slow(image, target):
        time.sleep(0.05)
        return image, target

    data = loader(MemoryCache(12), transforms=[slow], function_workers=workers)
    batches = iter(data)
    timer = threading.Timer(0.06, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    timer.join()
    assert [target["image_id"] for _, targets in batches for target in targets] == IDS[:12]


def test_an_iterator_that_is_dropped_ends_its_threads():
    """Also in mid-epoch, with batches under way; those not begun are not made."""
    before, made = threading.active_count(), []

    def count(image, target):
        made.append(target["image_id"])
        time.sleep(0.01)
        return image, target

    batches = iter(loader(batch_size=1, transforms=[count], num_workers=1, function_workers=2))
    next(batches)
    del batches
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    done = len(made)
    time.sleep(0.05)
    assert threading.active_count() <= before and len(made) == done < 37


def test_function_workers_are_a_number_of_threads():
    """Not a negative one."""
    with pytest.raises(ArgumentError, match="function_workers is a number of threads, not -1"):
        loader(function_workers=-1)


def test_global_random_numbers_repeat_in_the_calling_thread():
    """Without function_workers what functions draw is the same from run to run, whatever num_workers is."""

    def noisy(image, target):
        return image, target | {"draw": (np.random.random(), torch.rand(()).item())}

    drawn = []
    for workers in (0, 2):
        np.random.seed(3)
        torch.manual_seed(3)
        data = loader(transforms=[noisy], num_workers=workers)
        drawn.append([target["draw"] for _, targets in data for target in targets])
    assert drawn[0] == drawn[1]
