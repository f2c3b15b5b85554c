"""What a source of annotated images is, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column


@dataclass(frozen=True)
class Category:
    """A class of objects. `Cache.categories` lists them in the order of labels.

    Args:
        id: the number that annotations give it, such as COCO's 1 to 90 with gaps.
        name: what people call it.
        supercategory: the group it belongs to, if the source has groups.
    """

    id: int
    name: str
    supercategory: str = ""


@dataclass(frozen=True)
class Problem:
    """Something about an image that its owner should know."""

    image_id: int
    file: str
    kind: str  # "left out", "converted", "repaired", "not packed", "changed", "box dropped", "box clipped"
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as its source describes it: nothing has been opened or checked yet.

    `columns` has arrays, or lists, of the values of its G objects and of itself, by the name of their column: those of
    `annotations.SCHEMA` and of the source's `columns`. `boxes` (G, 4) are x0, y0, x1, y1, NaN where the source makes no
    sense; `label` (G) are category ids. What is left out has the column's default.
    """

    image_id: int
    name: str  # the file as the source names it
    path: Path
    columns: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None  # width, height, when the source states them
    left_out: str | None = None  # why this image cannot go in at all
    relative: bool = False  # boxes, points and polygons are in 0..1 of the image's width and height, not in pixels


def box_columns(rows: list[tuple[list[float], int]], first_id: int = 0) -> dict[str, NDArray[Any]]:
    """Columns of (xyxy, category id) rows, their annotation ids counting from `first_id`."""
    return {
        "boxes": np.array([xyxy for xyxy, _ in rows], np.float64).reshape(-1, 4),
        "label": np.array([category for _, category in rows], np.int64),
        "annotation_id": np.arange(first_id, first_id + len(rows)),
    }


class Source(Protocol):
    """A list of samples and the categories of their boxes."""

    format: str
    location: str  # what its owner would recognise it by
    categories: tuple[Category, ...]  # in order of id
    columns: tuple[Column, ...]  # beside those of `annotations.SCHEMA`
    digest: str  # changes whenever the list, the annotations or the categories do
    problems: tuple[Problem, ...]  # what belongs to no sample

    def __len__(self) -> int: ...

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """The samples from position `start` on, always in the same order."""
