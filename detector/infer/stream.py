"""Detections of many batches: loading, the network and what follows it all at the same time.

Each of the three stages has a thread of its own and, on a CUDA device, a stream of its own: while the network works on
one batch, the next is loaded and copied, and the one before is suppressed, mapped back and copied to the host.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from detector.infer.postprocess import Detections, Settings, postprocess, to_original
from detector.model.fcos import Predictions, grid_of
from detector.runtime import autocast
from fastload import Targets

Stage = Literal["load", "forward", "postprocess"]
STAGES: tuple[Stage, ...] = ("load", "forward", "postprocess")
DEPTH = 4  # batches under way: one in each stage, and one that waits
PATIENCE = 5.0  # seconds that leaving early waits for the batch that is being loaded
END = object()


@dataclass
class Timing:
    """How long the stages worked on a number of images, side by side, within `elapsed` seconds."""

    images: int = 0
    elapsed: float = 0.0
    load: float = 0.0
    forward: float = 0.0
    postprocess: float = 0.0

    @property
    def bottleneck(self) -> Stage:
        """The stage that was busy longest: a faster one of the others would gain nothing."""
        return max(STAGES, key=lambda stage: getattr(self, stage))

    def __str__(self) -> str:
        elapsed = max(self.elapsed, 1e-9)
        shares = ", ".join(f"{stage} {100 * getattr(self, stage) / elapsed:.0f} %" for stage in STAGES)
        speed = f"{self.images / elapsed:.1f} images/s on {self.images} images"
        return f"{speed}; busy: {shares}; bottleneck: {self.bottleneck}"


@dataclass(eq=False)
class PredictStream:
    """Detections of `batches`, on the host and in pixels of the original images, in order: `for` or `async for`.

    An error of any stage is raised where its batch's detections would have come. Whoever leaves early ends the threads.
    `timing` says afterwards how busy each stage was.

    Args:
        model: in evaluation mode. It is called in a thread of its own.
        batches: (images, targets) as a FastLoader gives them, of which `offset`, `size`, `scale`, `original_size` and
            `image_id` are used; best on `device` already, by FastLoader's argument of that name.
        dtype: the format of convolutions.
    """

    model: Callable[[Any], Predictions]
    batches: Iterable[Any]
    strides: tuple[int, ...]
    settings: Settings
    device: torch.device
    dtype: torch.dtype
    timing: Timing = field(default_factory=Timing, init=False)

    def __iter__(self) -> Iterator[Detections]:
        iteration = _Iteration(self)
        try:
            while (found := iteration.next().result()) is not END:
                yield found
        finally:
            iteration.close()

    async def __aiter__(self) -> AsyncIterator[Detections]:
        iteration = _Iteration(self)
        try:
            while (found := await asyncio.wrap_future(iteration.next())) is not END:
                yield found
        finally:
            iteration.close()


def finish(predictions: Predictions, targets: Any, strides: tuple[int, ...], settings: Settings) -> Detections:
    """From predictions to detections on the host, in pixels of the original images; `targets` as in a stream."""
    region = torch.cat([targets.offset, targets.offset + targets.size.flip(1)], 1).float()
    found = postprocess(*predictions, grid_of(strides, predictions), region, settings)
    found = to_original(found, targets.scale, targets.offset, targets.original_size).cpu()
    return replace(found, image_ids=tuple(targets.image_id.tolist()))


def compiled(model: torch.nn.Module, device: torch.device) -> Callable[[Any], Predictions]:
    """`model` compiled for inference, once for each shape of its input; on a CUDA device as CUDA graphs."""
    if device.type != "cuda":
        return torch.compile(model, dynamic=False)
    graphed = torch.compile(model, dynamic=False, mode="reduce-overhead")

    def forward(images: torch.Tensor) -> Predictions:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(torch.clone, graphed(images))  # the next replay writes into the graph's own outputs

    return forward


class _Lane:
    """A stage's thread and stream, and how long it was busy: on a CUDA device by the device's clock."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"detector-{stage}")
        self.stream = _stream(device, stage)
        self.busy = 0.0
        self._spans: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # the weights may be in the making there

    @contextmanager
    def work(self, after: torch.cuda.Event | None = None, using: Any = ()) -> Iterator[None]:
        """Within, work is the stage's. It begins `after` an event, and reads the tensors of `using`."""
        start = time.perf_counter()
        if self.stream is None:
            yield
            self.busy += time.perf_counter() - start
            return
        with torch.cuda.stream(self.stream):
            if after is not None:
                self.stream.wait_event(after)
                record_use(self.stream, using)
            begin = self.stream.record_event(torch.cuda.Event(enable_timing=True))
            yield
            self._spans.append((begin, self.stream.record_event(torch.cuda.Event(enable_timing=True))))
        self.count_busy(wait=False)

    @property
    def latest(self) -> torch.cuda.Event | None:
        """The event that the work so far is done; None without a stream."""
        return None if self.stream is None else self.stream.record_event()

    def count_busy(self, wait: bool) -> None:
        """Add up what is done."""
        while self._spans and (wait or self._spans[0][1].query()):
            begin, end = self._spans.popleft()
            end.synchronize()
            self.busy += begin.elapsed_time(end) / 1000


