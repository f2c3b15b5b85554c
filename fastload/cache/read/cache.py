"""Cache: a built dataset as torch and torchvision know datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

import fastload._core as _core
from fastload.cache.read.cache_file import CacheFile, as_positions
from fastload.errors import ArgumentError, DecodeError

Example = tuple[Tensor, dict[str, Any]]
ROUNDING = 1e-3  # pixels by which a side of a box may be off, as float32 holds its corners


class Cache(CacheFile, Dataset[Example]):
    """A cache: a map-style `torch.utils.data.Dataset` in torchvision's convention.

        image, target = Cache("coco/fastload/train2017.lmdb")[0]

    `image` is the whole image, uint8 RGB (3, H, W), with the pixels that `FastLoader` shows at that size. `target` is a
    dict like those of `Targets`: `boxes` (n, 4) float32 xyxy in pixels of the image, `labels` (n) int64 of the
    dataset's own category ids, `image_id` int, `area` (n) float32, `iscrowd` (n) int64, and further columns, if the
    cache has some. So `DataLoader`, `Subset`, `random_split`, `cache + other` and torchvision's scripts take it as any
    dataset; `FastLoader` reads it faster.
    `record(i)` is what is stored. A subclass may have a `__getitem__` of its own.

    Image i is the i-th of the source that could be stored: the order of the annotation file, not that of image ids,
    by which torchvision and pycocotools sort. Translate index lists that were made elsewhere by `index_of`.

    Several caches are read as one, the images of the first before those of the second:

        both = Cache(["voc2007/fastload/trainval.lmdb", "voc2012/fastload/trainval.lmdb"], renumber=True)

    Their categories are matched by name. Labels are category ids, so a name must have the same id in all of them. They
    show the further columns that all of them have.

    Nothing is copied on opening: arrays and records are views of the mapped file, and keep it mapped. Opening one path
    many times in a process maps it once. Of several caches the arrays are joined when they are first asked for, and
    the records stay where they are. A cache pickles as its paths, and works after fork and spawn.

    Args:
        path: a file that `fastload build-cache` made, or a list of such files and of Caches.
        renumber: of several caches, whose image ids may clash: the ids are then the positions 0 to n - 1.

    Raises:
        CacheError: a file is missing, damaged or of another version, or caches cannot be read as one: an image id is in
            two of them, or a category's name or id stands for different ones.
        ArgumentError: the list is empty, or a subclass in it makes items of its own.
    """

    def __init__(
        self, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Cache], renumber: bool = False
    ) -> None:
        if isinstance(path, Sequence) and not isinstance(path, str):
            path = caches = [part if isinstance(part, Cache) else Cache(part) for part in path]
            if own := [type(cache).__name__ for cache in caches if not has_items_of(Cache, cache)]:
                raise ArgumentError(f"{own[0]} makes items of its own: join it to others by torch's ConcatDataset")
        super().__init__(path, renumber)

    def __getitem__(self, index: int) -> Example:
        """Image `index`, checked against its checksum, and what is annotated on it.

        Raises:
            CacheError: its bytes are not those that were written.
            DecodeError: it does not decode.
            IndexError: there is no such image.
        """
        cache, i = self.locate(index)
        if cache is not self:  # whose arrays need not be joined for it, in each of many worker processes
            image, target = cast(Cache, cache)[i]
            for column in set(cache.store.columns) - set(self.store.columns):
                target.pop(column.name, None)
            return image, {**target, "image_id": int(self.image_ids[index])}
        self.check_record(i)
        try:
            pixels = _core.render_record(self.record_bytes(i))
        except ValueError as error:
            self.check_unchanged()
            raise DecodeError(
                f"image {self.image_ids[i]} ({self.name(i)}) of {self.path} does not decode: {error}. Run "
                f"`fastload verify {self.path}` to see what is damaged."
            ) from error
        target = self._target(i)
        self.check_unchanged()
        return torch.from_numpy(pixels).permute(2, 0, 1), target

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | Tensor) -> Subset[Example]:
        """Some of the images, as a `torch.utils.data.Subset` whose `indices` are an int64 array.

        Args:
            indices: (k) a list, a range, an array (not copied if it is int64) or a tensor; negative ones count from
                the end.

        Raises:
            IndexError: an index of no image.
            TypeError: no list of integers, such as a boolean mask.
        """
        return Subset(self, as_positions(indices, len(self)))  # type: ignore[arg-type]  # all that Subset does is index

    def without_empty(self, skip_crowd: bool = False) -> Subset[Example]:
        """The images that there is something to learn from, as torchvision's scripts choose them for training: those
        with a box that is wider and higher than one pixel of the annotated picture.

        Args:
            skip_crowd: boxes around crowds do not count.
        """
        number = np.diff(self.box_offsets)
        pixel = (self.sizes / self.source_sizes + ROUNDING).astype(np.float32)  # (n, 2) in pixels of the stored image
        usable = (self.boxes[:, 2:] - self.boxes[:, :2] > np.repeat(pixel, number, 0)).all(1)
        if skip_crowd:
            usable &= ~self.crowd
        found = np.zeros(len(self), np.bool_)
        found[np.repeat(np.arange(len(self)), number)[usable]] = True
        return self.subset(np.flatnonzero(found))

    @cached_property
    def _category_ids(self) -> NDArray[np.int64]:
        return np.array([category.id for category in self.categories], np.int64)

    def _target(self, i: int) -> dict[str, Any]:
        of_image = slice(*self.box_offsets[i : i + 2])
        return {
            "boxes": torch.tensor(self.boxes[of_image]),
            "labels": torch.from_numpy(self._category_ids[self.labels[of_image]]),
            "image_id": int(self.image_ids[i]),
            "area": torch.tensor(self.area[of_image]),
            "iscrowd": torch.from_numpy(self.crowd[of_image].astype(np.int64)),
            **{each.name: torch.tensor(self._values(each, i)) for each in self._mapping.columns if not each.ragged},
        }


def flatten(dataset: Any) -> tuple[Cache, NDArray[np.int64]] | None:
    """The cache that `dataset` is, or the one of all caches in it, and where in that cache its images are (n).

    None unless it is a Cache, or Subsets and ConcatDatasets of some in any nesting, that make no items of their own.
    A cache that comes several times is one cache, of which some images come several times.

    Raises:
        CacheError: caches that cannot be read as one.
        IndexError, TypeError: a Subset of images that there are not.
    """
    caches: list[Cache] = []
    starts: dict[int, int] = {}  # where in all of them a cache begins

    def positions(dataset: Any) -> NDArray[np.int64] | None:
        if has_items_of(Subset, dataset):
            within = positions(dataset.dataset)
            return None if within is None else within[as_positions(dataset.indices, len(within))]
        if has_items_of(ConcatDataset, dataset):
            parts = [part for one in dataset.datasets if (part := positions(one)) is not None]
            return np.concatenate(parts) if len(parts) == len(dataset.datasets) else None
        if not has_items_of(Cache, dataset):
            return None
        if id(dataset.store) not in starts:
            starts[id(dataset.store)] = sum(map(len, caches))
            caches.append(dataset)
        return starts[id(dataset.store)] + np.arange(len(dataset))

    index = positions(dataset)
    return None if index is None else (caches[0] if len(caches) == 1 else Cache(caches), index)


def has_items_of(kind: Any, dataset: Any) -> bool:
    """Whether `dataset` is a `kind` of which no subclass has put other items in their place."""
    names = ("__getitem__", "__getitems__")
    return isinstance(dataset, kind) and all(
        getattr(type(dataset), name, None) is getattr(kind, name, None) for name in names
    )
