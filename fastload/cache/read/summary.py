"""Statistics of a cache."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import SCHEMA, Column
from fastload.cache.format.index import ColorMoments
from fastload.cache.format.layout import Encoding
from fastload.cache.read.cache_file import CacheFile

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class ClassCount:
    """The number of boxes and images of a class."""

    name: str
    boxes: int
    images: int  # with at least one box of the class


@dataclass(frozen=True)
class Summary:
    """The statistics of a cache.

    `distributions` are (minimum, lower quartile, median, upper quartile, maximum) by name, empty without values.
    """

    images: int
    boxes: int
    crowds: int
    images_without_boxes: int
    bytes: int
    encodings: Counter[str]  # number of images by encoding
    encoding_bytes: Counter[str]  # size of their records by encoding
    column_bytes: dict[str, int]  # size of each column of annotations, with the offsets of ragged ones
    classes: tuple[ClassCount, ...]  # in the order of `CacheFile.categories`
    distributions: dict[str, tuple[float, ...]]
    color: ColorMoments | None  # of the dataset, where each image counts the same; None: the cache does not have them


def summarize(cache: CacheFile) -> Summary:
    """Compute the statistics of a cache of one file. Reads its index only."""
    boxes_per_image = np.diff(cache.box_offsets)
    width, height = cache.sizes.T.astype(np.float64)
    box_width, box_height = (cache.boxes[:, 2:] - cache.boxes[:, :2]).T.astype(np.float64)
    codes, counts = np.unique(cache.encodings, return_counts=True)
    code_bytes = np.bincount(cache.encodings, cache.lengths)
    return Summary(
        images=len(cache),
        boxes=len(cache.boxes),
        crowds=int(cache.crowd.sum()),
        images_without_boxes=len(cache.images_without_boxes),
        bytes=cache.path.stat().st_size,
        encodings=Counter({_name(int(code)): int(count) for code, count in zip(codes, counts, strict=True)}),
        encoding_bytes=Counter({_name(int(code)): int(code_bytes[code]) for code in codes}),
        column_bytes={column.name: _bytes_of(cache, column) for column in (*SCHEMA, *cache.store.columns)},
        classes=_count_classes(cache),
        distributions={
            "image width, px": _quantiles(width),
            "image height, px": _quantiles(height),
            "megapixels": _quantiles(width * height / 1e6),
            "width / height": _quantiles(width / height),
            "kilobytes an image": _quantiles(cache.lengths / 1e3),
            "boxes an image": _quantiles(boxes_per_image),
            "box side, px": _quantiles(np.sqrt(box_width * box_height)),  # the side of a square of equal area
        },
        color=color_of_dataset(cache),
    )


def _bytes_of(cache: CacheFile, column: Column) -> int:
    return sum(cache.store.index[key].nbytes for key in column.keys)


def color_of_dataset(cache: CacheFile) -> ColorMoments | None:
    """Return the mean and standard deviation of R, G and B over all images, in levels; None if they are unknown.

    Each image has the same weight, whatever its size. For normalization, as images are resized in training.
    """
    means, stds = cache.means, cache.stds
    if means is None or stds is None or not len(means):
        return None
    mean = means.mean(0, np.float64)
    variance = (stds.astype(np.float64) ** 2 + means.astype(np.float64) ** 2).mean(0) - mean**2
    return ColorMoments(mean.tolist(), np.sqrt(variance.clip(0)).tolist())


def _count_classes(cache: CacheFile) -> tuple[ClassCount, ...]:
    k = len(cache.categories)
    image_of = np.repeat(np.arange(len(cache)), np.diff(cache.box_offsets))
    pairs = np.unique(image_of * max(k, 1) + cache.labels)  # each (image, class) once
    boxes, images = np.bincount(cache.labels, minlength=k), np.bincount(pairs % max(k, 1), minlength=k)
    return tuple(
        ClassCount(category.name, int(boxes[label]), int(images[label]))
        for label, category in enumerate(cache.categories)
    )


def _quantiles(values: NDArray[np.float64] | NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(float(q) for q in np.quantile(values, QUANTILES)) if len(values) else ()


def _name(code: int) -> str:
    return Encoding(code).label if code in set(Encoding) else f"unknown ({code})"
