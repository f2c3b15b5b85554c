"""Images of any type and on any device: what they hold, and that no buffer is written while somebody may still read it.

A CUDA device's part is played by streams whose work is done when the test says so.
"""

from __future__ import annotations

import pickle
import weakref
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fastload.device as device_module
from fastload import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Batch,
    CenterAlign,
    DeviceError,
    FastLoader,
)
from fastload.device import Feed, Reading
from fastload.errors import ArgumentError
from fastload.loader import iterator
from fastload.pixel_format import MEMORY_FORMATS, PixelFormat
from tests.support.engines import ENGINES
from tests.support.loaders import CACHE, IDS, RANDOM, assert_equal, copies, ids, loader
from tests.support.memory_cache import MemoryCache
from tests.test_pixel_format import by_torch

FLOATS = [torch.float32, torch.float16, torch.bfloat16]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class FakeEvent:
    def __init__(self) -> None:
        self.done = False

    def query(self) -> bool:
        return self.done


class FakeStream:
    """Remembers what it was told, and the events that it has not come to yet."""

    def __init__(self, name: str, log: list) -> None:
        self.name, self.log, self.events = name, log, []

    def record_event(self) -> FakeEvent:
        self.events.append(FakeEvent())
        self.log.append((self.name, "record", self.events[-1]))
        return self.events[-1]

    def wait_event(self, event: FakeEvent) -> None:
        self.log.append((self.name, "wait", event))

    def finish(self) -> None:
        for event in self.events:
            event.done = True


class FakeStreams:
    """Two streams and the user's. Copies are not made at all: who lends the canvas again too soon is seen."""

    def __init__(self) -> None:
        self.log: list = []
        self.copies, self.preparation, self.user = (FakeStream(n, self.log) for n in ("copy", "prepare", "user"))

    def current(self) -> FakeStream:
        return self.user

    def on(self, stream: FakeStream):
        return nullcontext()

    def used(self, value, stream: FakeStream) -> None:
        self.log.append((stream.name, "used", {t.data_ptr() for t in device_module._tensors(value)}))


@pytest.fixture
def streams(monkeypatch) -> FakeStreams:
    """Makes the CPU a device beside the host, and every Feed believe that it has streams."""
    fake = FakeStreams()
    monkeypatch.setattr(Feed, "streams", fake)
    monkeypatch.setattr(FastLoader, "_make_feed", lambda data, pixels: data.device and Feed(data.device, pixels))
    return fake


def test_impossible_formats_are_refused():
    """The loader refuses what `PixelFormat` does."""
    for setting in ({"mean": (0.48, 0.45, 0.4), "std": (0.22, 0.22, 0.22)}, {"dtype": torch.int8}):
        with pytest.raises(ArgumentError, match=r"multiply|dtype is one of"):
            loader(device="cpu", **setting)


FORMATS = [
    PixelFormat(dtype, *constants, layout)
    for dtype in FLOATS
    for constants in ((None, None), (IMAGENET_MEAN, IMAGENET_STD))
    for layout in MEMORY_FORMATS
]


def arguments(pixels: PixelFormat) -> dict:
    return {name: getattr(pixels, name) for name in ("dtype", "mean", "std", "memory_format")}


@pytest.mark.parametrize("pixels", [*FORMATS, PixelFormat(memory_format=torch.contiguous_format)], ids=str)
@pytest.mark.parametrize("threads", [0, 2])
def test_images_of_any_format_are_those_of_the_plain_loader_converted(pixels, threads):
    """Without a device, and on "cpu": the very bits of (x.float() - mean) / std, then .to(dtype), padding included;
    targets are the same."""
    wanted = {"memory_format": pixels.memory_format} if pixels.dtype == torch.uint8 else arguments(pixels)
    common = {"shuffle": True, "transforms": RANDOM, "num_workers": threads}
    for where in (None, "cpu"):
        data = loader(**common, **wanted, device=where)
        assert data._format()[1] is None  # the engine writes what is asked for
        for (images, targets), (levels, expected) in zip(data, loader(**common), strict=True):
            assert images.dtype == pixels.dtype and images.is_contiguous(memory_format=pixels.memory_format)
            assert torch.equal(images, levels if pixels.dtype == torch.uint8 else by_torch(levels, pixels))
            assert torch.equal(targets.boxes, expected.boxes)
            assert targets.image_id.tolist() == expected.image_id.tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_makes_the_format(engine):
    """Of an engine's own levels, whichever it is."""
    pixels = FORMATS[-1]
    found, levels = (loader(engine=engine, **more) for more in (arguments(pixels), {}))
    for (images, _), (expected, _) in zip(found, levels, strict=True):
        assert torch.equal(images, by_torch(expected, pixels))


