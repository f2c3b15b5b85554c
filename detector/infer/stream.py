"""Detections on many batches, with loading, network and postprocessing running at the same time.

Each of the three stages has its own thread and, on a CUDA device, its own stream. While the network works on one batch,
the next is loaded and copied to the device, and the previous one is postprocessed and copied to the host.
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

from detector.infer.postprocess import Detections, to_original
from detector.model.detector import Decode
from detector.model.grid import region_of
from detector.model.head import Output
from detector.runtime import autocast
from fastload import Targets

Stage = Literal["load", "forward", "postprocess"]
STAGES: tuple[Stage, ...] = ("load", "forward", "postprocess")
DEPTH = 4  # batches in flight: one in each stage, and one waiting
CLOSE_SECONDS = 5.0  # the longest wait for batches in flight when an iteration ends early
END = object()


@dataclass
class Timing:
    """The seconds that each stage worked, concurrently with the others, within `elapsed` seconds."""

    images: int = 0
    elapsed: float = 0.0
    load: float = 0.0
    forward: float = 0.0
    postprocess: float = 0.0

    @property
    def bottleneck(self) -> Stage:
        """The stage that worked longest. Making another one faster gains nothing."""
        return max(STAGES, key=lambda stage: getattr(self, stage))

    def __str__(self) -> str:
        elapsed = max(self.elapsed, 1e-9)
        shares = ", ".join(f"{stage} {100 * getattr(self, stage) / elapsed:.0f} %" for stage in STAGES)
        speed = f"{self.images / elapsed:.1f} images/s on {self.images} images"
        return f"{speed}; busy: {shares}; bottleneck: {self.bottleneck}"


@dataclass(eq=False)
class PredictStream:
    """Detections on batches, in order, in host memory and in pixels of the original images.

        for detections in PredictStream(model, loader, model.decoder(settings), device, dtype):
            ...

    `async for` works too. An error of a stage is raised in the place of the batch. Leaving the loop early ends the
    threads. After the loop, `timing` holds how long each stage worked.

    Args:
        model: the network, in evaluation mode: images (B, 3, H, W) and where they lie on their canvas (B, 4) ->
            its output. It is called in a separate thread.
        batches: (images, targets) of a FastLoader, preferably on `device` already. The targets' `offset`, `size`,
            `scale`, `original_size` and `image_id` are used.
        decode: turns outputs into detections: a detector's `decoder(settings)`.
        device: the device of the model.
        dtype: the number format of convolutions.
    """

    model: Callable[[Any, Any], Output]
    batches: Iterable[Any]
    decode: Decode
    device: torch.device
    dtype: torch.dtype
    timing: Timing = field(default_factory=Timing, init=False)

    def __iter__(self) -> Iterator[Detections]:
        iteration = _Iteration(self)
        try:
            while (detections := iteration.next().result()) is not END:
                yield detections
        finally:
            iteration.close()

    async def __aiter__(self) -> AsyncIterator[Detections]:
        iteration = _Iteration(self)
        try:
            while (detections := await asyncio.wrap_future(iteration.next())) is not END:
                yield detections
        finally:
            iteration.close()


def finish(output: Output, targets: Any, decode: Decode) -> Detections:
    """Turn a detector's output into detections in host memory, in pixels of the original images."""
    detections = decode(output, region_of(targets))
    detections = to_original(detections, targets.scale, targets.offset, targets.original_size).cpu()
    return replace(detections, image_ids=tuple(targets.image_id.tolist()))


def compiled(model: torch.nn.Module, device: torch.device) -> Callable[[Any, Any], Output]:
    """Compile `model` for inference, once per input shape; on a CUDA device into CUDA graphs."""
    if device.type != "cuda":
        return torch.compile(model, dynamic=False)
    graphed = torch.compile(model, dynamic=False, mode="reduce-overhead")

    def forward(images: Tensor, region: Tensor | None = None) -> Output:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(torch.clone, graphed(images, region))  # the next replay overwrites the graph's outputs

    return forward


class _Lane:
    """The thread and the stream of a stage, and how long it worked, on a CUDA device by the device's clock."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"detector-{stage}")
        self.stream = _stream(device, stage)
        self.busy = 0.0
        self._spans: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # which may still write the weights

    @contextmanager
    def work(self, after: torch.cuda.Event | None = None, using: Any = ()) -> Iterator[None]:
        """A context for work of this stage, which begins `after` an event and reads the tensors in `using`."""
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
        """An event that completes with the work so far; None without a stream."""
        return None if self.stream is None else self.stream.record_event()

    def count_busy(self, wait: bool) -> None:
        """Add the times of completed work to `busy`; `wait`: of all work."""
        while self._spans and (wait or self._spans[0][1].query()):
            begin, end = self._spans.popleft()
            end.synchronize()
            self.busy += begin.elapsed_time(end) / 1000


def record_use(stream: torch.cuda.Stream, values: Any) -> None:
    """Keep the memory of `values` (tensors and `Targets`) until the work queued on `stream` is done."""
    for leaf in tree_leaves(values):
        for value in vars(leaf).values() if isinstance(leaf, Targets) else (leaf,):
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(stream)


@lru_cache  # each stream caches its own memory, which would pile up with new streams for every evaluation
def _stream(device: torch.device, stage: Stage) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None


class _Iteration:
    """One iteration: each batch is a chain of three futures, one per stage."""

    def __init__(self, owner: PredictStream) -> None:
        self.owner = owner
        self.start = time.perf_counter()
        self.images = 0
        self.batches = iter(owner.batches)
        self.lanes = [_Lane(stage, owner.device) for stage in STAGES]
        self.flight: deque[Future[Any]] = deque()
        self.pending: list[Future[Any]] = []

    def next(self) -> Future[Any]:
        """The next detections, or END."""
        while len(self.flight) < DEPTH:
            self.flight.append(self._submit())
        return self.flight.popleft()

    def _submit(self) -> Future[Any]:
        load, forward, post = (lane.thread for lane in self.lanes)
        loaded = load.submit(self._load)
        predicted = forward.submit(self._forward, loaded)
        detected = post.submit(self._postprocess, predicted)
        self.pending = [future for future in self.pending if not future.done()] + [loaded, predicted, detected]
        return detected

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
        with self.lanes[1].work(ready, (images, targets)), autocast(self.owner.device, self.owner.dtype):
            output = self.owner.model(images, region_of(targets))
            return len(images), output, targets, self.lanes[1].latest

    @torch.no_grad()
    def _postprocess(self, predicted: Future[Any]) -> Any:
        if (item := predicted.result()) is END:
            return END
        count, output, targets, ready = item
        with self.lanes[2].work(ready, (output, targets)):
            detections = finish(output, targets, self.owner.decode)
        self.images += count
        return detections

    def close(self) -> None:
        """End the threads, and set the `timing` of the stream."""
        for lane in self.lanes:
            lane.thread.shutdown(wait=False, cancel_futures=True)
        wait([future for future in self.pending if not future.cancelled()], CLOSE_SECONDS)
        for lane in self.lanes:
            if lane.stream is not None:
                torch.cuda.current_stream(self.owner.device).wait_stream(lane.stream)
                lane.count_busy(wait=True)
        busy = [lane.busy for lane in self.lanes]
        self.owner.timing = Timing(self.images, time.perf_counter() - self.start, *busy)
