"""The stream of detections: stages side by side, in order, and no thread left whatever happens."""

import asyncio
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from detector.errors import DetectorError
from detector.infer.stream import STAGES, PredictStream, Timing, compiled
from detector.model.head import Predictions
from detector.preprocess import canvas_sizes
from fastload import CenterAlign, FastLoader, RandomFlip, ShortestEdge
from tests.detector.networks import decoder, small
from tests.support.memory_cache import MemoryCache

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
WAIT = 20  # seconds, for what happens at once unless it is broken


def batch(i: int) -> tuple[torch.Tensor, SimpleNamespace]:
    """One image of 32 x 32 whose pixels are all `i`."""
    targets = SimpleNamespace(
        offset=torch.zeros(1, 2),
        size=torch.tensor([[32, 32]]),
        scale=torch.ones(1, 2),
        original_size=torch.tensor([[32, 32]]),
        image_id=torch.tensor([i]),
    )
    targets.to = lambda device: targets
    return torch.full((1, 3, 32, 32), i, dtype=torch.uint8), targets


def model(images: torch.Tensor, region: torch.Tensor) -> Predictions:
    """One detection, whose label is the value of the first pixel."""
    whole = {"dtype": torch.float32, "device": images.device}
    logits, boxes, quality = (torch.full((1, n, 1, 1), v, **whole) for n, v in ((20, -10.0), (4, 0.25), (1, 10.0)))
    logits[0, int(images[0, 0, 0, 0]) % 20] = 10
    return Predictions([logits], [boxes], [quality])


def stream(batches, network=model) -> PredictStream:
    return PredictStream(network, batches, decoder((32,)), CPU, torch.float32)


def found(detections) -> list[tuple[int, int]]:
    return [(d.image_ids[0], int(d.labels[0, 0])) for d in detections]


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("detector-")]


def no_thread_is_left() -> bool:
    limit = time.monotonic() + WAIT
    while stage_threads() and time.monotonic() < limit:
        time.sleep(0.01)
    return not stage_threads()


async def gathered(detections) -> list[tuple[int, int]]:
    return [pair async for d in detections for pair in found([d])]


@pytest.mark.parametrize("count", [0, 1, 3, 15])
def test_detections_come_in_order_from_both_iterators(count):
    """A plain loop and `async for` give every batch's own detections, in order, twice if asked twice."""
    expected = [(i, i) for i in range(count)]
    batches = [batch(i) for i in range(count)]
    both = stream(batches)
    assert found(both) == expected and both.timing.images == count
    assert asyncio.run(gathered(both)) == expected and both.timing.images == count
    assert no_thread_is_left()


def test_the_event_loop_runs_meanwhile():
    """Other tasks go on while `async for` waits for a batch."""
    gate = threading.Event()

    def batches():
        assert gate.wait(WAIT)
        yield batch(3)

    async def main():
        async def open_gate():
            gate.set()

        opened = asyncio.create_task(open_gate())
        result = await gathered(stream(batches()))
        await opened
        return result

    assert asyncio.run(main()) == [(3, 3)]


def test_the_stages_work_side_by_side():
    """While the network is at work on a batch, the next is loaded and the one before finished: each waits for the other
    here, so taking turns would never end."""
    loading, network_at, finished = ([threading.Event() for _ in range(4)] for _ in range(3))

    def batches():
        for i in range(4):
            loading[i].set()
            if i:
                assert network_at[i - 1].wait(WAIT), "the network waits for the next batch to be loaded"
            yield batch(i)

    def slow(images, region):
        i = int(images[0, 0, 0, 0])
        network_at[i].set()
        if i < 3:
            assert loading[i + 1].wait(WAIT), "loading waits for the network"
        if i >= 2:
            assert finished[i - 2].wait(WAIT), "the network is not ahead of what follows it"
        return Noted(
            model(images, region), lambda: finished[i].set() if i == 3 or network_at[i + 1].wait(WAIT) else None
        )

    assert found(stream(batches(), slow)) == [(i, i) for i in range(4)]
    assert all(event.is_set() for event in finished)


