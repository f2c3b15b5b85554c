"""The native engine: decoders and fused resampling kernels, on threads that never hold the GIL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch._C import _from_dlpack

from fastload import _core
from fastload.errors import PlanError
from fastload.masks import DrawnMasks, drawn_masks
from fastload.pixel_format import DTYPES, PixelFormat
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.masks import MaskPlan

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache

Check = Literal["never", "first", "always"]  # in the order of the core's enum
ALIGNMENT = 64  # bytes: a cache line, and the widest vector store


class NativeEngine:
    """Executes plans on native threads. Each iterator needs its own engine: see `share`.

    Args:
        cache: the cache that the plans refer to.
        threads: number of threads. 0: batches are executed by the thread that waits for them.
        check: when the checksum of a record is verified: "never", the "first" time it is read, or "always".
        in_flight: the maximum number of batches that are executed ahead of the one that is waited for.
        allocate: returns memory of a given number of bytes for a batch. It is reused when no tensor refers to it.
            Default: `aligned_memory`.
        pixels: the format of images, to which each row of pixels is converted as soon as it is drawn. Default: uint8.
        emulated_microseconds: for benchmarks: if not 0, nothing is decoded and each record takes this time.
        scaled_decoding: whether images that shrink are decoded at a smaller size.
    """

    def __init__(
        self,
        cache: Cache,
        threads: int,
        check: Check = "first",
        in_flight: int = 6,
        allocate: Callable[[int], NDArray[np.uint8]] | None = None,
        pixels: PixelFormat | None = None,
        emulated_microseconds: int = 0,
        scaled_decoding: bool = True,
    ) -> None:
        self._cache = cache
        places = cache.addresses, cache.lengths, cache.checksums
        number = get_args(Check).index(check)
        memory, pixel_format = allocate or aligned_memory, core_format(pixels or PixelFormat())
        self.core = _core.Engine(
            *places, threads, number, cache, in_flight, memory, pixel_format, emulated_microseconds, scaled_decoding
        )

    def share(self) -> NativeEngine:
        """See `Engine.share`."""
        other = copy(self)
        other.core = self.core.share()
        return other

    def submit(self, plan: BatchPlan, ends: Sequence[int], masks: MaskPlan | None = None) -> _core.Ticket:
        """See `MaskEngine.submit`."""
        self._cache.ensure(plan.index[plan.index >= 0])
        try:
            return self.core.submit(plan, ends, masks)
        except ValueError as error:
            raise PlanError(f"this plan cannot be executed: {error}") from None

    def wait(self, ticket: _core.Ticket, number: int) -> dict[int, str]:
        """See `Engine.wait`. After a KeyboardInterrupt, the batch can be waited for again."""
        return self.core.wait(ticket, number)

    def images(self, ticket: _core.Ticket, number: int) -> Tensor | None:
        """See `Engine.images`. They are returned as soon as they have memory, and may still be written to."""
        capsule = self.core.images(ticket, number)
        return None if capsule is None else _from_dlpack(capsule)  # torch.from_dlpack, without its checks

    def masks(self, ticket: _core.Ticket, number: int) -> DrawnMasks:
        """See `MaskEngine.masks`."""
        capsules = self.core.masks(ticket, number)
        assert capsules is not None
        return drawn_masks(capsules)

    def times(self) -> tuple[float, float, float, float]:
        """Seconds of all threads since the engine was created: waiting, working, disk and starved, as in `Stats`."""
        return self.core.times()

    def done(self, ticket: _core.Ticket, number: int) -> bool:
        """See `Engine.done`."""
        return self.core.done(ticket, number)

    def close(self) -> None:
        """See `Engine.close`. Threads end when all engines that share them are closed or dropped."""
        self.core.close()


def core_format(pixels: PixelFormat) -> _core.PixelFormat:
    """Convert a pixel format to the core's type."""
    return _core.PixelFormat(DTYPES.index(pixels.dtype), pixels.is_planar, pixels.mean, pixels.std)


def aligned_memory(size: int) -> NDArray[np.uint8]:
    """Return `size` bytes of uninitialized memory, aligned to ALIGNMENT."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
