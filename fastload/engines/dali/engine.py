"""The DALI engine: NVIDIA DALI decodes, resamples, colours and places, on the CPU or on a GPU.

Every row of a plan becomes a *tile*. Where each slot is one row's, as it is unless a mosaic is planned, a tile is a
whole canvas, and DALI's own memory is the batch; else tiles are copied to their places.

DALI interpolates RGB where the reference engine interpolates Y, Cb and Cr, and rounds to whole levels between steps.
A batch with a bad image fails as a whole in DALI, so who is to blame is found out here, and the rest is made again.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from fastload import _core
from fastload.cache.format.layout import Encoding
from fastload.cache.format.record import HEADER_SIZE, check_payload, read_header
from fastload.device.normalize import Normalize, PixelFormat
from fastload.engines.dali.pipeline import DaliPipeline, Graph, TileError, Tiles, import_dali
from fastload.engines.native import Check
from fastload.engines.validate import check_aligned, check_apart, check_plan
from fastload.errors import EngineError, PlanError
from fastload.plan.batch_plan import IDENTITY_COLOR, BatchPlan

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache
    from fastload.cache.read.cache_file import CacheFile

IN_FLIGHT = 4  # plans given to DALI at a time


@dataclass(eq=False)
class DaliJob:
    """A batch under way."""

    plan: BatchPlan
    rows: NDArray[np.int64]  # (R) rows of the plan to be shown: those of slots without a failure
    failures: dict[int, str]  # {row: reason}
    tiles: Any = None  # DALI's list of R tiles
    error: EngineError | None = None
    images: torch.Tensor | None = (
        None  # (B, 3, H, W) on the engine's device, from when it is executed until it is taken
    )

    @property
    def unfinished(self) -> bool:
        """Whether DALI has still to make its tiles."""
        return self.tiles is None and self.error is None and len(self.rows) > 0

    @property
    def whole(self) -> bool:
        """Whether each tile is a canvas: every slot is one row's."""
        return np.array_equal(self.plan.slot, np.arange(len(self.plan.size)))

    def fail(self, failures: dict[int, str]) -> None:
        """Note rows that do not decode. Nothing is shown in their slots."""
        self.failures.update(failures)
        blank = self.plan.slot[list(self.failures)]
        self.rows = np.flatnonzero(~np.isin(self.plan.slot, blank))