class Noted(Predictions):
    """Predictions that tell when they are unpacked, which is the last stage's beginning."""

    def __new__(cls, predictions, tell):
        made = super().__new__(cls, *predictions)
        made.tell = tell
        return made

    def __iter__(self):
        self.tell()
        return super().__iter__()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_errors_of_every_stage_arrive_in_their_turn(stage, asynchronous):
    """What came before is delivered, then the error itself; and every thread ends."""

    def batches():
        for i in range(9):
            if stage == "load" and i == 2:
                raise DetectorError("load")
            yield batch(i)

    def network(images, region):
        i = int(images[0, 0, 0, 0])
        if stage == "forward" and i == 2:
            raise DetectorError("forward")
        predictions = model(images, region)
        return predictions._replace(quality=[]) if stage == "postprocess" and i == 2 else predictions

    seen = []

    async def consume():
        async for detections in stream(batches(), network):
            seen.extend(found([detections]))

    with pytest.raises(ValueError if stage == "postprocess" else DetectorError):
        if asynchronous:
            asyncio.run(consume())
        else:
            for detections in stream(batches(), network):
                seen.extend(found([detections]))
    assert seen == [(0, 0), (1, 1)]
    assert no_thread_is_left()


@pytest.mark.parametrize("leave", ["break", "error", "drop", "async break", "cancel"])
def test_leaving_early_ends_every_thread(leave):
    """However one leaves an endless stream, its threads end, and not many more batches are loaded than were used."""
    loaded = []

    def endless():
        while True:
            loaded.append(len(loaded))
            yield batch(loaded[-1] % 20)

    async def some(forever: bool):
        async for _ in stream(endless()):
            if not forever:
                break

    if leave == "break":
        for _ in stream(endless()):
            break
    elif leave == "error":
        with pytest.raises(KeyError):
            for _ in stream(endless()):
                raise KeyError
    elif leave == "drop":
        detections = iter(stream(endless()))
        next(detections)
        assert len(stage_threads()) == 3
        del detections
    elif leave == "async break":
        asyncio.run(some(forever=False))
    else:
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            asyncio.run(asyncio.wait_for(some(forever=True), 0.2))
    assert no_thread_is_left()
    if leave != "cancel":
        assert len(loaded) <= 8


def test_a_source_that_never_answers_does_not_hold_whoever_leaves(monkeypatch):
    """Leaving while a batch is being waited for gives up on it; its thread ends when it comes."""
    monkeypatch.setattr("detector.infer.stream.CLOSE_SECONDS", 0.1)
    gate = threading.Event()

    def batches():
        yield batch(1)
        gate.wait(WAIT)
        yield batch(2)

    for _ in stream(batches()):
        break
    assert stage_threads()  # waiting still
    gate.set()
    assert no_thread_is_left()


def test_the_bottleneck_is_named():
    """The stage that was busy longest is the bottleneck; the report has all shares."""

    def network(images, region):
        time.sleep(0.02)
        return model(images, region)

    slow = stream([batch(i) for i in range(5)], network)
    list(slow)
    timing = slow.timing
    assert timing.bottleneck == "forward" and 0.1 <= timing.forward <= timing.elapsed
    assert "5 images" in str(timing) and "bottleneck: forward" in str(timing)
    assert str(Timing(10, 2.0, load=1.9, forward=0.5)).startswith("5.0 images/s on 10 images; busy: load 95 %")


def test_grad_mode_is_off_in_the_network_s_thread():
    """No graph is recorded for backward, and the consumer's own mode is untouched."""
    layer, seen = nn.Conv2d(3, 1, 1), []

    def network(images, region):
        seen.append(layer(images.float()).requires_grad)
        return model(images, region)

    list(stream([batch(1)], network))
    assert seen == [False] and torch.is_grad_enabled()


