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
from fastload.device.normalize import PixelFormat
from fastload.device.transfer import Feed
from fastload.engines.auto import ENGINES, choose_engine
from fastload.engines.base import Engine
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
from fastload.plan.align import Collator, TopLeftAlign
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

    `dataset` is the path of a cache, a `Cache`, a list of such, or `Subset`s and `ConcatDataset`s of Caches in any
    nesting; batches are then `Batch(images, targets)`. Any other dataset is loaded by DataLoader itself, unchanged; if
    torchdata is installed, by its StatefulDataLoader. All of DataLoader's arguments are taken. On a cache they mean:

    - `batch_size`, `shuffle`, `sampler`, `batch_sampler`, `drop_last`: as ever. `batch_size=None` hands out single
      (image, target) pairs, unpadded. A `DistributedSampler` shares each epoch among processes, and a run may go on
      with another number of them: see `state_dict`.
    - `num_workers`: native threads; 0 decodes in the calling thread. They live as long as the loader, so
      `persistent_workers` changes nothing. Nor does `in_order`: batches always come in order.
    - `prefetch_factor`: batches in the making at a time, in all. Default: six, more if there are many threads.
    - `collate_fn`: a `Collator` (default `TopLeftAlign()`), or any function of a list of (image, target) pairs:
      images (3, H, W), unpadded; targets as the dicts of `Targets`.
    - `generator`: draws the seed, once; without it torch's default generator does. Batches depend on the seed, the
      epoch, the cache and the settings only: `num_workers` and `prefetch_factor` do not change a bit.
    - `pin_memory`: images and targets are copied to page-locked memory, where there is an accelerator.
    - `worker_init_fn`, `multiprocessing_context`, `timeout`: meaningless without processes; a warning says so.
    - `snapshot_every_n_steps`: changes nothing, since `state_dict` is exact at every batch.

    And, for caches only:

    - `transforms`: `Transform`s, then possibly functions (image, target) -> (image, target) for the unusual. These
      get unpadded images (3, H, W) and torchvision-style dicts, as tv_tensors if torchvision has been imported, one
      image at a time; the batch's targets are then a list of dicts instead of `Targets`.
    - `function_workers`: threads in which such functions and a `collate_fn` run, several batches at a time. 0: the
      calling thread, where what they draw from global random generators is the same from run to run.
    - `skip_crowd`: leave out boxes that surround a crowd of objects. `skip_empty`: leave out images without a box that
      is wider and higher than a pixel, be it a crowd's. Together they are what torchvision's scripts train on.
      `loader.dataset` is then a `Subset`, whose positions a sampler gives.
    - `group_by_aspect`: batches of images of similar shape, so that less is padding; every image still comes once.
      None: with the loader's own `shuffle=True`; a sampler's order is kept. True reads a sampler 32 batches ahead.
    - `on_error`: what happens to an image that does not decode. "raise": `DecodeError`, after which one may go on with
      the next batch. "skip": it is left in the fill colour, without boxes; a warning at the epoch's end counts such
      images, and `skipped` names them.
    - `verify_checksums`: of an image's bytes, "first" (the first time they are read), "always" or "never". A mismatch
      is treated as `on_error` says.
    - `engine`: "native"; "dali", NVIDIA DALI on a cache of the encoding `original`, on the GPU if `device` is one;
      "reference", slow and simple, to compare with; or "auto", the fastest there is (see `engines.choose`).
      `engine_used` says which it is.

    And for any dataset:

    - `dtype`: of the images: torch.uint8, float32, bfloat16 or float16. Default: float32 if `mean` or `std` is given,
      else uint8. Floating-point images are (image - mean) / std.
    - `mean`, `std`: of red, green and blue in levels of 0 to 255. Default: 0 and 255, so that `dtype=torch.float32`
      alone gives images in [0, 1].
    - `memory_format`: torch.channels_last, or torch.contiguous_format.
    - `device`: batches are handed out there; "cuda", "cpu", ..., or "auto": a CUDA device if there is one. There, with
      `num_workers`, copying and normalizing the next two batches overlaps with the use of the present one, on streams
      of their own; the stream that is current when a batch is handed out waits for it, the host does not.
      `targets.image_id` stays on the host. On a dataset that is not a cache, give `pin_memory` too.

    Of a dataset that is not a cache, images are converted if a batch is a tuple or list that begins with a uint8 tensor
    (B, 3, H, W).

    `state_dict()` is where the loader is, and an equal loader that is given it by `load_state_dict()` goes on with the
    batch that would have come here: torchdata's StatefulDataLoader protocol. On a cache, `num_workers` and
    `prefetch_factor` may differ. So may `batch_size` and the number of ranks of a DistributedSampler: what is left of
    the epoch is then shared anew. Any rank's state serves all of them, when they have come equally far. A `sampler` or
    `batch_sampler` of another kind must give the same order again, for which the states of torch's generators are part
    of the state: StateError if it does not. Other datasets have a state if torchdata is installed.
    """

    if TYPE_CHECKING or RESUMES_ANY_DATASET:  # else bound where there is a state, which `_bind_state` knows

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
        engine: Literal["native", "dali", "reference", "auto"] = "native",
        function_workers: int = 0,
        skip_crowd: bool = False,
        skip_empty: bool = False,
        device: torch.device | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.channels_last,
        snapshot_every_n_steps: int | None = 1,
        **further: Any,  # what newer versions of torch add
    ) -> None:
        dataset = cast(Dataset[T_co], opened(dataset))
        found = cache_and_images(dataset)
        if found is not None and skip_empty:
            dataset = without_empty(dataset, *found)
            found = cache_and_images(dataset)
        if found is not None and collate_fn is None and (batch_size is not None or batch_sampler is not None):
            collate_fn = TopLeftAlign()
        self._found = found
        self.transforms, self.group_by_aspect, self.function_workers = transforms, group_by_aspect, function_workers
        self.on_error, self.verify_checksums, self.engine = on_error, verify_checksums, engine
        self.skip_crowd, self.skip_empty = skip_crowd, skip_empty
        self.device, self.mean, self.std, self.dtype, self.memory_format = device, mean, std, dtype, memory_format
        self._feeds: tuple[Any, Feed | None] | None = None  # with what it was made for
        self._format()  # finds what is wrong
        self._state_in_use: dict[str, Any] | None = None  # of another dataset, whose next batch is on its way
        self.snapshot_every_n_steps = snapshot_every_n_steps
        if found is None and RESUMES_ANY_DATASET:
            further["snapshot_every_n_steps"] = snapshot_every_n_steps
        base = _DataLoader if found is None else DataLoader
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
            **further,
        )
        self._bind_state()
        if found is None:
            refuse_what_needs_a_cache(self)
            return
        ranks = Ranks.of(sampler, len(found[1]))
        own_order = batch_sampler is None and (sampler is None or ranks is not None)
        self.prefetch_factor = prefetch_factor  # which DataLoader has replaced by its own default
        check_arguments(self)
        self._make_planner()  # finds what is wrong
        self._order = EpochOrder(
            found[1].aspect,
            self.batch_size,
            self.drop_last,
            shuffle=_is_random(self.sampler),
            grouped=self._groups(bool(shuffle) and sampler is None, batch_sampler),
            sampler=None if own_order else sampler,
            batch_sampler=batch_sampler,
            ranks=ranks or Ranks(),
        )
        self.engine_used = choose_engine(found[0], self.num_workers, self._gpu) if engine == "auto" else engine
        self._engine: tuple[Any, Engine] | None = None  # with what it was opened for
        self._lock = threading.Lock()
        self._seed: int | None = None
        self._meter: Meter | None = None
        self._warned: list[str] = []  # of the bottleneck
        self._preparation: Any = None  # Accelerate's, once it has prepared this loader
        self._next = EpochProgress(epoch=0, start=0)  # where the next iteration begins
        self._current = EpochProgress(epoch=0, start=0, done=True)  # how far the latest iteration is

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
        """What is left of an epoch, planned."""
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
        """{image id: reason} of the images that `on_error="skip"` left out in the latest epoch."""
        return self._current.skipped if self._on_cache else {}

    def stats(self) -> Stats:
        """Where the time of the latest epoch went, so far: images/s, and who waited for whom.

        `stats().advice()` names the bottleneck. A warning does so once, at the end of an epoch in which training waited
        for data a quarter of the time. StateError on datasets that are not caches, and before the first epoch.
        """
        if not self._on_cache or self._meter is None:
            raise StateError("there are no stats: they are of an epoch that has begun, on a cache")
        return self._meter.stats()

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`: its order and its random transforms. The samplers are told too.

        After `load_state_dict`, setting the epoch that was interrupted keeps the place in it.
        """
        for sampler in self._samplers():
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        if self._on_cache:
            self._next = self._next if epoch == self._next.epoch else EpochProgress(epoch, 0)
            self._current = replace(self._current, done=True)

    def _bind_state(self) -> None:
        """Methods of this object only, if the class has none: `isinstance(loader, Stateful)` asks for them. They do not
        hold it: engines are to end with their loader."""
        if self._on_cache and not RESUMES_ANY_DATASET:
            self.state_dict = _unbound(FastLoader._state_dict, self)  # type: ignore[method-assign]
            self.load_state_dict = _unbound(FastLoader._load_state_dict, self)  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        if name in ("state_dict", "load_state_dict") and not RESUMES_ANY_DATASET:
            raise AttributeError(
                f"a {type(self.dataset).__name__} is no cache, and DataLoader has no {name}: to resume any dataset, "
                "`pip install 'fastload-vision[stateful]'`, or build a cache of it with `fastload build-cache`"
            )
        return object.__getattribute__(self, name)  # raises what is raised elsewhere

    def _state_dict(self) -> dict[str, Any]:
        if not self._on_cache:
            state: dict[str, Any] = self._state_in_use or _state_of(self)
            return state
        with self._lock:
            seed = self._base_seed()  # may draw from the generator that samplers draw from, so before its state is kept
            here = self._next if self._current.done else self._current
            return {"seed": seed, **state_of(self._order, self._cache, here, self._samplers())}

    def _load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._on_cache:
            _DataLoader.load_state_dict(self, state_dict)  # type: ignore[attr-defined]  # torchdata's
            return
        self._next = restore(state_dict, self._order, self._cache, self._samplers())
        self._seed = state_dict["seed"]
        self._current = replace(self._current, done=True)

    @property
    def use_stateful_dataloader(self) -> bool:
        """True: Accelerate keeps `state_dict()` in its checkpoints."""
        return self._on_cache

    @property
    def _is_accelerate_prepared(self) -> bool:
        """Accelerate asks this when it is to prepare a loader, and leaves alone what says True. See `Preparation`."""
        if self._on_cache and self._preparation is None and "accelerate" in sys.modules:
            from fastload.loader.accelerate import Preparation, is_running

            if is_running():
                self._preparation = Preparation(self._order, self._base_seed())
                self._seed = self._preparation.seed
        return self._on_cache and self._preparation is not None

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, prepared: bool) -> None:
        """Accelerate also notes here that it was answered."""

    def check_worker_number_rationality(self) -> None:
        """DataLoader's warning about too many processes, which native threads are not."""
        if not self._on_cache:
            super().check_worker_number_rationality()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("state_dict", "load_state_dict", "_lock"):
            state.pop(name, None)
        if self._on_cache:
            state.update(_engine=None, _meter=None)  # threads stay in their process
            state.update({name: copy(state[name]) for name in ("_next", "_current")})  # a copy has a place of its own
        else:
            state.update({name: None for name in ("_iterator", "_initial_iter_for_state_dict") if name in state})
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind_state()
        if self._on_cache:
            self._lock = threading.Lock()

    @property
    def _on_cache(self) -> bool:
        return self._found is not None

    @property
    def _cache(self) -> Cache:
        assert self._found is not None
        return self._found[0]

    def _make_planner(self) -> tuple[BatchPlanner, BatchFinisher]:
        """Of the settings as they are now: some may have been changed since the loader was made."""
        assert self._found is not None
        cache, images = self._found
        edits, functions = split_transforms(self.transforms)
        refuse_class(self.collate_fn, "collate_fn")
        aligner = self.collate_fn if isinstance(self.collate_fn, Collator) else None
        batched = self.batch_sampler is not None
        if aligner and not batched:
            raise ArgumentError(
                "batch_size=None hands out single images, so a collator as collate_fn has nothing to align"
            )
        fused = is_fused(self.collate_fn, functions)
        planner = BatchPlanner(
            cache,
            images,
            edits,
            aligner if aligner and fused else TopLeftAlign(1),
            draws_seeds=not fused,
            skip_crowd=self.skip_crowd,
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
        """What images are to be, and what takes batches to the device. On a cache, engines make images that stay on the
        CPU as they are to be."""
        pixels = PixelFormat(self.dtype, self.mean, self.std, self.memory_format)
        wanted = self.device, pixels
        if self._feeds is None or self._feeds[0] != wanted:
            self._feeds = wanted, self._make_feed(pixels)
        return pixels, self._feeds[1]

    def _make_feed(self, pixels: PixelFormat) -> Feed | None:
        feed = Feed("cpu" if self.device is None else self.device, pixels)
        needed = feed.device.type != "cpu" if self._on_cache else self.device is not None or not pixels.is_plain
        return feed if needed else None

    def _fed(self, feed: Feed, batches: Iterator[Any]) -> Iterator[Any]:
        """Batches of another dataset on the device. The loader's state is that of the batch in use, not of one that is
        on its way."""
        states: deque[Any] = deque()

        def noted() -> Iterator[Any]:
            for batch in batches:
                states.append(_state_of(self) if RESUMES_ANY_DATASET else None)
                yield batch

        try:
            for batch in feed.over(noted()):
                self._state_in_use = states.popleft()
                yield batch
        finally:
            self._state_in_use = None

    def _ready_engine(self, finisher: BatchFinisher) -> Engine:
        """The engine, in this process and for such batches."""
        wanted = os.getpid(), finisher.engine_pixels, self._gpu, self.num_workers, self.verify_checksums, self._depth
        if self._engine is None or self._engine[0] != wanted:
            self._engine = wanted, self._open_engine(finisher)
        return self._engine[1]

    def _open_engine(self, finisher: BatchFinisher) -> Engine:
        module, kind = ENGINES[self.engine_used]
        further: dict[str, Any] = {"pixels": finisher.engine_pixels}
        if self.engine_used == "dali":
            further["device_id"] = self._gpu
        elif self.engine_used != "reference":
            further |= {"in_flight": self._depth, "allocate": finisher.feed and finisher.feed.allocator}
        engine: Engine = getattr(import_module(module), kind)(
            self._cache, self.num_workers, self.verify_checksums, **further
        )
        return engine

    @property
    def _gpu(self) -> int | None:
        """The number of the GPU that batches are wanted on."""
        _, feed = self._format()
        return feed.device.index if feed is not None and feed.device.type == "cuda" else None

    def _base_seed(self) -> int:
        if self._seed is None:
            self._seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator).item())
        return self._seed

    def _samplers(self) -> list[Any]:
        """All samplers that may want to know the epoch."""
        inner = getattr(self.batch_sampler, "sampler", None)
        given = [self.sampler, self.batch_sampler, inner]
        return [s for i, s in enumerate(given) if s is not None and all(s is not other for other in given[:i])]

    @property
    def _depth(self) -> int:
        """Batches in the making at a time. A sampler is read no further ahead than DataLoader would."""
        if self.num_workers == 0:
            return 1
        if self.prefetch_factor is not None:
            return max(self.prefetch_factor, 1)
        depth = max(6, 2 + ceil(2 * self.num_workers / (self.batch_size or 1)))
        return depth if self._order.is_own else min(depth, 2 * self.num_workers)

    def _groups(self, shuffled: bool, batch_sampler: Any) -> bool:
        possible = batch_sampler is None and self.batch_size is not None
        if self.group_by_aspect and not possible:
            raise ArgumentError("group_by_aspect makes the batches, so it excludes batch_sampler and batch_size=None")
        return (possible and shuffled) if self.group_by_aspect is None else self.group_by_aspect


def _unbound(method: Callable[..., Any], loader: FastLoader[Any]) -> Callable[..., Any]:
    """A method of the loader that does not keep it alive."""
    here = weakref.ref(loader)

    @wraps(method)
    def call(*args: Any, **named: Any) -> Any:
        if (alive := here()) is None:
            raise ReferenceError("the loader is gone: keep it in a variable")
        return method(alive, *args, **named)

    return call


def _state_of(loader: FastLoader[Any]) -> dict[str, Any]:
    """torchdata's."""
    state: dict[str, Any] = _DataLoader.state_dict(loader)  # type: ignore[attr-defined]
    return state


def _is_random(sampler: Any) -> bool:
    return isinstance(sampler, RANDOM_SAMPLERS) or bool(getattr(sampler, "shuffle", False))