class DaliEngine:
    """Executes plans over `cache` by DALI on `threads` threads (one at least), on the GPU `device_id` if it is given.

    Batches are on the engine's device, without a copy where the plan has one row a slot. On a GPU they belong to the
    stream that was torch's current one in `wait`: a user on another stream has to wait for it, and to keep them until
    done.

    DALI makes uint8 images, which torch turns into the format `pixels`.

    A record's checksum is verified the first time this engine reads it, or every time, or never. Raises EngineError
    when DALI is missing or cannot run here, and for caches it cannot read.
    """

    def __init__(
        self,
        cache: Cache,
        threads: int,
        check: Check = "first",
        device_id: int | None = None,
        pixels: PixelFormat | None = None,
    ) -> None:
        import_dali()
        refuse_other_encodings(cache)
        self._cache, self._threads, self._device_id = cache, threads, device_id
        self._normalize = Normalize(pixels or PixelFormat())
        self._sound = np.full(len(cache.lengths), check == "never")
        self._check = check
        self._lock = RLock()
        self._pending: deque[weakref.ref[DaliJob]] = deque()
        self._running: deque[weakref.ref[DaliJob]] = deque()  # in the pipeline, in its order
        self._pipeline: DaliPipeline | None = None
        self._process: int | None = os.getpid()

    def share(self) -> DaliEngine:
        """See `Engine.share`: batches of all iterators go through one pipeline, those that are waited for first."""
        return self

    def submit(self, plan: BatchPlan, ends: Sequence[int]) -> list[DaliJob]:
        """See `Engine.submit`."""
        self._check_open()
        check_plan(plan, len(self._sound))
        check_aligned(plan)
        check_apart(plan)
        self._cache.ensure(plan.index)
        return [self._submit(batch) for batch in plan.split(ends)]

    def _submit(self, plan: BatchPlan) -> DaliJob:
        job = DaliJob(plan, np.arange(len(plan.index)), {})
        job.fail({row: reason for row, i in enumerate(plan.index.tolist()) if (reason := self._damage(i))})
        with self._lock:
            self._pending.append(weakref.ref(job))
            self._start()
        return job

    def wait(self, ticket: list[DaliJob], number: int) -> dict[int, str]:
        """See `Engine.wait`. Ctrl-C gets through when the batch under way is done. Raises EngineError when memory runs
        out; the engine goes on with other plans."""
        self._check_open()
        job = ticket[number]
        with self._lock:
            self._hurry(job)
            while job.unfinished:
                self._start()
                self._collect()
        if job.error is not None:
            raise job.error
        images = self._compose(job).permute(0, 3, 1, 2)
        job.images = self._normalize.to(images.device)(images)
        job.tiles = None
        return job.failures

    def images(self, ticket: list[DaliJob], number: int) -> torch.Tensor | None:
        """See `Engine.images`: DALI's own memory, or what its tiles were copied to."""
        job = ticket[number]
        images, job.images = job.images, None
        return images

    def done(self, ticket: list[DaliJob], number: int) -> bool:
        """See `Engine.done`: DALI tells when a batch is taken from it, not before."""
        return False

    def close(self) -> None:
        """End all threads."""
        with self._lock:
            self._pending.clear()
            self._running.clear()
            self._pipeline = self._process = None

    def _check_open(self) -> None:
        if self._process != os.getpid():
            raise PlanError("this plan cannot be executed: the engine is closed or belongs to another process")

    def _damage(self, index: int) -> str | None:
        """Why a record must not be decoded; None when it may."""
        if not self._sound[index]:
            record = memoryview(self._cache.record_bytes(index))
            try:
                check_payload(record, read_header(record))
            except ValueError as error:
                return str(error)
            self._sound[index] = self._check != "always"
        return None

    def _hurry(self, job: DaliJob) -> None:
        """Put a pending job before those that other iterators have submitted."""
        waiting = weakref.ref(job)
        if waiting in self._pending:
            self._pending.remove(waiting)
            self._pending.appendleft(waiting)

    def _start(self) -> None:
        """Give the pipeline what it may hold at a time. A plan that needs another one waits until it is empty."""
        while self._pending and len(self._running) < IN_FLIGHT:
            job = self._pending[0]()
            if job is None or not job.unfinished:
                self._pending.popleft()
                continue
            graph = self._graph(job)
            if self._pipeline is None or self._pipeline.graph != graph:
                if self._running:
                    return
                self._pipeline = None  # its memory goes before another takes some
                self._pipeline = DaliPipeline(graph, self._threads, self._device_id)
            try:
                self._running.append(self._pending[0])
                self._pipeline.start(self._tiles(job))
                self._pending.popleft()
            except BaseException:  # Ctrl-C among others: who knows what the pipeline has been fed
                self._restart()
                raise

    def _graph(self, job: DaliJob) -> Graph:
        """The pipeline for a plan: the present one if it does, since another costs a pause."""
        rows = 1 << max(len(job.rows) - 1, 0).bit_length()
        red, green, blue = job.plan.fill.tolist()
        recolor = bool((job.plan.color != IDENTITY_COLOR).any())
        if self._pipeline is not None:
            rows = max(rows, self._pipeline.graph.rows)
        return Graph(rows, (red, green, blue), recolor)

    def _tiles(self, job: DaliJob) -> Tiles:
        plan, rows = job.plan, job.rows
        crop, clip, flip = plan.crop[rows].astype(np.float32), plan.clip[rows], plan.flip[rows]
        near, far = crop[:, 1::-1], (crop[:, :2] + crop[:, 2:])[:, ::-1]
        mirrored = np.stack([np.zeros_like(flip), flip], 1)
        size = clip[:, :1:-1]
        return Tiles(
            [np.frombuffer(self._cache.record_bytes(i), np.uint8)[HEADER_SIZE:] for i in plan.index[rows].tolist()],
            start=np.where(mirrored, far, near),
            end=np.where(mirrored, near, far),
            size=size.astype(np.float32),
            color=plan.color[rows].astype(np.float32),
            corner=-clip[:, 1::-1] if job.whole else np.zeros_like(size),
            window=np.full_like(size, plan.canvas[::-1]) if job.whole else np.ascontiguousarray(size),
        )

    def _collect(self) -> None:
        """Take the tiles of the plan that was started first."""
        job = self._running[0]()
        assert self._pipeline is not None
        try:
            tiles = self._pipeline.collect()
            if job is not None:
                job.tiles = tiles
            self._running.popleft()
        except TileError as error:
            self._restart()
            if job is not None:
                self._blame(job, error)
        except EngineError as error:
            self._restart()
            if job is not None:
                job.error = error
        except BaseException:
            self._restart()
            raise

    def _restart(self) -> None:
        """Give up the pipeline; what was in it is made again by the next one."""
        self._pending.extendleft(reversed(self._running))
        self._running.clear()
        self._pipeline = None

    def _blame(self, job: DaliJob, error: TileError) -> None:
        """Find out which rows DALI failed on: those that the core cannot decode either, else those it cannot alone."""
        bad = {row: reason for row in job.rows.tolist() if (reason := self._undecodable(job, row))}
        bad = bad or {row: reason for row in job.rows.tolist() if (reason := self._failure_alone(job, row))}
        if bad:
            job.fail(bad)
        else:
            job.error = EngineError(f"DALI failed on a batch, though on none of its images alone: {error}")

    def _undecodable(self, job: DaliJob, row: int) -> str | None:
        try:
            _core.decode_record(self._cache.record_bytes(int(job.plan.index[row])))
        except ValueError as error:
            return str(error)
        return None

    def _failure_alone(self, job: DaliJob, row: int) -> str | None:
        alone = DaliJob(job.plan, np.array([row]), {})
        pipeline = DaliPipeline(self._graph(alone), self._threads, self._device_id)
        pipeline.start(self._tiles(alone))
        try:
            pipeline.collect()
        except TileError as error:
            return str(error)
        return None

    def _compose(self, job: DaliJob) -> torch.Tensor:
        """The canvases (B, H, W, 3) on the device."""
        plan, tiles = job.plan, job.tiles
        if job.whole and len(job.rows) == len(plan.size) > 0:
            return from_dlpack(tiles.as_tensor())
        canvases, fill, show = self._memory(plan)
        canvases[:] = fill
        for tile, row in enumerate(job.rows.tolist()):
            x, y, w, h = (0, 0, *plan.canvas) if job.whole else plan.clip[row].tolist()
            canvases[int(plan.slot[row]), y : y + h, x : x + w] = show(tiles[tile])
        return torch.as_tensor(canvases)

    def _memory(self, plan: BatchPlan) -> tuple[Any, Any, Callable[[Any], Any]]:
        """Canvases to fill, the fill colour and how to look at a tile: of NumPy, or of torch if the tiles are on a GPU.

        (On the CPU torch would copy by threads of its own, which a forked child has not got and waits for.)
        """
        shape = (len(plan.size), *plan.canvas[::-1], 3)
        if self._device_id is None:
            return np.empty(shape, np.uint8), plan.fill, np.asarray
        device = f"cuda:{self._device_id}"
        fill = torch.tensor(plan.fill.tolist(), dtype=torch.uint8, device=device)
        return torch.empty(shape, dtype=torch.uint8, device=device), fill, from_dlpack


def refuse_other_encodings(cache: Cache) -> None:
    """EngineError unless DALI can decode all records: those that hold JPEGs. Names the first file that has others."""
    for shard in cache.shards:
        _refuse_other_encodings(shard)


def _refuse_other_encodings(shard: CacheFile) -> None:
    others = [Encoding(e) for e in np.unique(shard.encodings).tolist() if e != Encoding.ORIGINAL]
    if not others:
        return
    path = shard.path
    how = f"fastload convert-cache {path} {path.with_name(path.stem + '-original.lmdb')} --encoding original"
    if Encoding.PLANES in others:  # which have no way back
        how = "fastload build-cache DATASET --encoding original"
    raise EngineError(
        f"{path} holds images as {', '.join(e.label for e in others)}, and DALI decodes JPEGs only: make a cache of "
        f'them by `{how}`, or choose engine="native"'
    )
