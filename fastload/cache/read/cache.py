"""Cache: a built dataset as a `torch.utils.data.Dataset`."""

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
from fastload.annotations import MASKS
from fastload.cache.read.cache_file import CacheFile, as_positions
from fastload.errors import ArgumentError, CacheError, DecodeError
from fastload.masks import Masks, draw_masks
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.masks import MaskPlan, MaskSettings

Example = tuple[Tensor, dict[str, Any]]
ROUNDING = 1e-3  # pixels: the float32 rounding error of a box side


class Cache(CacheFile, Dataset[Example]):
    """A cache as a map-style `torch.utils.data.Dataset` with torchvision's conventions.

        image, target = Cache("coco/fastload/train2017.lmdb")[0]

    `image` is the whole image, uint8 RGB (3, H, W), with the same pixels as in `FastLoader` at that size. `target` is a
    dict like those of `Targets`: `boxes` (n, 4) float32 xyxy in pixels of the image, `labels` (n) int64 category ids of
    the dataset, `image_id` int, `area` (n) float32, `iscrowd` (n) int64, and the extra columns of the cache, if any:
    `polygons`, for each box a list of rings (k, 2), `rle`, for each box its bytes (k), `keypoints` (n, K, 3),
    `rotated` (n, 4, 2), `class_id`, and columns of your own. `masks(i)` returns the masks of an image. It works with
    `DataLoader`, `Subset`, `random_split`, `cache + other` and torchvision's scripts; `FastLoader` reads it faster.
    `record(i)` returns the stored image. A subclass may override `__getitem__`.

    Images are in the order of the annotation file, without skipped images. torchvision and pycocotools sort by image
    id instead, so translate their positions with `index_of`.

    A list of caches is read as one cache, with the images of the first before those of the second:

        both = Cache(["voc2007/fastload/trainval.lmdb", "voc2012/fastload/trainval.lmdb"], renumber=True)

    Their categories are matched by name. Labels are category ids, so a name must have the same id in all caches. The
    extra columns are those that all caches have with the same type, shape and `flip_pairs`; others are left out, such
    as keypoints of which one cache knows the left and right ones and another does not.

    Opening copies nothing: arrays and records are views of the mapped file, and keep it mapped. A file that is opened
    several times in a process is mapped once. The arrays of several caches are joined on first use. A cache pickles as
    its paths, and works after fork and spawn.

    Args:
        path: a file made by `fastload build-cache`, or a list of files and Caches.
        renumber: for a list of caches whose image ids may clash: use the positions 0 to n - 1 as image ids.

    Raises:
        CacheError: a file is missing, damaged or of another version; or the caches cannot be combined, because an image
            id is in two of them, or because their categories disagree.
        ArgumentError: the list is empty, or a cache in it is of a subclass that overrides `__getitem__`.
    """

    def __init__(
        self, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Cache], renumber: bool = False
    ) -> None:
        if isinstance(path, Sequence) and not isinstance(path, str):
            path = caches = [part if isinstance(part, Cache) else Cache(part) for part in path]
            if overriding := [type(cache).__name__ for cache in caches if not has_items_of(Cache, cache)]:
                raise ArgumentError(
                    f"{overriding[0]} overrides __getitem__: combine it with other caches by torch's ConcatDataset"
                )
        super().__init__(path, renumber)

    def __getitem__(self, index: int) -> Example:
        """Return image `index` and its target, after verifying its checksum.

        Raises:
            CacheError: the record is damaged.
            DecodeError: the image cannot be decoded.
            IndexError: there is no image `index`.
        """
        cache, i = self.locate(index)
        if cache is not self:  # reading from the single file avoids joining the arrays in every worker process
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

    def masks(self, index: int) -> Tensor:
        """Return the masks of image `index`: (n, H, W) uint8, 1 inside, for each of its n boxes.

            image, target = cache[0]
            target["masks"] = cache.masks(0)

        They are drawn from the columns `polygons` and `rle` at each call, as `FastLoader` does, and have the size of
        the stored image. A box with neither has an empty mask.

        Raises:
            CacheError: the cache has no such columns, or the run lengths of a mask do not fit the annotated image.
            IndexError: there is no image `index`.
        """
        shapes = self.annotations.mask_shapes
        if shapes is None:
            raise CacheError(f"{self.where} has no masks: build it from a dataset with {' or '.join(MASKS)}.")
        shard, i = self.locate(index)
        shapes = cast(Cache, shard).annotations.mask_shapes
        assert shapes is not None
        size = shard.sizes[i : i + 1]
        plan = BatchPlan.of(np.array([i]), size)
        plan.place(tuple(size[0].tolist()), np.zeros((1, 2), np.int32), plan.fill)
        objects = np.arange(shard.box_offsets[i], shard.box_offsets[i + 1])
        drawn, failures = draw_masks(plan, MaskPlan(shapes, objects, np.zeros_like(objects), MaskSettings()))
        self.check_unchanged()
        for reason in failures.values():
            name = f"image {shard.image_ids[i]} ({shard.name(i)}) of {shard.path}"
            raise CacheError(f"{name}: {reason}. Correct its annotation.")
        return Masks(drawn.bits, (0, len(objects)), tuple(size[0, ::-1].tolist()))[0]

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | Tensor) -> Subset[Example]:
        """Return some of the images as a `torch.utils.data.Subset` with an int64 array as `indices`.

            first = cache.subset(range(1000))

        Args:
            indices: (k) integers as a list, a range, an array (not copied if it is int64) or a tensor. Negative indices
                count from the end.

        Raises:
            IndexError: an index is out of range.
            TypeError: `indices` is not a list of integers but, for example, a boolean mask.
        """
        return Subset(self, as_positions(indices, len(self)))  # type: ignore[arg-type]  # Subset only indexes it

    def without_empty(self, skip_crowd: bool = False) -> Subset[Example]:
        """Return the images with a box that is wider and higher than one pixel of the annotated image.

        These are the images that torchvision's detection scripts train on.

            train = FastLoader(cache.without_empty(skip_crowd=True), batch_size=16)

        Args:
            skip_crowd: ignore boxes around crowds.

        Returns:
            A `torch.utils.data.Subset` as of `subset`.
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
            **{column.name: self._shown(column, i, torch.tensor) for column in self._mapping.columns},
        }


def flatten(dataset: Any) -> tuple[Cache, NDArray[np.int64]] | None:
    """Return one cache with all images of a dataset, and the positions (n) of its items in that cache.

    Returns None unless the dataset is a Cache, or Subsets and ConcatDatasets of Caches in any nesting, of classes that
    do not override `__getitem__`. A cache that occurs several times is used once, with repeated positions.

    Raises:
        CacheError: the caches cannot be combined.
        IndexError, TypeError: the indices of a Subset are invalid.
    """
    caches: list[Cache] = []
    starts: dict[int, int] = {}  # position of the first image of each cache, by the id of its store

    def positions(dataset: Any) -> NDArray[np.int64] | None:
        if has_items_of(Subset, dataset):
            inner = positions(dataset.dataset)
            return None if inner is None else inner[as_positions(dataset.indices, len(inner))]
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
    """Return whether `dataset` is a `kind`, and its class does not override how `kind` returns items."""
    names = ("__getitem__", "__getitems__")
    return isinstance(dataset, kind) and all(
        getattr(type(dataset), name, None) is getattr(kind, name, None) for name in names
    )