@pytest.mark.parametrize(
    ("given", "dtype", "mean", "std"),
    [
        ({}, torch.uint8, None, None),
        ({"device": "cpu"}, torch.uint8, None, None),
        ({"device": "auto", "dtype": torch.uint8}, torch.uint8, None, None),
        ({"dtype": torch.float32}, torch.float32, (0, 0, 0), (255, 255, 255)),
        ({"mean": [1, 2, 3]}, torch.float32, (1, 2, 3), (255, 255, 255)),
        ({"std": [50, 60, 70]}, torch.float32, (0, 0, 0), (50, 60, 70)),
        ({"mean": [1, 2, 3], "dtype": torch.float16}, torch.float16, (1, 2, 3), (255, 255, 255)),
    ],
    ids=str,
)
def test_defaults_are_as_documented(monkeypatch, given, dtype, mean, std):
    """A device alone moves and does not normalize; dtype alone gives [0, 1]; mean or std alone float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images, levels = (next(iter(loader(**more))).images for more in (given, {}))
    assert images.dtype == dtype
    expected = levels if dtype == torch.uint8 else by_torch(levels, PixelFormat(dtype, mean, std))
    assert torch.equal(images, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
def test_a_kept_batch_never_changes(dtype, layout):
    """On the CPU, batches and views of them stay as they are while iteration goes on."""
    kept, was = [], []
    settings = {"dtype": dtype, "memory_format": layout}
    data = loader(MemoryCache(64), shuffle=True, num_workers=2, transforms=RANDOM, **settings)
    for _ in range(2):
        for step, (images, targets) in enumerate(data):
            if step % 3:
                kept.append((images[1:, :, 5:20], targets.boxes))
                was.append((images[1:, :, 5:20].clone(), targets.boxes.clone()))
    assert_equal(kept, was)


def test_canvases_are_lent_again_only_when_their_copy_is_done(streams):
    """While the copy stream is behind, every batch gets memory of its own; once it is done, that memory goes round."""
    data = loader(MemoryCache(64), num_workers=2, device="cpu")
    expected = copies(loader(MemoryCache(64)))
    unread = [images for images, _ in data]  # as no copy was made, these show the canvases
    assert len({images.data_ptr() for images in unread}) == len(unread) == 16
    first = {images.data_ptr() for images in unread}
    assert all(torch.equal(images, pixels) for images, (pixels, _) in zip(unread, expected, strict=True))
    del unread
    second = {images.data_ptr() for images, _ in data}  # those of before are dropped, yet not copied
    assert len(second) == 16 and not second & first
    streams.copies.finish()
    assert {images.data_ptr() for images, _ in data} & (first | second)


def test_canvases_are_let_go_in_order():
    """The oldest copy is looked at first, and what is done up to there is let go."""
    reading, events = Reading(), [FakeEvent() for _ in range(4)]
    canvases = [torch.zeros(3) for _ in range(4)]
    there = [weakref.ref(canvas) for canvas in canvases]
    for event in events[:3]:
        reading.add(canvases.pop(0), until=event)
    events[0].done = events[2].done = True
    reading.add(canvases.pop(0), until=events[3])
    assert [canvas() is not None for canvas in there] == [False, True, True, True]
    events[1].done = True
    reading.add(None, until=FakeEvent())
    assert [canvas() is not None for canvas in there] == [False, False, False, True]


def test_streams_wait_for_one_another_in_order(streams):
    """The copy's event precedes the preparation's wait; the user's stream waits for the preparation, and every tensor
    that it gets is marked as used by it."""
    images, targets = next(iter(loader(device="cpu", dtype=torch.float32)))
    (_, _, copied), (_, _, ready) = (e for e in streams.log if e[1] == "record")
    assert [entry[:2] for entry in streams.log] == [
        ("copy", "record"), ("prepare", "wait"), ("prepare", "used"), ("prepare", "record"), ("user", "wait"),
        ("user", "used"),
    ]  # fmt: skip
    assert streams.log[1][2] is copied and streams.log[4][2] is ready
    assert {images.data_ptr(), targets.boxes.data_ptr(), targets.labels.data_ptr()} <= streams.log[5][2]
    assert images.data_ptr() not in streams.log[2][2]  # there it was the copied bytes


def test_batches_are_sent_ahead_and_counted_when_handed_out(streams):
    """Executed batches are on their way before they are asked for, up to two; the loader's place is the user's."""
    data = loader(num_workers=2, prefetch_factor=6, device="cpu", shuffle=True)
    expected = ids(loader(shuffle=True))
    batches = iter(data)
    seen, most = [], 0
    for step in range(10):
        seen.append(next(batches).targets.image_id.tolist())
        for later in list(batches._flight)[:2]:
            iterator._wait(batches._engine, later)
        sent = sum(entry[:2] == ("prepare", "record") for entry in streams.log)
        most = max(most, sent - len(seen))
        assert len(seen) <= sent <= len(seen) + 2 and data.state_dict()["step"] == step + 1
    assert most == 2 and seen == expected
    assert sum(entry[:2] == ("user", "wait") for entry in streams.log) == 10


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_failures_come_in_their_turn(streams, on_error):
    """A record that does not decode is reported at its own batch, with batches sent ahead as without."""
    cache = MemoryCache(37, damaged=[13])
    data = loader(cache, num_workers=2, device="cpu", on_error=on_error)
    if on_error == "skip":
        with pytest.warns(UserWarning, match="1 images"):
            found = ids(data)
        assert found == ids(loader()) and list(data.skipped) == [IDS[13]]
        return
    batches, steps = iter(data), []
    for step in range(10):
        try:
            steps.append((step, next(batches).targets.image_id.tolist()))
        except Exception as error:
            assert str(IDS[13]) in str(error) and step == 3
    assert [step for step, _ in steps] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [found for _, found in steps] == [batch for i, batch in enumerate(ids(loader())) if i != 3]


def test_no_memory_on_the_device_is_explained_and_passes(streams, monkeypatch):
    """Running out of memory ahead costs nothing; at the batch's own turn it is a DeviceError, and iteration goes on."""
    data = loader(num_workers=2, device="cpu")
    expected, moved, calls = ids(loader()), device_module._moved, []

    def no_memory(value, where):
        calls.append(value)
        if len(calls) in (3, 4, 5):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return moved(value, where)

    monkeypatch.setattr(device_module, "_moved", no_memory)
    found, batches = [], iter(data)
    for _ in range(10):
        try:
            found.append(next(batches).targets.image_id.tolist())
        except DeviceError as error:
            assert "lower batch_size" in str(error)
    assert 7 <= len(found) <= 10 and all(batch in expected for batch in found) and found[-1] == expected[-1]
    assert len(streams.copies.events) == len(calls)  # canvases are held whatever became of the copy


