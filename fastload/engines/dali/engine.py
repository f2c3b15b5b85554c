"""The DALI engine: NVIDIA DALI decodes, resamples, recolors and places, on the CPU or on a GPU.

Every row of a plan becomes a *tile*. If each slot has one row, as in all plans but mosaics, a tile is a whole canvas
and the batch is DALI's own memory. Else tiles are copied to their places.

DALI interpolates RGB, the reference engine Y, Cb and Cr; DALI also rounds to whole levels between steps. One bad image
makes a whole batch fail in DALI, so this engine finds the bad image and makes the rest again.
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
from fastload.engines.dali.pipeline import DaliPipeline, Graph, TileError, Tiles, import_dali
from fastload.engines.native import Check
from fastload.engines.validate import check_plan, check_simple
from fastload.errors import EngineError, PlanError
from fastload.pixel_format import Normalize, PixelFormat
from fastload.plan.batch_plan import IDENTITY_COLOR, BatchPlan

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache
    from fastload.cache.read.cache_file import CacheFile

IN_FLIGHT = 4  # plans given to DALI at a time


@dataclass(eq=False)
class DaliBatch:
    """A batch in flight."""

    plan: BatchPlan
    rows: NDArray[np.int64]  # (R) rows of the plan to show: those of slots without a failure
    failures: dict[int, str]  # {row: reason}
    tiles: Any = None  # DALI's list of R tiles
    error: EngineError | None = None
    images: torch.Tensor | None = None  # (B, 3, H, W) on the engine's device, from `wait` to `images`

    @property
    def unfinished(self) -> bool:
        """Whether DALI has not made its tiles yet."""
        return self.tiles is None and self.error is None and len(self.rows) > 0

    @property
    def whole(self) -> bool:
        """Whether each tile is a whole canvas, because every slot has exactly one row."""
        return np.array_equal(self.plan.slot, np.arange(len(self.plan.size)))

    def fail(self, failures: dict[int, str]) -> None:
        """Note rows that do not decode. Their slots stay empty."""
        self.failures.update(failures)
        blank = self.plan.slot[list(self.failures)]
        self.rows = np.flatnonzero(~np.isin(self.plan.slot, blank))


class DaliEngine:
    """Executes plans with NVIDIA DALI.

    Batches are on the engine's device, without a copy if the plan has one row per slot. On a GPU they belong to the
    stream that was torch's current one in `wait`: other streams must wait for that one before they use a batch, and
    keep the batch until they are done.

    Args:
        cache: the cache to read, with the encoding `original`.
        threads: CPU threads, at least one.
        check: when to verify a record's checksum: the first time this engine reads it, always or never.
        device_id: the GPU to run on; None: the CPU.
        pixels: the format of the images. DALI makes uint8, which torch converts.

    Raises:
        EngineError: DALI is missing, cannot run here or cannot read the cache.
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
        self._pending: deque[weakref.ref[DaliBatch]] = deque()
        self._running: deque[weakref.ref[DaliBatch]] = deque()  # in the pipeline, in its order
        self._pipeline: DaliPipeline | None = None
        self._process: int | None = os.getpid()

    def share(self) -> DaliEngine:
        """See `Engine.share`. All iterators use one pipeline; a batch that is waited for goes first."""
        return self

    def submit(self, plan: BatchPlan, ends: Sequence[int]) -> list[DaliBatch]:
        """See `Engine.submit`."""
        self._check_open()
        check_plan(plan, len(self._sound))
        check_simple(plan)
        self._cache.ensure(plan.index)
        return [self._submit(batch) for batch in plan.split(ends)]

    def _submit(self, plan: BatchPlan) -> DaliBatch:
        batch = DaliBatch(plan, np.arange(len(plan.index)), {})
        batch.fail({row: reason for row, i in enumerate(plan.index.tolist()) if (reason := self._damage(i))})
        with self._lock:
            self._pending.append(weakref.ref(batch))
            self._start()
        return batch

    def wait(self, ticket: list[DaliBatch], number: int) -> dict[int, str]:
        """See `Engine.wait`. Ctrl-C takes effect when DALI has finished the present batch.

        Raises:
            EngineError: memory ran out. Other plans can still be executed.
        """
        self._check_open()
        batch = ticket[number]
        with self._lock:
            self._hurry(batch)
            while batch.unfinished:
                self._start()
                self._collect()
        if batch.error is not None:
            raise batch.error
        images = self._compose(batch).permute(0, 3, 1, 2)
        batch.images = self._normalize.to(images.device)(images)
        batch.tiles = None
        return batch.failures

    def images(self, ticket: list[DaliBatch], number: int) -> torch.Tensor | None:
        """See `Engine.images`."""
        batch = ticket[number]
        images, batch.images = batch.images, None
        return images

    def done(self, ticket: list[DaliBatch], number: int) -> bool:
        """See `Engine.done`. Always False: DALI does not report it."""
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
        """Why a record must not be decoded; None if it is sound."""
        if not self._sound[index]:
            record = memoryview(self._cache.record_bytes(index))
            try:
                check_payload(record, read_header(record))
            except ValueError as error:
                return str(error)
            self._sound[index] = self._check != "always"
        return None

    def _hurry(self, batch: DaliBatch) -> None:
        """Put a pending batch before those of other iterators."""
        reference = weakref.ref(batch)
        if reference in self._pending:
            self._pending.remove(reference)
            self._pending.appendleft(reference)

    def _start(self) -> None:
        """Fill the pipeline. A plan that needs another pipeline waits until this one is empty."""
        while self._pending and len(self._running) < IN_FLIGHT:
            batch = self._pending[0]()
            if batch is None or not batch.unfinished:
                self._pending.popleft()
                continue
            graph = self._graph(batch)
            if self._pipeline is None or self._pipeline.graph != graph:
                if self._running:
                    return
                self._pipeline = None  # free its memory before the next one allocates
                self._pipeline = DaliPipeline(graph, self._threads, self._device_id)
            try:
                self._running.append(self._pending[0])
                self._pipeline.start(self._tiles(batch))
                self._pending.popleft()
            except BaseException:  # Ctrl-C among others: the state of the pipeline is unknown
                self._restart()
                raise

    def _graph(self, batch: DaliBatch) -> Graph:
        """The pipeline that a plan needs; the present one if possible, since building another takes time."""
        rows = 1 << max(len(batch.rows) - 1, 0).bit_length()
        red, green, blue = batch.plan.fill.tolist()
        recolor = bool((batch.plan.color != IDENTITY_COLOR).any())
        if self._pipeline is not None:
            rows = max(rows, self._pipeline.graph.rows)
        return Graph(rows, (red, green, blue), recolor)

    def _tiles(self, batch: DaliBatch) -> Tiles:
        plan, rows = batch.plan, batch.rows
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
            corner=-clip[:, 1::-1] if batch.whole else np.zeros_like(size),
            window=np.full_like(size, plan.canvas[::-1]) if batch.whole else np.ascontiguousarray(size),
        )

    def _collect(self) -> None:
        """Take the tiles of the batch that was started first."""
        batch = self._running[0]()
        assert self._pipeline is not None
        try:
            tiles = self._pipeline.collect()
            if batch is not None:
                batch.tiles = tiles
            self._running.popleft()
        except TileError as error:
            self._restart()
            if batch is not None:
                self._blame(batch, error)
        except EngineError as error:
            self._restart()
            if batch is not None:
                batch.error = error
        except BaseException:
            self._restart()
            raise

    def _restart(self) -> None:
        """Drop the pipeline; the next one makes its batches again."""
        self._pending.extendleft(reversed(self._running))
        self._running.clear()
        self._pipeline = None

    def _blame(self, batch: DaliBatch, error: TileError) -> None:
        """Find the rows that DALI failed on.

        These are the rows that the core cannot decode either; else the rows that DALI cannot decode one at a time.
        """
        bad = {row: reason for row in batch.rows.tolist() if (reason := self._undecodable(batch, row))}
        bad = bad or {row: reason for row in batch.rows.tolist() if (reason := self._failure_alone(batch, row))}
        if bad:
            batch.fail(bad)
        else:
            batch.error = EngineError(f"DALI failed on a batch, but on none of its images alone: {error}")

    def _undecodable(self, batch: DaliBatch, row: int) -> str | None:
        try:
            _core.decode_record(self._cache.record_bytes(int(batch.plan.index[row])))
        except ValueError as error:
            return str(error)
        return None

    def _failure_alone(self, batch: DaliBatch, row: int) -> str | None:
        alone = DaliBatch(batch.plan, np.array([row]), {})
        pipeline = DaliPipeline(self._graph(alone), self._threads, self._device_id)
        pipeline.start(self._tiles(alone))
        try:
            pipeline.collect()
        except TileError as error:
            return str(error)
        return None

    def _compose(self, batch: DaliBatch) -> torch.Tensor:
        """The canvases (B, H, W, 3) on the device."""
        plan, tiles = batch.plan, batch.tiles
        if batch.whole and len(batch.rows) == len(plan.size) > 0:
            return from_dlpack(tiles.as_tensor())
        canvases, fill, show = self._memory(plan)
        canvases[:] = fill
        for tile, row in enumerate(batch.rows.tolist()):
            x, y, w, h = (0, 0, *plan.canvas) if batch.whole else plan.clip[row].tolist()
            canvases[int(plan.slot[row]), y : y + h, x : x + w] = show(tiles[tile])
        return torch.as_tensor(canvases)

    def _memory(self, plan: BatchPlan) -> tuple[Any, Any, Callable[[Any], Any]]:
        """Canvases to fill, the fill color, and a function that views a tile as the same kind of array.

        torch's if the tiles are on a GPU, else NumPy's: on the CPU, torch would copy with its own threads, and hang in
        a forked child, which does not have them.
        """
        shape = (len(plan.size), *plan.canvas[::-1], 3)
        if self._device_id is None:
            return np.empty(shape, np.uint8), plan.fill, np.asarray
        device = f"cuda:{self._device_id}"
        fill = torch.tensor(plan.fill.tolist(), dtype=torch.uint8, device=device)
        return torch.empty(shape, dtype=torch.uint8, device=device), fill, from_dlpack


def refuse_other_encodings(cache: Cache) -> None:
    """Raise EngineError unless all records are JPEGs, which DALI can decode. Names the first file with others."""
    for shard in cache.shards:
        _refuse_other_encodings(shard)


def _refuse_other_encodings(shard: CacheFile) -> None:
    others = [Encoding(e) for e in np.unique(shard.encodings).tolist() if e != Encoding.ORIGINAL]
    if not others:
        return
    path = shard.path
    how = f"fastload convert-cache {path} {path.with_name(path.stem + '-original.lmdb')} --encoding original"
    if Encoding.PLANES in others:  # cannot be converted back to JPEG
        how = "fastload build-cache DATASET --encoding original"
    raise EngineError(
        f"{path} holds images as {', '.join(e.label for e in others)}, and DALI decodes JPEGs only: make a cache of "
        f'JPEGs with `{how}`, or choose engine="native"'
    )
