"""The `Source` protocol, and the samples, categories and problems that sources provide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypeIs

from fastload.annotations import Column

# Kinds of problems that more than one module uses.
SKIPPED = "skipped"  # the image is not in the cache
CHANGED = "changed"  # the image's file changed during the build
NOT_PACKED = "not packed"  # the requested encoding cannot hold the image, so its JPEG is stored
UNLISTED = "not listed"  # images lie in the folder, but no list or annotation file names them
FOUND_BY_NAME, FOUND_ELSEWHERE = "found by name", "found elsewhere"  # files that are not where the dataset says
MERGED, NO_LABELS, NO_FLIP_PAIRS = "merged", "no labels", "no flip pairs"
NOTES = {UNLISTED, FOUND_BY_NAME, FOUND_ELSEWHERE, MERGED, NO_LABELS, NO_FLIP_PAIRS}  # each is about the whole dataset
_EARLIER_KINDS = {"left out": SKIPPED}  # in the problems files of older caches


@dataclass(frozen=True)
class Category:
    """A class of objects. `Cache.categories` lists the classes in the order of labels.

        names = {category.id: category.name for category in cache.categories}

    Args:
        id: the id in the annotations, such as COCO's 1 to 90 with gaps.
        name: the name of the class.
        supercategory: the group of the class, if the source has groups.
    """

    id: int
    name: str
    supercategory: str = ""


@dataclass(frozen=True)
class Problem:
    """A problem with an image or its annotations, as listed in the problems file."""

    image_id: int
    file: str
    # "skipped", "converted", "repaired", "not packed", "changed", "box dropped", "box clipped", "mask dropped",
    # "keypoints dropped", "renumbered", "duplicate id", "flag ignored", "not rotated", or one of NOTES
    kind: str
    reason: str

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Problem:
        """Return the problem with these stored fields, which an older version may have written."""
        return cls(**{**fields, "kind": _EARLIER_KINDS.get(fields["kind"], fields["kind"])})


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its G objects as the source describes them. The image file has not been opened yet.

    Args:
        image_id: the id of the image, unique in the source.
        name: the file name in the source.
        path: the image file.
        columns: arrays or lists by column name, for the columns of `annotations.SCHEMA` and of `Source.columns`.
            `boxes` (G, 4) are x0, y0, x1, y1, with NaN for invalid boxes; `label` (G) are category ids. Missing
            columns get their default.
        size: width and height, if the source states them.
        skip_reason: why the image must be skipped. Default: it is not.
        relative: whether boxes, points and polygons are fractions of the image's width and height instead of pixels.
        data: the image, if it is not to be read from `path`: the bytes of a file, pixels (H, W, 3) RGB or (H, W) gray
            of uint8, or a PIL image.
    """

    image_id: int
    name: str
    path: Path
    columns: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    skip_reason: str | None = None
    relative: bool = False
    data: bytes | NDArray[np.uint8] | Image.Image | None = None


def box_columns(rows: list[tuple[list[float], int]], first_id: int = 0) -> dict[str, NDArray[Any]]:
    """Return the columns for `rows` of (xyxy, category id), with annotation ids counting from `first_id`."""
    return {
        "boxes": np.array([xyxy for xyxy, _ in rows], np.float64).reshape(-1, 4),
        "label": np.array([category for _, category in rows], np.int64),
        "annotation_id": np.arange(first_id, first_id + len(rows)),
    }


class Source(Protocol):
    """One split of a dataset: its samples, and the categories of their objects."""

    format: str
    location: str  # for messages, such as the path of the annotation file
    categories: tuple[Category, ...]  # in order of id
    columns: tuple[Column, ...]  # extra columns, in addition to `annotations.SCHEMA`
    digest: str  # changes whenever the list of images, the annotations or the categories change
    problems: tuple[Problem, ...]  # those that belong to no sample

    def __len__(self) -> int: ...

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the samples from position `start` on, always in the same order."""


def is_source(value: Any) -> TypeIs[Source]:
    """Return whether `value` has the attributes of a source."""
    return hasattr(value, "samples") and hasattr(value, "digest")


def files_of(source: Source) -> Iterator[Sample]:
    """Yield the samples of a source, to compare their files. Their columns may be missing.

    A source whose samples are expensive to read again has a method `files_to_compare`, which may yield fewer.
    """
    files: Iterator[Sample] = getattr(source, "files_to_compare", source.samples)()
    return files


@dataclass(frozen=True)
class Dataset:
    """One split of a dataset on disk. Its annotations have not been read yet.

    Args:
        split: the name of the split.
        cache: the default path of its cache.
        load: reads the annotations and returns the source to build the cache from, which may take seconds. Raises
            SourceError if the annotations are invalid.
        missing: why the split cannot be loaded. Default: it can.
    """

    split: str
    cache: Path
    load: Callable[[], Source]
    missing: str | None = None


class Extras(NamedTuple):
    """What to read besides images and boxes.

    Args:
        columns: further fields of annotations or images (see `columns.Request`).
        masks: the outlines and run lengths of objects.
        keypoints: the keypoints of objects.
    """

    columns: Sequence[str] = ()
    masks: bool = False
    keypoints: bool = False


class Pair(NamedTuple):
    """Annotations and images that are given apart, as the function `pair` of each format takes them.

    Args:
        annotations: the file or folder of annotations; the image folder if there is none.
        images: the image folder; the file or folder of annotations if that holds the images.
        classes: a file of class names.
        extras: what to read besides boxes.
    """

    annotations: Path
    images: Path
    classes: Path | None = None
    extras: Extras = Extras()
