"""FastLoader: torch's DataLoader, with caches planned a batch at a time and decoded by native threads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import count, islice
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torch.utils.data.sampler import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from fastload.cache.reader import Cache
from fastload.canvas_ring import CanvasRing
from fastload.engines.engine import Engine
from fastload.errors import PlanError
from fastload.pipeline import BatchIterator, Progress
from fastload.plan.collate import TopLeftAlign
from fastload.plan.records import Records
from fastload.plan.sampling import EpochOrder, EpochRandom
from fastload.plan.transforms import Transform
from fastload.recipe import Recipe, SampleFunction

ENGINES = {
    "native": ("fastload.engines.native", "NativeEngine"),
    "reference": ("fastload.engines.reference", "ReferenceEngine"),
}
RANDOM_SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class FastLoader(DataLoader[Any]):
    """A `torch.utils.data.DataLoader` that reads caches several times faster.

    `dataset` is the path of a cache, a `Cache`, or a `Subset` of one; batches are then `Batch(images, targets)`.
    Any other dataset is loaded by DataLoader itself, unchanged. All of DataLoader's arguments are taken.
    On a cache they mean:

    - `batch_size`, `shuffle`, `sampler`, `batch_sampler`, `drop_last`: as ever. `batch_size=None` hands out single
      (image, target) pairs, unpadded.
    - `num_workers`: native threads; 0 decodes in the calling thread. They live as long as the loader, so
      `persistent_workers` changes nothing. Nor does `in_order`: batches always come in order.
    - `prefetch_factor`: batches in the making at a time, in all. Default: four, more if there are many threads.
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
      None: when the order is random and `batch_sampler` is not given.
    - `on_error`: what happens to an image that does not decode. "raise": `DecodeError`, after which one may go on with
      the next batch. "skip": it is left in the fill colour, without boxes; a warning at the epoch's end counts such
      images, and `skipped` names them.
    - `verify_checksums`: of an image's bytes, "first" (the first time they are read), "always" or "never". A mismatch
      is treated as `on_error` says.
    - `engine`: "native", or "reference" for a slow and simple one to compare with.
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
        engine: Literal["native", "reference"] = "native",
        **further: Any,  # what newer versions of torch add
    ) -> None:
        if isinstance(dataset, (str, os.PathLike)):
            dataset = Cache(dataset)
        found = _cache_and_records(dataset)
        if found is not None and collate_fn is None and (batch_size is not None or batch_sampler is not None):
            collate_fn = TopLeftAlign()
        self._on_cache = found is not None
        self.transforms, self.group_by_aspect = transforms, group_by_aspect
        self.on_error, self.verify_checksums, self.engine = on_error, verify_checksums, engine
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
        own_order = sampler is None and batch_sampler is None
        self._check_arguments()
        self._recipe = self._make_recipe(*found)
        self._order = EpochOrder(
            found[1].aspect,
            self.batch_size,
            self.drop_last,
            shuffle=_is_random(self.sampler),
            grouped=self._groups(batch_sampler),
            sampler=None if own_order else sampler,
            batch_sampler=batch_sampler,
        )
        self._depth = self._batches_in_flight(prefetch_factor)
        self._ring = CanvasRing(keep=self._depth + 2)
        self._engine: tuple[int, Engine] | None = None  # with the process it belongs to
        self._seed: int | None = None
        self._next = Progress(epoch=0, step=0)  # where the next iteration begins
        self._current = Progress(epoch=0, step=0, done=True)  # how far the latest iteration is

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own iterator class
        if not self._on_cache:
            return super().__iter__()
        progress = self._current = self._next
        self._next = Progress(progress.epoch + 1, 0)
        seed, recipe = self._base_seed(), self._recipe
        batches = islice(self._order.batches(seed, progress.epoch), progress.step, None)
        return BatchIterator(
            jobs=map(partial(recipe.plan, EpochRandom(seed, progress.epoch)), count(progress.step), batches),
            deliver=partial(recipe.deliver, progress.skipped),
            report=partial(_report_skipped, recipe.cache.path, progress.skipped),
            engine=self._ready_engine(),
            ring=self._ring,
            progress=progress,
            depth=self._depth,
        )

    @property
    def skipped(self) -> dict[int, str]:
        """{image id: reason} of the images that `on_error="skip"` left out in the latest epoch."""
        return self._current.skipped if self._on_cache else {}

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

        torchdata's StatefulDataLoader protocol. `num_workers` and `prefetch_factor` may differ. A `sampler` or
        `batch_sampler` of your own must give the same order again: the batches already seen are passed over.
        Empty on datasets that are not caches, since DataLoader has no such state.
        """
        if not self._on_cache:
            return {}
        here = self._next if self._current.done else self._current
        return {
            "seed": self._base_seed(),
            "epoch": here.epoch,
            "step": here.step,
            "batch_size": self.batch_size,
            "fingerprint": self._recipe.cache.fingerprint,
            "sampler_epochs": [getattr(sampler, "epoch", None) for sampler in self._samplers()],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iteration go on from `state_dict()`. PlanError if it is of another dataset or batch size."""
        here = self.state_dict() or {"batch_size": None, "fingerprint": None}
        for name in ("batch_size", "fingerprint"):
            if state_dict.get(name) != here[name]:
                raise PlanError(
                    f"this state is of a loader with {name} {state_dict.get(name)!r}, here it is {here[name]!r}: "
                    "load it into a FastLoader over the same cache with the same batch size"
                )
        if not self._on_cache:
            return
        self._seed = state_dict["seed"]
        self._next = Progress(state_dict["epoch"], state_dict["step"])
        self._current = replace(self._current, done=True)
        for sampler, epoch in zip(self._samplers(), state_dict["sampler_epochs"], strict=True):
            if epoch is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def check_worker_number_rationality(self) -> None:
        """DataLoader's warning about too many processes, which native threads are not."""
        if not self._on_cache:
            super().check_worker_number_rationality()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._on_cache:  # threads and canvases stay in their process
            state.update(_engine=None, _ring=CanvasRing(keep=self._depth + 2))
        return state

    def _make_recipe(self, cache: Cache, records: Records) -> Recipe:
        return Recipe(
            cache,
            records,
            self.transforms,
            self.collate_fn,
            batched=self.batch_sampler is not None,
            skip_errors=self.on_error == "skip",
            pin=self.pin_memory and torch.cuda.is_available(),
        )

    def _ready_engine(self) -> Engine:
        if self._engine is None or self._engine[0] != os.getpid():
            self._engine = os.getpid(), self._open_engine()
        return self._engine[1]

    def _open_engine(self) -> Engine:
        module, kind = ENGINES[self.engine]
        engine = getattr(import_module(module), kind)
        opened: Engine = engine(self._recipe.cache, self.num_workers, self.verify_checksums)
        return opened

    def _base_seed(self) -> int:
        if self._seed is None:
            self._seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator).item())
        return self._seed

    def _samplers(self) -> list[Any]:
        """All samplers that may want to know the epoch."""
        inner = getattr(self.batch_sampler, "sampler", None)
        given = [self.sampler, self.batch_sampler, inner]
        return [s for i, s in enumerate(given) if s is not None and all(s is not other for other in given[:i])]

    def _batches_in_flight(self, prefetch_factor: int | None) -> int:
        if self.num_workers == 0:
            return 1
        if prefetch_factor is not None:
            return max(prefetch_factor, 1)
        return max(4, 2 + ceil(2 * self.num_workers / (self.batch_size or 1)))

    def _groups(self, batch_sampler: Any) -> bool:
        possible = batch_sampler is None and self.batch_size is not None
        if self.group_by_aspect and not possible:
            raise PlanError("group_by_aspect makes the batches, so it excludes batch_sampler and batch_size=None")
        return (possible and _is_random(self.sampler)) if self.group_by_aspect is None else self.group_by_aspect

    def _check_arguments(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise PlanError(f'on_error is "raise" or "skip", not {self.on_error!r}')
        if self.verify_checksums not in ("first", "always", "never"):
            raise PlanError(f'verify_checksums is "first", "always" or "never", not {self.verify_checksums!r}')
        if self.engine not in ENGINES:
            raise PlanError(f"engine is one of {', '.join(ENGINES)}, not {self.engine!r}")
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


def _report_skipped(path: Path, skipped: dict[int, str]) -> None:
    if skipped:
        some = ", ".join(f"{image_id} ({reason})" for image_id, reason in islice(skipped.items(), 3))
        warnings.warn(
            f"{len(skipped)} images of {path} did not decode in this epoch and were left blank, among them image "
            f"{some}. Run `fastload verify {path}`.",
            stacklevel=3,
        )
