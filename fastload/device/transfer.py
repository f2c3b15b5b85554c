"""Batches on the device: copied, normalized and handed over on streams of their own, so that no computation waits.

On a CUDA device the canvases are page-locked. A batch's bytes, a quarter of what float32 would be, are copied on one
stream and normalized on a second; the stream that is current when the batch is handed out waits for it, the host never
does. On a CPU the same happens at once and without streams.
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
from fastload.device.normalize import Normalize, PixelFormat
from fastload.errors import DeviceError


class Event(Protocol):
    """A point in a stream's work."""

    def query(self) -> bool: ...


class Stream(Protocol):
    """Work in order, beside that of other streams."""

    def record_event(self) -> Any: ...
    def wait_event(self, event: Any) -> None: ...


class Streams:
    """The streams of a CUDA device that batches take, the same two for every loader: each has memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.copies: Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Its work is short: it is not to queue behind a model's.
        self.preparation: Stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def current(self) -> Stream:
        """The calling thread's own stream, where batches are used."""
        return torch.cuda.current_stream(self._device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Within, work is queued on `stream`, and tensors are its."""
        return torch.cuda.stream(stream)

    def used(self, value: Any, stream: Any) -> None:
        """See `mark_used`."""
        mark_used(value, stream)


@lru_cache
def cuda_streams(device: torch.device) -> Streams:
    return Streams(device)


@dataclass
class Sent:
    """A batch on its way. `ready` happens when it is there; None: it is."""

    batch: Any
    ready: Any = None


class Reading:
    """Keeps canvases until they are copied, so that nobody writes there. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Event, Tensor | None]] = deque()
        self._lock = threading.Lock()

    def add(self, canvas: Tensor | None, until: Event) -> None:
        """Keep `canvas` until the event has happened; those whose has are let go. Events happen in this order."""
        with self._lock:
            while self._kept and self._kept[0][0].query():
                self._kept.popleft()
            self._kept.append((until, canvas))


@lru_cache
def reading_on(device: torch.device) -> Reading:
    """What is being copied there, also by loaders that are gone."""
    return Reading()


class Feed:
    """Takes batches to `device`.

    Args:
        device: "cuda", "cuda:1", "cpu", ..., or "auto": a CUDA device if there is one, else the CPU.
        pixels: what uint8 images (B, 3, H, W) become there. Floating-point ones are left as they are.

    Raises DeviceError if the device cannot be used here.
    """

    def __init__(self, device: torch.device | str, pixels: PixelFormat) -> None:
        self.device = usable_device(device)
        self._normalize = Normalize(pixels).to(self.device)

    @property
    def streams(self) -> Streams | None:
        return cuda_streams(self.device) if self.device.type == "cuda" else None

    @property
    def allocator(self) -> Callable[[int], NDArray[np.uint8]] | None:
        """Makes the memory of canvases: page-locked for a CUDA device; None: any will do."""
        return self._pinned if self.device.type == "cuda" else None

    def send(self, batch: Any, canvas: Tensor | None = None) -> Sent:
        """Start taking `batch` to the device. Its pixels lie on `canvas`, which is kept until they are copied.

        A batch is any structure of tensors and `Targets`; in one like (images, ...) uint8 images (B, 3, H, W) are
        normalized. Raises DeviceError if the device has no memory for it.
        """
        streams = self.streams
        try:
            if streams is None or _made_on_a_gpu(batch):  # by an engine, whose memory is the current stream's
                return Sent(self._prepare(_moved(batch, self.device)))
            return self._send(batch, canvas, streams)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} has no memory for another batch: lower batch_size, make the images smaller with "
                f"ShortestEdge(..., max_size=...), or let go of batches that are no longer needed. {error}"
            ) from error

    def _send(self, batch: Any, canvas: Tensor | None, streams: Streams) -> Sent:
        with streams.on(streams.copies):
            try:
                batch = _moved(batch, self.device)
            finally:  # also when only a part of it was
                copied = streams.copies.record_event()
                reading_on(self.device).add(canvas, until=copied)
        streams.preparation.wait_event(copied)
        with streams.on(streams.preparation):
            streams.used(batch, streams.preparation)
            batch = self._prepare(batch)
            return Sent(batch, streams.preparation.record_event())

    def receive(self, sent: Sent) -> Any:
        """The batch, for use on the calling thread's current stream, which waits for it; the host does not."""
        streams = self.streams
        if streams is not None and sent.ready is not None:
            stream = streams.current()
            stream.wait_event(sent.ready)
            streams.used(sent.batch, stream)
        return sent.batch

    def over(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Batches of any other origin on the device, where it has streams each sent while the one before is in use."""
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
    """`device` with its number; "auto" is a CUDA device if there is one. Raises DeviceError if it cannot be used."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        if found.type == "cuda":
            found = torch.device("cuda", torch.cuda.current_device() if found.index is None else found.index)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"device {str(device)!r} cannot be used here: {reason}. `fastload doctor` says what this machine has; "
            'device="auto" takes the CPU where there is no GPU.'
        ) from error
    return found


def _made_on_a_gpu(batch: Any) -> bool:
    return any(tensor.is_cuda for tensor in _tensors(batch))


def mark_used(value: Any, stream: Any) -> None:
    """Tensors of `value` are used on `stream` too: their memory stays until what is queued there is done."""
    for tensor in _tensors(value):
        if tensor.is_cuda:
            tensor.record_stream(stream)


def _moved(value: Any, device: torch.device) -> Any:
    """The same structure with its tensors on `device`: without a wait from page-locked memory."""

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
            yield from _tensors([part for part in vars(leaf).values() if isinstance(part, Tensor | dict)])
