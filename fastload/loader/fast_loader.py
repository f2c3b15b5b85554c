"""FastLoader: torch's DataLoader, with caches planned a batch at a time and decoded by native threads."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial, wraps
from importlib import import_module
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.sampler import RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from typing_extensions import TypeVar

from fastload.cache.read.cache import Cache
from fastload.class_batch import TargetKind
from fastload.device import Feed
from fastload.engines.auto import ENGINES, choose_engine
from fastload.engines.base import Engine
from fastload.engines.masks import MaskingEngine
from fastload.engines.validate import check_simple
from fastload.errors import ArgumentError, StateError
from fastload.loader.arguments import check_arguments, refuse_class, refuse_what_needs_a_cache, split_transforms
from fastload.loader.dataset import cache_and_images, opened, without_empty
from fastload.loader.finisher import BatchFinisher, SampleFunction, is_fused
from fastload.loader.iterator import BatchIterator
from fastload.loader.planner import BatchPlanner, PlannedRuns
from fastload.loader.ranks import Ranks
from fastload.loader.report import report
from fastload.loader.sampler_order import SampledBatches
from fastload.loader.sampling import EpochOrder, EpochRandom
from fastload.loader.state import EpochProgress, restore, state_of
from fastload.loader.stats import Meter, Stats
from fastload.pixel_format import PixelFormat
from fastload.plan.align import Collator, TopLeftAlign
from fastload.plan.image_index import ImageIndex
from fastload.plan.masks import MaskSettings
from fastload.plan.transforms import Transform

RANDOM_SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
T_co = TypeVar("T_co", covariant=True, default=Any)

if TYPE_CHECKING:
    _DataLoader = DataLoader
    RESUMES_ANY_DATASET = False
else:
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader as _DataLoader
    except ImportError:
        _DataLoader = DataLoader
    RESUMES_ANY_DATASET = _DataLoader is not DataLoader


class FastLoader(_DataLoader[T_co]):
    """A `torch.utils.data.DataLoader` that reads caches several times faster.

        loader = FastLoader("train.lmdb", batch_size=16, shuffle=True, num_workers=8, device="cuda")
        for images, targets in loader:
            ...

    On a cache, batches are `Batch(images, targets)`, or `ClassBatch(images, class_ids)` if `targets` says so. Any other
    dataset is loaded by DataLoader itself, or by StatefulDataLoader if torchdata is installed.

    `state_dict()` and `load_state_dict()` resume in the middle of an epoch: on a cache always, on other datasets if
    torchdata is installed. On a cache, `num_workers`, `prefetch_factor`, `batch_size` and the number of ranks of a
    DistributedSampler may differ then: the rest of the epoch is shared again. The state of one rank serves all ranks
    that have done the same number of steps. Any other `sampler` or `batch_sampler` must give the same order again; the
    states of torch's generators are saved for that.

    Args:
        dataset: the path of a cache, a `Cache`, a list of these, or `Subset`s and `ConcatDataset`s of Caches in any
            nesting; or any other dataset.

        The arguments of DataLoader, on a cache:

        batch_size, shuffle, sampler, batch_sampler, drop_last: as in DataLoader. `batch_size=None` yields single
            (image, target) pairs, unpadded. A `DistributedSampler` shares each epoch among processes.
        num_workers: native threads, which live as long as the loader; 0 decodes in the calling thread.
        collate_fn: a `Collator` (default: `TopLeftAlign()`), or any function of a list of (image, target) pairs. It
            gets unpadded images (3, H, W) and the dicts of `Targets`.
        pin_memory: copy images and targets to page-locked memory, if there is an accelerator.
        generator: draws the seed, once. Default: torch's default generator. Batches depend on the seed, the epoch, the
            cache and the settings, but not on `num_workers` and `prefetch_factor`.
        prefetch_factor: batches in flight, in total. Default: six, more with many threads.
        timeout, worker_init_fn, multiprocessing_context, pin_memory_device: ignored with a warning.
        persistent_workers, in_order, snapshot_every_n_steps: no effect: threads persist, batches always come in order,
            and `state_dict` is exact after every batch.

        For caches only:

        transforms: `Transform`s, then optionally functions (image, target) -> (image, target). A function gets one
            unpadded image (3, H, W) and a dict as in torchvision, as tv_tensors if torchvision has been imported; the
            targets of a batch are then a list of dicts.
        group_by_aspect: make batches of images of similar shape, to save padding; every image still comes once. None:
            only if the loader itself shuffles (`shuffle=True`). True reads a sampler 32 batches ahead.
        on_error: "raise": an image that does not decode raises DecodeError; the next batch can be read after that.
            "skip": the image is filled with the fill color and has no boxes. `skipped` lists such images, and a warning
            at the end of the epoch counts them. The native engine does not read images that show no pixel.
        verify_checksums: check the bytes of an image "first" (when they are first read), "always" or "never". A
            mismatch is handled as `on_error` says.
        scaled_decoding: the native engine decodes images that shrink to a third or less at a smaller size, which is
            faster and changes pixels by about half a level (docs/loader.md has figures). False: always at their own.
        engine: "native"; "dali", NVIDIA DALI for caches with the encoding `original`, on the GPU if `device` is one;
            "reference", slow and simple, for comparison; or "auto", the fastest one here (see
            `fastload.engines.auto.choose_engine`). `engine_used` is the engine in use.
        function_workers: threads that run the functions of `transforms` and `collate_fn`, several batches at a time. 0
            runs them in the calling thread: what they draw from global random generators is then reproducible.
        skip_crowd: skip boxes that mark a crowd of objects. Together with `skip_empty`, images and boxes are those that
            torchvision's reference scripts train on.
        skip_empty: skip images without a box (crowd boxes count) wider and higher than one pixel. `loader.dataset` is
            then a `Subset`; samplers give positions in it.
        targets: what comes with the images. "objects": `Targets`. "class_ids": the class of each image (B) int64, as a
            position in `cache.categories`, and -100 for a skipped image. "soft_labels": shares of the classes (B, K)
            float32, for transforms that mix images. `collate_fn` is then `TopLeftAlign(1)` by default, images are not
            grouped by aspect ratio by default, and functions get the class as an int, or the soft label (K).
        masks: draw the masks of boxes: `Targets.masks`, and `masks` (n, H, W) uint8 in the dicts. Polygons have the
            pixels that pycocotools gives them; what later images of a canvas cover is cut away.
        mask_stride: draw masks with one pixel for `mask_stride` x `mask_stride` pixels of the canvas, rounded up.
        boxes_from_masks: boxes and areas are those of the masks, so boxes end where their masks are cut off. Boxes
            without a visible pixel are dropped.

        For any dataset (if it is not a cache: for batches that are a tuple or list starting with a uint8 tensor
        (B, 3, H, W)):

        device: where batches are: "cuda", "cpu", ..., or "auto", a CUDA device if there is one. On a CUDA device and
            with `num_workers`, the next two batches are copied and normalized on separate streams while one is in use.
            The stream that is current when a batch is returned waits for it; the host does not. `targets.image_id`
            stays on the host. If the dataset is not a cache, set `pin_memory` too.
        mean, std: of red, green and blue, in levels of 0 to 255. Default: 0 and 255, so `dtype=torch.float32` alone
            gives images in [0, 1].
        dtype: of the images: torch.uint8, float32, bfloat16 or float16; floating-point images are (image - mean) / std.
            Default: float32 if `mean` or `std` is given, else uint8.
        memory_format: torch.channels_last or torch.contiguous_format.

    Raises:
        ArgumentError: an argument has no such value, or needs a cache.
        CacheError: the cache cannot be opened.
        DeviceError: the device cannot be used here.
        EngineError: the engine cannot be used here; raised by `iter()`.
        StateError: `load_state_dict` got a state of another dataset or order.
    """

    _cache: Cache  # these two only if `_on_cache`
    _images: ImageIndex

    if TYPE_CHECKING or RESUMES_ANY_DATASET:  # else `_bind_state` adds them to the loaders of caches

        def state_dict(self) -> dict[str, Any]:
            return self._state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._load_state_dict(state_dict)

    def __init__(
        self,
        dataset: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Cache] | Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        transforms: Sequence[Transform | SampleFunction] = (),
        group_by_aspect: bool | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        verify_checksums: Literal["first", "always", "never"] = "first",
        scaled_decoding: bool = True,
        engine: Literal["native", "dali", "reference", "auto"] = "native",
        function_workers: int = 0,
        skip_crowd: bool = False,
        skip_empty: bool = False,
        masks: bool = False,
        targets: TargetKind = "objects",
        mask_stride: int = 1,
        boxes_from_masks: bool = False,
        device: torch.device | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.channels_last,
        snapshot_every_n_steps: int | None = 1,
        **newer: Any,  # arguments of newer versions of torch
    ) -> None:
        dataset = cast(Dataset[T_co], opened(dataset))
        cached = cache_and_images(dataset)
        if cached is not None and skip_empty:
            dataset = without_empty(dataset, *cached)
            cached = cache_and_images(dataset)
        self._on_cache = cached is not None
        if cached is not None:
            self._cache, self._images = cached
            if collate_fn is None and (batch_size is not None or batch_sampler is not None):
                collate_fn = TopLeftAlign(32 if targets == "objects" else 1)
        self.transforms, self.group_by_aspect, self.function_workers = transforms, group_by_aspect, function_workers
        self.on_error, self.verify_checksums, self.engine = on_error, verify_checksums, engine
        self.scaled_decoding = scaled_decoding
        self.skip_crowd, self.skip_empty, self.targets = skip_crowd, skip_empty, targets
        self.masks, self.mask_stride, self.boxes_from_masks = masks, mask_stride, boxes_from_masks
        self.device, self.mean, self.std, self.dtype, self.memory_format = device, mean, std, dtype, memory_format
        self._feeds: tuple[Any, Feed | None] | None = None  # the settings it was made for, and the feed
        self._format()  # raises for wrong arguments now rather than in the first epoch
        self._state_in_use: dict[str, Any] | None = None  # of torchdata's loader, at the batch last handed out
        self.snapshot_every_n_steps = snapshot_every_n_steps
        if not self._on_cache and RESUMES_ANY_DATASET:
            newer["snapshot_every_n_steps"] = snapshot_every_n_steps
        base = DataLoader if self._on_cache else _DataLoader
        base.__init__(
            self,
            cast(Dataset[T_co], dataset),
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            **newer,
        )
        self._bind_state()
        if not self._on_cache:
            refuse_what_needs_a_cache(self)
            return
        ranks = Ranks.of(sampler, len(self._images))
        own_order = batch_sampler is None and (sampler is None or ranks is not None)
        self.prefetch_factor = prefetch_factor  # DataLoader has replaced it by its own default
        check_arguments(self)
        self.engine_used = choose_engine(self._cache, self.num_workers, self._gpu) if engine == "auto" else engine
        self._make_planner()  # raises for wrong arguments now
        self._order = EpochOrder(
            self._images.aspect,
            self.batch_size,
            self.drop_last,
            shuffle=_is_random(self.sampler),
            grouped=self._groups(bool(shuffle) and sampler is None and targets == "objects", batch_sampler),
            sampler=None if own_order else sampler,
            batch_sampler=batch_sampler,
            ranks=ranks or Ranks(),
        )
        self._engine: tuple[Any, Engine] | None = None  # the settings it was opened for, and the engine
        self._lock = threading.Lock()
        self._seed: int | None = None
        self._meter: Meter | None = None
        self._warned: list[str] = []  # the warning of a bottleneck, given once
        self._preparation: Any = None  # Accelerate's, once it has prepared this loader
        self._next = EpochProgress(epoch=0, start=0)  # where the next iteration begins
        self._current = EpochProgress(epoch=0, start=0, done=True)  # of the latest iteration

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("group_by_aspect", "skip_empty") and "_order" in self.__dict__:
            raise ValueError(f"{name} decides the order, which is fixed: make another FastLoader")
        super().__setattr__(name, value)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own iterator class
        if not self._on_cache:
            batches, (_, feed) = super().__iter__(), self._format()
            return batches if feed is None else self._fed(feed, batches)
        with self._lock:  # several threads may begin iterations
            iterator = self._begin_epoch()
        return self._preparation.batches(iterator) if self._preparation else iterator

    def _begin_epoch(self) -> BatchIterator:
        progress = self._current = self._next
        self._next = EpochProgress(progress.epoch + 1, 0)
        planner, finisher = self._make_planner()
        engine = self._ready_engine(finisher)
        meter = self._meter = Meter(self.num_workers, getattr(engine, "times", None))
        if planner.masks and self.engine_used != "native":
            engine = MaskingEngine(engine)
        return BatchIterator(
            runs=self._runs(progress, planner),
            deliver=partial(finisher.deliver, progress.skipped),
            report=partial(report, self._cache, progress.skipped, meter, self._warned),
            engine=engine.share(),
            progress=progress,
            meter=meter,
            depth=self._depth,
            length=self.__len__,
            ahead=finisher.send_ahead if finisher.sends_ahead else None,
            workers=0 if finisher.is_fused else self.function_workers,
        )

    def _runs(self, progress: EpochProgress, planner: BatchPlanner) -> PlannedRuns:
        """Plans of the rest of an epoch."""
        seed, order, cut = self._base_seed(), self._order, progress.cut
        plan = partial(planner.plan, EpochRandom(seed, progress.epoch, order.ranks.rank))
        if order.is_own:
            return PlannedRuns(plan, order.batches(seed, progress.epoch, progress.past), progress.step - cut, cut)
        progress.sampled = SampledBatches(
            partial(order.batches, seed, progress.epoch), self._samplers(), progress.resumed, cut
        )
        return PlannedRuns(plan, progress.sampled, progress.step, length=1)

    def __len__(self) -> int:
        if self._on_cache and self._preparation and self._order.is_own:
            return self._order.steps()
        return super().__len__()

    @property
    def skipped(self) -> dict[int, str]:
        """{image id: reason} of the images that `on_error="skip"` skipped in the latest epoch."""
        return self._current.skipped if self._on_cache else {}

    def stats(self) -> Stats:
        """Where the time of the latest epoch was spent so far: `stats().advice()` names the bottleneck.

        A warning names it once, at the end of an epoch in which training waited for data a quarter of the time.

        Raises:
            StateError: no epoch has begun, or the dataset is not a cache.
        """
        if not self._on_cache or self._meter is None:
            raise StateError("there are no stats: they need a cache, and an epoch that has begun")
        return self._meter.stats()

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`, which decides its order and its random transforms.

        Also calls `set_epoch` of the samplers. After `load_state_dict`, setting the interrupted epoch keeps the
        position in it.
        """
        for sampler in self._samplers():
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        if self._on_cache:
            self._next = self._next if epoch == self._next.epoch else EpochProgress(epoch, 0)
            self._current = replace(self._current, done=True)

    def _bind_state(self) -> None:
        # On the object, not the class: `isinstance(loader, Stateful)` must be False for a loader without a state.
        # Weakly, since a loader in a reference cycle would keep its threads until the garbage collector runs.
        if self._on_cache and not RESUMES_ANY_DATASET:
            self.state_dict = _weakly_bound(FastLoader._state_dict, self)  # type: ignore[method-assign]
            self.load_state_dict = _weakly_bound(FastLoader._load_state_dict, self)  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        if name in ("state_dict", "load_state_dict"):
            raise AttributeError(
                f"a {type(self.dataset).__name__} is not a cache, and DataLoader has no {name}: to resume any dataset, "
                "`pip install 'fastload-vision[stateful]'`, or build a cache of it with `fastload build-cache`"
            )
        return object.__getattribute__(self, name)  # raises Python's own AttributeError

    def _state_dict(self) -> dict[str, Any]:
        if not self._on_cache:
            return self._state_in_use or _torchdata_state(self)
        with self._lock:
            seed = self._base_seed()  # first: it may advance the generator whose state is saved for the samplers
            progress = self._next if self._current.done else self._current
            return {"seed": seed, **state_of(self._order, self._cache, progress, self._samplers())}

    def _load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._on_cache:
            _DataLoader.load_state_dict(self, state_dict)  # type: ignore[attr-defined]  # torchdata's
            return
        self._next = restore(state_dict, self._order, self._cache, self._samplers())
        self._seed = state_dict["seed"]
        self._current = replace(self._current, done=True)

    @property
    def use_stateful_dataloader(self) -> bool:
        """Whether Accelerate saves `state_dict()` in its checkpoints."""
        return self._on_cache

    @property
    def _is_accelerate_prepared(self) -> bool:
        """Accelerate reads this in `prepare`, and leaves a loader unchanged if it is True. See `Preparation`."""
        if self._on_cache and self._preparation is None and "accelerate" in sys.modules:
            from fastload.loader.accelerate import Preparation, is_running

            if is_running():
                self._preparation = Preparation(self._order, self._base_seed())
                self._seed = self._preparation.seed
        return self._on_cache and self._preparation is not None

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, prepared: bool) -> None:
        """Accelerate sets it too, which changes nothing."""

    def check_worker_number_rationality(self) -> None:
        """Skips DataLoader's warning about too many processes: native threads are not processes."""
        if not self._on_cache:
            super().check_worker_number_rationality()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("state_dict", "load_state_dict", "_lock"):
            state.pop(name, None)
        if self._on_cache:
            state.update(_engine=None, _meter=None)  # threads stay in their process
            state.update({name: copy(state[name]) for name in ("_next", "_current")})  # a copy has its own position
        else:
            state.update({name: None for name in ("_iterator", "_initial_iter_for_state_dict") if name in state})
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind_state()
        if self._on_cache:
            self._lock = threading.Lock()

    def _make_planner(self) -> tuple[BatchPlanner, BatchFinisher]:
        """Reads the settings again, since users may assign to attributes between epochs."""
        edits, functions = split_transforms(self.transforms)
        refuse_class(self.collate_fn, "collate_fn")
        aligner = self.collate_fn if isinstance(self.collate_fn, Collator) else None
        batched = self.batch_sampler is not None
        if aligner and not batched:
            raise ArgumentError(
                "batch_size=None yields single images, so a collator as collate_fn has nothing to align"
            )
        if self.masks and self._cache.annotations.mask_shapes is None:
            raise ArgumentError(
                f"masks=True needs masks, and {self._cache.where} has none: build it from a dataset with polygons or "
                "run lengths, or remove the argument"
            )
        if self.targets != "objects":
            if self.masks:
                raise ArgumentError(f'masks=True needs targets="objects", not "{self.targets}"')
            _ = self._cache.class_ids  # raises if there are none
        fused = is_fused(self.collate_fn, functions)
        if self.mask_stride != 1 and not fused:
            raise ArgumentError("mask_stride needs whole batches: remove the functions in transforms and collate_fn")
        planner = BatchPlanner(
            self._cache,
            self._images,
            edits,
            aligner if aligner and fused else TopLeftAlign(1),
            draws_seeds=not fused,
            skip_crowd=self.skip_crowd,
            masks=MaskSettings(self.mask_stride, self.boxes_from_masks) if self.masks else None,
            kind=self.targets,
            supported=check_simple if self.engine_used == "dali" else None,
        )
        pixels, feed = self._format()
        finisher = BatchFinisher(
            planner,
            functions,
            self.collate_fn,
            batched,
            skip_errors=self.on_error == "skip",
            pin=self.pin_memory and torch.cuda.is_available(),
            feed=feed,
            pixels=pixels,
        )
        return planner, finisher

    def _format(self) -> tuple[PixelFormat, Feed | None]:
        """The format of images, and the feed that converts batches and moves them to the device.

        None if there is nothing to do: on a cache, engines make the images of the CPU in their format.
        """
        pixels = PixelFormat(self.dtype, self.mean, self.std, self.memory_format)
        settings = self.device, pixels
        if self._feeds is None or self._feeds[0] != settings:
            self._feeds = settings, self._make_feed(pixels)
        return pixels, self._feeds[1]

    def _make_feed(self, pixels: PixelFormat) -> Feed | None:
        feed = Feed("cpu" if self.device is None else self.device, pixels)
        needed = feed.device.type != "cpu" if self._on_cache else self.device is not None or not pixels.is_plain
        return feed if needed else None

    def _fed(self, feed: Feed, batches: Iterator[Any]) -> Iterator[Any]:
        """Batches of torch's loader on the device.

        The feed reads one batch ahead, so the loader's state is saved with each batch: `state_dict` returns that of
        the batch in use.
        """
        states: deque[Any] = deque()

        def with_states() -> Iterator[Any]:
            for batch in batches:
                states.append(_torchdata_state(self) if RESUMES_ANY_DATASET else None)
                yield batch

        try:
            for batch in feed.over(with_states()):
                self._state_in_use = states.popleft()
                yield batch
        finally:
            self._state_in_use = None

    def _ready_engine(self, finisher: BatchFinisher) -> Engine:
        """The engine for the present process and settings, opened again if they have changed."""
        checks = self.verify_checksums, self.scaled_decoding
        settings = os.getpid(), finisher.engine_pixels, self._gpu, self.num_workers, checks, self._depth
        if self._engine is None or self._engine[0] != settings:
            self._engine = settings, self._open_engine(finisher)
        return self._engine[1]

    def _open_engine(self, finisher: BatchFinisher) -> Engine:
        module, kind = ENGINES[self.engine_used]
        options: dict[str, Any] = {"pixels": finisher.engine_pixels}
        if self.engine_used == "dali":
            options["device_id"] = self._gpu
        elif self.engine_used != "reference":
            options |= {"in_flight": self._depth, "allocate": finisher.feed and finisher.feed.allocator}
            options["scaled_decoding"] = self.scaled_decoding
        engine: Engine = getattr(import_module(module), kind)(
            self._cache, self.num_workers, self.verify_checksums, **options
        )
        return engine

    @property
    def _gpu(self) -> int | None:
        """The index of the CUDA device of the batches."""
        _, feed = self._format()
        return feed.device.index if feed is not None and feed.device.type == "cuda" else None

    def _base_seed(self) -> int:
        if self._seed is None:
            self._seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator).item())
        return self._seed

    def _samplers(self) -> list[Any]:
        """The sampler, the batch sampler and the sampler within it, each once."""
        inner = getattr(self.batch_sampler, "sampler", None)
        samplers = {id(sampler): sampler for sampler in (self.sampler, self.batch_sampler, inner)}
        return [sampler for sampler in samplers.values() if sampler is not None]

    @property
    def _depth(self) -> int:
        """Batches in flight. A sampler is read no further ahead than by DataLoader."""
        if self.num_workers == 0:
            return 1
        if self.prefetch_factor is not None:
            return max(self.prefetch_factor, 1)
        depth = max(6, 2 + ceil(2 * self.num_workers / (self.batch_size or 1)))
        return depth if self._order.is_own else min(depth, 2 * self.num_workers)

    def _groups(self, shuffled: bool, batch_sampler: Any) -> bool:
        """Whether batches are grouped by aspect ratio."""
        possible = batch_sampler is None and self.batch_size is not None
        if self.group_by_aspect and not possible:
            raise ArgumentError("group_by_aspect makes the batches, so it excludes batch_sampler and batch_size=None")
        return (possible and shuffled) if self.group_by_aspect is None else self.group_by_aspect


def _weakly_bound(method: Callable[..., Any], loader: FastLoader[Any]) -> Callable[..., Any]:
    """A method bound to the loader without keeping it alive."""
    reference = weakref.ref(loader)

    @wraps(method)
    def call(*args: Any, **named: Any) -> Any:
        if (alive := reference()) is None:
            raise ReferenceError("the loader has been deleted: keep it in a variable")
        return method(alive, *args, **named)

    return call


def _torchdata_state(loader: FastLoader[Any]) -> dict[str, Any]:
    state: dict[str, Any] = _DataLoader.state_dict(loader)  # type: ignore[attr-defined]
    return state


def _is_random(sampler: Any) -> bool:
    return isinstance(sampler, RANDOM_SAMPLERS) or bool(getattr(sampler, "shuffle", False))
