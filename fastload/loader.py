"""FastLoader: torch's DataLoader, with caches planned a batch at a time and decoded by native threads."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torch.utils.data.sampler import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from fastload import loader_state
from fastload.cache.reader import Cache
from fastload.device import IMAGENET_MEAN, IMAGENET_STD, feed_to
from fastload.engines.choose import choose_engine
from fastload.engines.engine import Engine
from fastload.errors import PlanError
from fastload.pipeline import BatchIterator, Progress, Runs
from fastload.plan.collate import TopLeftAlign
from fastload.plan.ranks import Ranks
from fastload.plan.records import Records
from fastload.plan.sampled import SampledBatches
from fastload.plan.sampling import EpochOrder, EpochRandom
from fastload.plan.transforms import Transform
from fastload.recipe import Recipe, SampleFunction
from fastload.stats import Meter, Stats

ENGINES = {
    "native": ("fastload.engines.native", "NativeEngine"),
    "dali": ("fastload.engines.dali", "DaliEngine"),
    "reference": ("fastload.engines.reference", "ReferenceEngine"),
}
RANDOM_SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class FastLoader(DataLoader[Any]):
    """A `torch.utils.data.DataLoader` that reads caches several times faster.

    `dataset` is the path of a cache, a `Cache`, or a `Subset` of one; batches are then `Batch(images, targets)`.
    Any other dataset is loaded by DataLoader itself, unchanged. All of DataLoader's arguments are taken.
    On a cache they mean:

    - `batch_size`, `shuffle`, `sampler`, `batch_sampler`, `drop_last`: as ever. `batch_size=None` hands out single
      (image, target) pairs, unpadded. A `DistributedSampler` shares each epoch among processes, and a run may go on
      with another number of them: see `state_dict`.
    - `num_workers`: native threads; 0 decodes in the calling thread. They live as long as the loader, so
      `persistent_workers` changes nothing. Nor does `in_order`: batches always come in order.
    - `prefetch_factor`: batches in the making at a time, in all. Default: six, more if there are many threads.
    - `collate_fn`: a `Collator` (default `TopLeftAlign()`), or any function of a list of (image, target) pairs:
      images (3, H, W) uint8, unpadded; targets as the dicts of `Targets`.
    - `generator`: draws the seed, once; without it torch's default generator does. Batches depend on the seed, the
      epoch, the cache and the settings only: `num_workers` and `prefetch_factor` do not change a bit.
    - `pin_memory`: images and targets are copied to page-locked memory, where there is an accelerator.
    - `worker_init_fn`, `multiprocessing_context`, `timeout`: meaningless without processes; a warning says so.

    And, for caches only:

    - `transforms`: `Transform`s, then possibly functions (image, target) -> (image, target) for the unusual. These
      get unpadded images (3, H, W) and torchvision-style dicts and run in the calling thread, one image at a time;
      the batch's targets are then a list of dicts instead of `Targets`.
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

    - `device`: batches are handed out there, as (image - mean) / std of `dtype` in channels_last; "cuda", "cpu", ...,
      or "auto": a CUDA device if there is one. There, with `num_workers`, copying and normalising the next two batches
      overlaps with the use of the present one, on streams of their own; the stream that is current when a batch is
      handed out waits for it, the host does not. `targets.image_id` stays on the host. On a dataset that is not a
      cache, give `pin_memory` too. None: uint8 on the CPU.
    - `mean`, `std`: of red, green and blue in levels of 0 to 255. Default: ImageNet's.
    - `dtype`: torch.float32, torch.bfloat16 or torch.float16; torch.uint8 leaves images as they are.
    """

    def __init__(
        self,
        dataset: str | os.PathLike[str] | Cache | Dataset[Any],
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
        device: torch.device | str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        dtype: torch.dtype = torch.float32,
        **further: Any,  # what newer versions of torch add
    ) -> None:
        if isinstance(dataset, (str, os.PathLike)):
            dataset = Cache(dataset)
        found = _cache_and_records(dataset)
        if found is not None and collate_fn is None and (batch_size is not None or batch_sampler is not None):
            collate_fn = TopLeftAlign()
        self._found = found
        self.transforms, self.group_by_aspect = transforms, group_by_aspect
        self.on_error, self.verify_checksums, self.engine = on_error, verify_checksums, engine
        self._feed = feed_to(device, mean, std, dtype)
        super().__init__(
            dataset,  # type: ignore[arg-type]  # a Cache has all that a map-style dataset needs
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
        if found is None:
            self._refuse_what_needs_a_cache()
            return
        ranks = Ranks.of(sampler, len(found[1]))
        own_order = batch_sampler is None and (sampler is None or ranks is not None)
        self.prefetch_factor = prefetch_factor  # which DataLoader has replaced by its own default
        self._check_arguments()
        self._make_recipe()  # finds what is wrong
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
        self._engine: tuple[int, Engine] | None = None  # with the process it belongs to
        self._lock = threading.Lock()
        self._seed: int | None = None
        self._meter: Meter | None = None
        self._warned: list[str] = []  # of the bottleneck
        self._preparation: Any = None  # Accelerate's, once it has prepared this loader
        self._next = Progress(epoch=0, start=0)  # where the next iteration begins
        self._current = Progress(epoch=0, start=0, done=True)  # how far the latest iteration is

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own iterator class
        if not self._on_cache:
            batches = super().__iter__()
            return batches if self._feed is None else self._feed.over(batches)
        with self._lock:  # several threads may begin iterations
            iterator = self._begin_epoch()
        return self._preparation.batches(iterator) if self._preparation else iterator

    def _begin_epoch(self) -> BatchIterator:
        progress = self._current = self._next
        self._next = Progress(progress.epoch + 1, 0)
        recipe, engine = self._make_recipe(), self._ready_engine().share()
        meter = self._meter = Meter(self.num_workers, getattr(engine, "times", None))
        return BatchIterator(
            runs=self._runs(progress, recipe),
            deliver=partial(recipe.deliver, progress.skipped),
            report=partial(_report, self._cache.path, progress.skipped, meter, self._warned),
            engine=engine,
            progress=progress,
            meter=meter,
            depth=self._depth,
            length=self.__len__,
            ahead=recipe.send_ahead if recipe.sends_ahead else None,
        )

    def _runs(self, progress: Progress, recipe: Recipe) -> Runs:
        """What is left of an epoch, planned."""
        seed, order, cut = self._base_seed(), self._order, progress.cut
        plan = partial(recipe.plan, EpochRandom(seed, progress.epoch, order.ranks.rank))
        if order.is_own:
            return Runs(plan, order.batches(seed, progress.epoch, progress.past), progress.step - cut, cut)
        progress.sampled = SampledBatches(
            partial(order.batches, seed, progress.epoch), self._samplers(), progress.resumed, cut
        )
        return Runs(plan, progress.sampled, progress.step, length=1)

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
        for data a quarter of the time. PlanError on datasets that are not caches, and before the first epoch.
        """
        if not self._on_cache or self._meter is None:
            raise PlanError("there are no stats: they are of an epoch that has begun, on a cache")
        return self._meter.stats()

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`: its order and its random transforms. The samplers are told too.

        After `load_state_dict`, setting the epoch that was interrupted keeps the place in it.
        """
        for sampler in self._samplers():
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        if self._on_cache:
            self._next = self._next if epoch == self._next.epoch else Progress(epoch, 0)
            self._current = replace(self._current, done=True)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: an equal loader that loads this goes on with the batch that would have come here.

        torchdata's StatefulDataLoader protocol. `num_workers` and `prefetch_factor` may differ. So may `batch_size` and
        the number of ranks of a DistributedSampler: what is left of the epoch is then shared anew. Any rank's state
        serves all of them, when they have come equally far. A `sampler` or `batch_sampler` of another kind must give
        the same order again: the batches already seen are passed over.
        Empty on datasets that are not caches, since DataLoader has no such state.
        """
        if not self._on_cache:
            return {}
        here = self._next if self._current.done else self._current
        state = loader_state.state_of(self._order, self._cache, here, self._samplers())
        return {"seed": self._base_seed(), **state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iteration go on from `state_dict()`. PlanError if it is of another dataset or order."""
        if not self._on_cache:
            loader_state.check(state_dict, {"fingerprint": None})
            return
        self._next = loader_state.restore(state_dict, self._order, self._cache, self._samplers())
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
            from fastload.accelerated import Preparation, is_running

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
        if self._on_cache:
            state.update(_engine=None, _meter=None, _lock=None)  # threads stay in their process
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._on_cache:
            self._lock = threading.Lock()

    @property
    def _on_cache(self) -> bool:
        return self._found is not None

    @property
    def _cache(self) -> Cache:
        assert self._found is not None
        return self._found[0]

    def _make_recipe(self) -> Recipe:
        """Of the settings as they are now: some may have been changed since the loader was made."""
        assert self._found is not None
        cache, records = self._found
        return Recipe(
            cache,
            records,
            self.transforms,
            self.collate_fn,
            batched=self.batch_sampler is not None,
            skip_errors=self.on_error == "skip",
            pin=self.pin_memory and torch.cuda.is_available(),
            feed=self._feed,
        )

    def _ready_engine(self) -> Engine:
        if self._engine is None or self._engine[0] != os.getpid():
            self._engine = os.getpid(), self._open_engine()
        return self._engine[1]

    def _open_engine(self) -> Engine:
        module, kind = ENGINES[self.engine_used]
        further: dict[str, Any] = {}
        if self.engine_used == "dali":
            further = {"device_id": self._gpu}
        elif self.engine_used != "reference":
            further = {"in_flight": self._depth, "allocate": self._feed and self._feed.allocator}
        engine: Engine = getattr(import_module(module), kind)(
            self._cache, self.num_workers, self.verify_checksums, **further
        )
        return engine

    @property
    def _gpu(self) -> int | None:
        """The number of the GPU that batches are wanted on."""
        return self._feed.device.index if self._feed is not None and self._feed.device.type == "cuda" else None

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
            raise PlanError("group_by_aspect makes the batches, so it excludes batch_sampler and batch_size=None")
        return (possible and shuffled) if self.group_by_aspect is None else self.group_by_aspect

    def _check_arguments(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise PlanError(f'on_error is "raise" or "skip", not {self.on_error!r}')
        if self.verify_checksums not in ("first", "always", "never"):
            raise PlanError(f'verify_checksums is "first", "always" or "never", not {self.verify_checksums!r}')
        if self.engine not in (*ENGINES, "auto"):
            raise PlanError(f"engine is one of {', '.join(ENGINES)} and auto, not {self.engine!r}")
        given = {
            "worker_init_fn": self.worker_init_fn,
            "multiprocessing_context": self.multiprocessing_context,
            "timeout": self.timeout,
        }
        if ignored := [name for name, value in given.items() if value]:
            warnings.warn(
                f"{', '.join(ignored)}: ignored, since FastLoader reads a cache without worker processes", stacklevel=3
            )
        if self.pin_memory and not torch.cuda.is_available():
            warnings.warn("pin_memory: ignored, since no accelerator is found", stacklevel=3)

    def _refuse_what_needs_a_cache(self) -> None:
        given = {
            "transforms": self.transforms,
            "group_by_aspect": self.group_by_aspect,
            "on_error": self.on_error != "raise",
            "verify_checksums": self.verify_checksums != "first",
            "engine": self.engine != "native",
        }
        if refused := [name for name, value in given.items() if value]:
            raise PlanError(
                f"{', '.join(refused)}: only for caches, and the dataset is a {type(self.dataset).__name__}. "
                "Build a cache of it with `fastload build-cache`, or leave these arguments out."
            )


def _cache_and_records(dataset: Any) -> tuple[Cache, Records] | None:
    """The cache under `dataset`, a Cache or (nested) Subsets of one, and the images of it; None for anything else."""
    chain = []
    while isinstance(dataset, Subset):
        chain.append(np.array(dataset.indices, np.int64))
        dataset = dataset.dataset
    if not isinstance(dataset, Cache):
        return None
    index = np.arange(len(dataset))
    for indices in reversed(chain):
        index = index[indices]
    return dataset, Records(index, dataset.sizes[index])


def _is_random(sampler: Any) -> bool:
    return isinstance(sampler, RANDOM_SAMPLERS) or bool(getattr(sampler, "shuffle", False))


def _report(path: Path, skipped: dict[int, str], meter: Meter, warned: list[str]) -> None:
    if skipped:
        some = ", ".join(f"{image_id} ({reason})" for image_id, reason in islice(skipped.items(), 3))
        warnings.warn(
            f"{len(skipped)} images of {path} did not decode in this epoch and were left blank, among them image "
            f"{some}. Run `fastload verify {path}`.",
            stacklevel=3,
        )
    if not warned and (advice := meter.stats().warning()):
        warned.append(advice)
        warnings.warn(f"{path}: {advice} `loader.stats()` has the figures.", stacklevel=3)