def test_what_python_makes_is_moved_too(streams):
    """Whatever a function or a `collate_fn` returns is sent; only levels in front of a batch are converted there."""

    def halve(image, target):
        return image[:, ::2], {**target, "note": "halved"}

    images, targets = next(iter(loader(transforms=[halve], device="cpu", collate_fn=CenterAlign())))
    assert images.dtype == torch.uint8 and targets[0]["note"] == "halved"
    as_floats = loader(device="cpu", dtype=torch.float16, collate_fn=lambda samples: (images, len(samples)))
    found, size = next(iter(as_floats))  # of levels that the function has from elsewhere
    assert size == 4 and torch.equal(found, by_torch(images, PixelFormat(torch.float16)))
    single = list(FastLoader(CACHE, None, device="cpu"))
    assert len(single) == 37 and single[3][0].shape == (3, 31, 97) and single[3][0].dtype == torch.uint8
    assert [entry[0] for entry in streams.log].count("user") == 2 * (1 + 1 + 37)


@pytest.mark.parametrize("where", [None, "cpu", "streams"])
@pytest.mark.parametrize("pixels", [FORMATS[3], FORMATS[-2]], ids=str)
def test_functions_and_collate_functions_get_images_of_the_dtype(request, where, pixels):
    """Images are (x.float() - mean) / std in front of any function, in transforms or as `collate_fn`; single ones too.
    Nothing is converted twice."""
    if where == "streams":
        request.getfixturevalue("streams")
    given, seen = {"device": where and "cpu", **arguments(pixels)}, []

    def look(image, target):
        seen.append(image.clone())
        return image, target

    expected = [by_torch(image, pixels) for image, _ in FastLoader(CACHE, None)]
    singles = [image for image, _ in FastLoader(CACHE, None, **given)]
    collated = [image for samples in loader(collate_fn=list, num_workers=2, **given) for image, _ in samples]
    list(loader(transforms=[look], **given))
    for images in (singles, collated, seen):
        assert len(images) == 37 and all(map(torch.equal, images, expected))


def test_any_dataset_goes_to_a_device(streams):
    """A dataset that is no cache is loaded by DataLoader, and its batches sent one ahead, as they are."""
    pixels = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
    data = FastLoader(TensorDataset(pixels, torch.arange(10)), 4, device="cpu")
    batches = list(data)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), pixels)
    order = [entry[:2] for entry in streams.log if entry[1] in ("record", "wait")]
    assert order.index(("user", "wait")) > 4  # the second is sent before the first is handed out