class FakeEvent:
    """A moment on a fake stream: the number of things that it was told before."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time, self.enable_timing = 0, enable_timing

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1000.0 * (end.time - self.time)


class FakeStream:
    """Remembers the events it recorded and waited for, and the streams that it waited for."""

    def __init__(self) -> None:
        self.log: list = []

    def record_event(self, event: FakeEvent | None = None) -> FakeEvent:
        event = event or FakeEvent()
        event.time = len(self.log)
        self.log.append(("record", event))
        return event

    def wait_event(self, event: FakeEvent) -> None:
        self.log.append(("wait", event))

    def wait_stream(self, stream: "FakeStream") -> None:
        self.log.append(("wait for", stream))


def test_the_stages_streams_wait_for_one_another(monkeypatch):
    """With streams, every batch's network waits for its loading and what follows for its network; all begin after what
    the caller had queued, and the caller's stream goes on after them; busy time is the device's."""
    lanes, user, entered = {stage: FakeStream() for stage in STAGES}, FakeStream(), []

    @contextmanager
    def on(stream):
        entered.append(stream)
        yield

    monkeypatch.setattr("detector.infer.stream._stream", lambda device, stage: lanes[stage])
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: user)
    three = stream([batch(i) for i in range(3)])
    assert found(three) == [(0, 0), (1, 1), (2, 2)]
    for before, after in (("load", "forward"), ("forward", "postprocess")):
        ready = [event for kind, event in lanes[before].log if kind == "record" and not event.enable_timing]
        waited = [event for kind, event in lanes[after].log if kind == "wait"]
        assert len(waited) == 3 and waited == ready[:3]
    assert all(lane.log[0] == ("wait for", user) for lane in lanes.values())
    assert [entry for entry in user.log if entry[0] == "wait for"] == [("wait for", lane) for lane in lanes.values()]
    assert {id(lane) for lane in entered} == {id(lane) for lane in lanes.values()}
    assert three.timing.forward == 3 * 2 and three.timing.postprocess == 3 * 1


@pytest.mark.parametrize("short, long", [(320, 512), (512, 736), (800, 1333), (64, 64), (100, 900)])
def test_a_few_canvases_hold_every_image(short, long):
    """At most six shapes, multiples of 32, for any batch within the limits, upright and lying together."""
    sizes = canvas_sizes(short, long)
    assert len(sizes) <= 6 and all(edge % 32 == 0 for size in sizes for edge in size)
    collator = CenterAlign(canvas_sizes=sizes)
    for width, height in ((short, long), (long, short), (short, short)):
        placed = collator.canvas(torch.tensor([[width, height], [1, 1]]).int().numpy())
        assert placed[0] * placed[1] <= 1.7 * (width + 32) * (height + 32)
    assert collator.canvas(torch.tensor([[short, long], [long, short]]).int().numpy()) == max(sizes)


@pytest.mark.long
def test_with_few_canvases_nothing_is_compiled_after_warming_up():
    """Once the compiled network has seen each canvas, epochs of images of all shapes and sizes compile nothing. On
    canvases as they come there would be more shapes than torch.compile keeps code for."""
    network = small("gn", strides=(8, 16, 32), depth=1).eval()
    sizes = canvas_sizes(64, 96)
    counter = CompileCounter()
    torch._dynamo.reset()
    counted = torch.compile(network, backend=counter, dynamic=False)

    def batches(canvases):
        return FastLoader(
            MemoryCache(40), 2, shuffle=True, transforms=[ShortestEdge([32, 48, 64], 96), RandomFlip()],
            collate_fn=CenterAlign(divisor=16, canvas_sizes=canvases), dtype=torch.float32,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    with torch.no_grad():
        for height, width in sizes:
            counted(torch.zeros(2, 3, height, width).contiguous(memory_format=torch.channels_last))
        assert counter.frame_count == len(sizes) == 4
        shapes = {counted(images).logits[0].shape for _ in range(2) for images, _ in batches(sizes)}
    assert len(shapes) > 2 and counter.frame_count == 4
    unbounded = {images.shape for _ in range(4) for images, _ in batches(None)}
    assert len(unbounded) > torch._dynamo.config.recompile_limit


@needs_gpu
def test_streams_on_a_gpu_give_what_the_cpu_gives():
    """The same detections in the same order, and every stage has been busy by the device's own clock."""

    def detections(device):
        loader = FastLoader(MemoryCache(40), 1, num_workers=2, device=device, dtype=torch.uint8)
        network = PredictStream(model, loader, decoder((32,)), torch.device(device), torch.float32)
        found = [(d.image_ids, d.labels.tolist(), d.scores.tolist(), d.boxes.tolist()) for d in network]
        return found, network.timing

    found, timing = detections("cuda")
    expected, _ = detections("cpu")
    assert [image[:2] for image in found] == [image[:2] for image in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one[3]), torch.tensor(other[3]))
    assert timing.images == 40 and min(timing.load, timing.forward, timing.postprocess) > 0


@needs_gpu
def test_cuda_graphs_replay_the_network():
    """The graphed network predicts what the plain one does, also when an earlier result is still in use."""
    network = small("gn", strides=(8, 16, 32), depth=1).eval()
    network = network.to("cuda", memory_format=torch.channels_last)
    graphed = compiled(network, torch.device("cuda"))
    inputs = [torch.randn(2, 3, *size, device="cuda") for size in canvas_sizes(64, 96) * 3]
    with torch.no_grad():
        kept = [graphed(images) for images in inputs]
        for images, predictions in zip(inputs, kept, strict=True):
            torch.testing.assert_close(predictions.logits, network(images).logits, rtol=1e-3, atol=1e-3)