def record_use(stream: torch.cuda.Stream, values: Any) -> None:
    """Keep the memory of `values`, tensors and `Targets`, until the work that is queued on `stream` is done."""
    for leaf in tree_leaves(values):
        for value in vars(leaf).values() if isinstance(leaf, Targets) else (leaf,):
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(stream)


@lru_cache  # each stream has memory of its own: new ones for every evaluation would pile it up
def _stream(device: torch.device, stage: Stage) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None


class _Iteration:
    """One iteration: chains of three futures, each stage waiting for the one before."""

    def __init__(self, owner: PredictStream) -> None:
        self.owner = owner
        self.start = time.perf_counter()
        self.images = 0
        self.batches = iter(owner.batches)
        self.lanes = [_Lane(stage, owner.device) for stage in STAGES]
        self.flight: deque[Future[Any]] = deque()
        self.pending: list[Future[Any]] = []

    def next(self) -> Future[Any]:
        """The detections that come next, or END."""
        while len(self.flight) < DEPTH:
            self.flight.append(self._submit())
        return self.flight.popleft()

    def _submit(self) -> Future[Any]:
        load, forward, post = (lane.thread for lane in self.lanes)
        loaded = load.submit(self._load)
        predicted = forward.submit(self._forward, loaded)
        found = post.submit(self._postprocess, predicted)
        self.pending = [future for future in self.pending if not future.done()] + [loaded, predicted, found]
        return found

    def _load(self) -> Any:
        device, lane = self.owner.device, self.lanes[0]
        with lane.work():
            batch: Any = next(self.batches, END)
            if batch is END:
                return END
            images, targets = batch
            images = images.to(device, non_blocking=device.type == "cuda" and images.is_pinned())
            return images, targets.to(device), lane.latest

    @torch.no_grad()
    def _forward(self, loaded: Future[Any]) -> Any:
        if (item := loaded.result()) is END:
            return END
        images, targets, ready = item
        with self.lanes[1].work(ready, images), autocast(self.owner.device, self.owner.dtype):
            predictions = self.owner.model(images)
            return len(images), predictions, targets, self.lanes[1].latest

    @torch.no_grad()
    def _postprocess(self, predicted: Future[Any]) -> Any:
        if (item := predicted.result()) is END:
            return END
        count, predictions, targets, ready = item
        with self.lanes[2].work(ready, (predictions, targets)):
            found = finish(predictions, targets, self.owner.strides, self.owner.settings)
        self.images += count
        return found

    def close(self) -> None:
        """End the threads; note how busy they were."""
        for lane in self.lanes:
            lane.thread.shutdown(wait=False, cancel_futures=True)
        wait([future for future in self.pending if not future.cancelled()], PATIENCE)
        for lane in self.lanes:
            if lane.stream is not None:
                torch.cuda.current_stream(self.owner.device).wait_stream(lane.stream)
                lane.count_busy(wait=True)
        busy = [lane.busy for lane in self.lanes]
        self.owner.timing = Timing(self.images, time.perf_counter() - self.start, *busy)