@pytest.mark.parametrize("where", [None, "cpu"])
@pytest.mark.parametrize("pixels", FORMATS, ids=str)
def test_any_dataset_has_images_of_any_format(pixels, where):
    """Levels in front of a batch become the format, with a device or without; other tensors stay as they are."""
    levels = torch.randint(256, (10, 3, 8, 6), dtype=torch.uint8)
    dataset = TensorDataset(levels, levels.float(), torch.arange(10))
    batches = list(FastLoader(dataset, 4, device=where, **arguments(pixels)))
    assert all(images.is_contiguous(memory_format=pixels.memory_format) for images, _, _ in batches)
    assert torch.equal(torch.cat([images for images, _, _ in batches]), by_torch(levels, pixels))
    assert torch.equal(torch.cat([other for _, other, _ in batches]), levels.float())
    floats = TensorDataset(levels.float())
    assert torch.equal(next(iter(FastLoader(floats, 10, **arguments(pixels))))[0], levels.float())


def test_a_device_that_is_not_there_is_explained(monkeypatch):
    """No driver, an unknown name: fastload's error says what to do. "auto" is the CPU where there is no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: (_ for _ in ()).throw(RuntimeError("no NVIDIA driver")))
    for name in ("cuda", "nonsense"):
        with pytest.raises(DeviceError, match="fastload doctor"):
            loader(device=name)
    assert next(iter(loader(device="auto"))).images.device.type == "cpu"


def test_a_loader_with_a_device_resumes_and_pickles():
    """State and pickling work as without a device."""
    data = loader(shuffle=True, num_workers=2, transforms=RANDOM, device="cpu", dtype=torch.bfloat16)
    rest = copies(data)[4:]
    again = loader(shuffle=True, transforms=RANDOM, device="cpu", dtype=torch.bfloat16)
    list(islice(again, 4))
    third = loader(shuffle=True, transforms=RANDOM, device="cpu", dtype=torch.bfloat16)
    third.load_state_dict(again.state_dict())
    assert_equal(copies(third), rest)
    assert_equal(copies(pickle.loads(pickle.dumps(data))), copies(data))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS])
def test_batches_on_a_gpu_are_those_of_the_cpu(dtype):
    """Images, boxes and labels arrive as on the CPU, on the device, in channels_last."""
    common = {"shuffle": True, "transforms": RANDOM, "num_workers": 2, "dtype": dtype}
    for (images, targets), (pixels, expected) in zip(
        loader(**common, device="cuda"), loader(**common, device="cpu"), strict=True
    ):
        assert images.is_cuda and images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images.cpu(), pixels)
        assert torch.equal(targets.boxes.cpu(), expected.boxes) and torch.equal(targets.labels.cpu(), expected.labels)
        assert not targets.image_id.is_cuda


@needs_gpu
def test_a_kept_batch_never_changes_on_a_gpu():
    """With computation queued behind and batches dropped early, what is kept stays what was loaded."""
    expected = copies(loader(MemoryCache(64), dtype=torch.float32, num_workers=2))
    data = loader(MemoryCache(64), device="cuda", dtype=torch.float32, num_workers=2)
    work = torch.randn(2048, 2048, device="cuda")
    for _ in range(3):
        kept, sums = [], []
        for step, (images, targets) in enumerate(data):
            for _ in range(20):
                work = work @ work / work.norm()
            sums.append(images.double().sum())  # read late, from memory that may be dropped by then
            if step % 2:
                kept.append((step, images, targets.boxes))
        for step, images, boxes in kept:
            torch.testing.assert_close(images.cpu(), expected[step][0])
            assert torch.equal(boxes.cpu(), expected[step][1])
        for total, (images, _) in zip(sums, expected, strict=True):
            torch.testing.assert_close(total.cpu(), images.double().sum(), rtol=0, atol=0.1)


@needs_gpu
def test_the_host_never_waits_for_the_gpu():
    """Handing out batches makes no call that synchronizes."""
    data = loader(num_workers=2, device="cuda", dtype=torch.bfloat16)
    list(data)  # the buffers are page-locked by now
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = ids(data)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found == ids(loader())


def test_a_batch_is_a_batch(streams):
    """What is handed out is still a `Batch`."""
    assert isinstance(next(iter(loader(device="cpu"))), Batch)
    assert np.asarray(next(iter(loader(device="cpu"))).targets.image_id).tolist() == IDS[:4]
