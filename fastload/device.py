"""Copies batches to the device and normalizes them there, on separate streams, so that training does not wait.

On a CUDA device the canvases are page-locked. The uint8 pixels, a quarter of the bytes of float32, are copied on one
stream and normalized on a second. The stream that is current when the batch is handed out waits for it; the host does
not. On a CPU the same work is done at once, without streams.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fastload.batch import Targets
from fastload.errors import DeviceError
from fastload.masks import Masks
from fastload.pixel_format import Normalize, PixelFormat


class Event(Protocol):
    """A point in the work of a stream."""

    def query(self) -> bool: ...


class Stream(Protocol):
    """A queue of work that runs in order, concurrently with other streams."""

    def record_event(self) -> Any: ...
    def wait_event(self, event: Any) -> None: ...


class Streams:
    """The streams for batches of a CUDA device. All loaders share them, because each stream caches its own memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.copies: Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # High priority, so that its short work does not queue behind the model's.
        self.preparation: Stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def current(self) -> Stream:
        """The current stream of the calling thread, where batches are used."""
        return torch.cuda.current_stream(self._device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """A context in which work is queued on `stream` and tensors are allocated for it."""
        return torch.cuda.stream(stream)

    def used(self, value: Any, stream: Any) -> None:
        """See `mark_used`."""
        mark_used(value, stream)


@lru_cache
def cuda_streams(device: torch.device) -> Streams:
    return Streams(device)


@dataclass
class Sent:
    """A batch being copied to the device. `ready` is the event of its completion; None: it is complete."""

    batch: Any
    ready: Any = None


class Reading:
    """Keeps canvases until they are copied, so that no engine writes to them. Thread-safe."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Event, Tensor | None]] = deque()
        self._lock = threading.Lock()

    def add(self, canvas: Tensor | None, until: Event) -> None:
        """Keep `canvas` until the event completes, and drop those whose events have. Events complete in this order."""
        with self._lock:
            while self._kept and self._kept[0][0].query():
                self._kept.popleft()
            self._kept.append((until, canvas))


@lru_cache
def reading_on(device: torch.device) -> Reading:
    """The canvases being copied to a device, including those of deleted loaders."""
    return Reading()


class Feed:
    """Copies batches to a device and converts their images there.

    Args:
        device: "cuda", "cuda:1", "cpu", ..., or "auto": a CUDA device if there is one, else the CPU.
        pixels: the format that uint8 images (B, 3, H, W) are converted to. Floating-point images stay unchanged.

    Raises:
        DeviceError: the device cannot be used here.
    """

    def __init__(self, device: torch.device | str, pixels: PixelFormat) -> None:
        self.device = usable_device(device)
        self._normalize = Normalize(pixels).to(self.device)

    @property
    def streams(self) -> Streams | None:
        return cuda_streams(self.device) if self.device.type == "cuda" else None

    @property
    def allocator(self) -> Callable[[int], NDArray[np.uint8]] | None:
        """Allocates the memory of canvases: page-locked for a CUDA device; None: any memory will do."""
        return self._pinned if self.device.type == "cuda" else None

    def send(self, batch: Any, canvas: Tensor | None = None) -> Sent:
        """Start copying `batch` to the device.

        Args:
            batch: any structure of tensors and `Targets`. In a tuple or list (images, ...), uint8 images (B, 3, H, W)
                are normalized.
            canvas: the memory of the pixels, kept until they are copied.

        Raises:
            DeviceError: the device is out of memory.
        """
        streams = self.streams
        try:
            if streams is None or _made_on_a_gpu(batch):  # by an engine, on the current stream
                return Sent(self._prepare(_moved(batch, self.device)))
            return self._send(batch, canvas, streams)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} has no memory for another batch: lower batch_size, make the images smaller with "
                f"ShortestEdge(..., max_size=...), or delete batches that are no longer needed. {error}"
            ) from error

    def _send(self, batch: Any, canvas: Tensor | None, streams: Streams) -> Sent:
        with streams.on(streams.copies):
            try:
                batch = _moved(batch, self.device)
            finally:  # after an error too, since part of the batch may be in flight
                copied = streams.copies.record_event()
                reading_on(self.device).add(canvas, until=copied)
        streams.preparation.wait_event(copied)
        with streams.on(streams.preparation):
            streams.used(batch, streams.preparation)
            batch = self._prepare(batch)
            return Sent(batch, streams.preparation.record_event())

    def receive(self, sent: Sent) -> Any:
        """The batch, for use on the current stream. That stream waits for it; the host does not."""
        streams = self.streams
        if streams is not None and sent.ready is not None:
            stream = streams.current()
            stream.wait_event(sent.ready)
            streams.used(sent.batch, stream)
        return sent.batch

    def over(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches on the device. If it has streams, each is copied while the one before is in use."""
        waiting: deque[Sent] = deque()
        for batch in batches:
            waiting.append(self.send(batch))
            if len(waiting) > (self.streams is not None):
                yield self.receive(waiting.popleft())
        yield from map(self.receive, waiting)

    def _prepare(self, batch: Any) -> Any:
        if not isinstance(batch, (tuple, list)) or not batch:
            return batch
        images = batch[0]
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] != 3:
            return batch
        images = self._normalize(images)
        return batch._replace(images=images) if hasattr(batch, "_replace") else type(batch)((images, *batch[1:]))

    def _pinned(self, size: int) -> NDArray[np.uint8]:
        with torch.cuda.device(self.device):
            memory: NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return memory


def usable_device(device: torch.device | str) -> torch.device:
    """Resolve a device to one that works, with its index.

    Args:
        device: "auto" is a CUDA device if there is one, else the CPU.

    Raises:
        DeviceError: the device cannot be used here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        usable = torch.device(device)
        if usable.type == "cuda":
            usable = torch.device("cuda", torch.cuda.current_device() if usable.index is None else usable.index)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"device {str(device)!r} cannot be used here: {reason}. `fastload doctor` lists what this machine has; "
            'device="auto" uses the CPU if there is no GPU.'
        ) from error
    return usable


def _made_on_a_gpu(batch: Any) -> bool:
    return any(tensor.is_cuda for tensor in _tensors(batch))


def mark_used(value: Any, stream: Any) -> None:
    """Keep the memory of the tensors in `value` until the work queued on `stream` is done."""
    for tensor in _tensors(value):
        if tensor.is_cuda:
            tensor.record_stream(stream)


def _moved(value: Any, device: torch.device) -> Any:
    """The same structure with its tensors on `device`; copies from page-locked memory do not block."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=device.type == "cuda" and leaf.is_pinned())
        if isinstance(leaf, Targets):
            return leaf.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else leaf.to(device)
        return leaf

    return tree_map(move, value)


def _tensors(value: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif is_dataclass(leaf):
            yield from _tensors([part for part in vars(leaf).values() if isinstance(part, Tensor | dict | Masks)])
