"""What a source of annotated images is, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Category:
    """A class of objects, with the id its source gives it."""

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
class Boxes:
    """The G boxes of an image as its source gives them: unchecked."""

    xyxy: NDArray[np.float64]  # (G, 4) x0, y0, x1, y1; NaN where the source makes no sense
    category_ids: NDArray[np.int64]  # (G)
    crowd: NDArray[np.bool_]  # (G)
    area: NDArray[np.float64]  # (G) square pixels; NaN: the box's own
    ids: NDArray[np.int64]  # (G)
    relative: bool = False  # in 0..1 of the image's width and height, not in pixels

    @classmethod
    def of(cls, rows: list[tuple[list[float], int]], first_id: int = 0, relative: bool = False) -> Boxes:
        """Boxes from (xyxy, category id) rows, none of them a crowd."""
        g = len(rows)
        return cls(
            xyxy=np.array([xyxy for xyxy, _ in rows], np.float64).reshape(g, 4),
            category_ids=np.array([category for _, category in rows], np.int64),
            crowd=np.zeros(g, np.bool_),
            area=np.full(g, np.nan),
            ids=np.arange(first_id, first_id + g, dtype=np.int64),
            relative=relative,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as its source describes it: nothing has been opened or checked yet."""

    image_id: int
    name: str  # the file as the source names it
    path: Path
    boxes: Boxes
    size: tuple[int, int] | None = None  # width, height, when the source states them
    left_out: str | None = None  # why this image cannot go in at all


class Source(Protocol):
    """A list of samples and the categories of their boxes."""

    format: str
    location: str  # what its owner would recognise it by
    categories: tuple[Category, ...]  # in order of id
    digest: str  # changes whenever the list, the annotations or the categories do
    problems: tuple[Problem, ...]  # what belongs to no sample

    def __len__(self) -> int: ...

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """The samples from position `start` on, always in the same order."""
