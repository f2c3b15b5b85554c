"""Fitting a sample's columns to the picture that was really found, and to the size it is stored with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import SCHEMA, Column, Columns
from fastload.errors import SourceError
from fastload.sources.base import Problem, Sample

ROUNDING = 0.5  # pixels by which a box may reach beyond its picture without being worth a word


def fit_columns(
    sample: Sample,
    size: tuple[int, int],
    orientation: int,
    label_of: Mapping[int, int],
    further: Sequence[Column] = (),
) -> tuple[Columns, list[Problem]]:
    """The sample's columns as caches have them, by key, of the objects whose boxes have an area inside a picture of
    `size` (width, height) and a category that `label_of` knows. What was dropped or clipped is told.

    `orientation` is the EXIF orientation that the picture was turned by. Boxes are taken to refer to the upright
    picture, unless the source states the size of the unturned one: then they are turned with it. `further` are the
    columns of the source beside SCHEMA.

    Raises:
        SourceError: the source gave no sound columns.
    """
    schema = (*SCHEMA, *further)
    try:
        if unknown := sample.columns.keys() - {column.name for column in schema}:
            raise ValueError(f"`{min(unknown)}` is none of the columns that its source declares")
        count = len(sample.columns.get("boxes", ()))
        given = {column.name: column.given(sample.columns.get(column.name), count) for column in schema}
        boxes = given["boxes"] * np.tile(size, 2) if sample.relative else given["boxes"]
        if orientation != 1 and sample.size is not None and sample.size != size:
            boxes = turn_boxes(boxes, orientation, sample.size)
        clipped = np.clip(boxes, 0, np.tile(size, 2)).astype(np.float32)
        label = np.array([label_of.get(category, -1) for category in given["label"].tolist()], np.int32)
        kept, problems = _judge(sample, given, boxes, clipped, label >= 0, size)
        own_area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
        area = np.where(np.isnan(given["area"]), own_area, given["area"])
        fitted = {**given, "boxes": clipped, "label": label, "area": area}
        columns = {
            column.key: column.stored(fitted[column.name][kept] if column.per == "object" else fitted[column.name])
            for column in schema
        }
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"the annotations of image {sample.image_id} ({sample.name}) make no sense: {error}."
        ) from error
    return columns, problems


def scale_columns(columns: Columns, size: tuple[int, int], stored: tuple[int, int]) -> Columns:
    """The columns of a picture of `size` (width, height), in pixels of the same picture stored with size `stored`."""
    if size == stored:
        return columns
    scale, limit = np.array(stored) / np.array(size), np.array(stored)
    moved = {
        column.key: _SCALED[column.moves](columns[column.key], scale, limit).astype(column.dtype)
        for column in SCHEMA
        if column.moves != "none"
    }
    return {**columns, **moved}


# What becomes of values, by what moves them, where the picture is scaled by (x, y) to a size (width, height).
_SCALED: dict[str, Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "box": lambda boxes, scale, limit: np.minimum(boxes * np.tile(scale, 2), np.tile(limit, 2)),
    "area": lambda area, scale, limit: area * scale.prod(),
}


def _judge(
    sample: Sample,
    given: Columns,
    boxes: NDArray[np.float64],
    clipped: NDArray[np.float32],
    known: NDArray[np.bool_],
    size: tuple[int, int],
) -> tuple[NDArray[np.bool_], list[Problem]]:
    """Which objects stay, and what there is to tell of the others and of those that were clipped."""
    beyond = np.abs(clipped - boxes).max(1, initial=0)
    has_area: NDArray[np.bool_] = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)  # false for NaN
    problems = []
    for row in np.flatnonzero(~known | ~has_area | (beyond > ROUNDING)):
        kind, why = _verdict(boxes[row], bool(known[row]), bool(has_area[row]), size)
        what = f"annotation {given['annotation_id'][row]} {_shown(boxes[row])}"
        category = "" if known[row] else f" {given['label'][row]}"
        problems.append(Problem(sample.image_id, sample.name, kind, f"{what}: {why}{category}"))
    return known & has_area, problems


def turn_boxes(boxes: NDArray[np.float64], orientation: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes (G, 4) of a stored picture of `size` (width, height) as they lie once EXIF `orientation` is applied."""
    width, height = size
    x0, y0, x1, y1 = boxes.T
    turned = {
        1: (x0, y0, x1, y1),
        2: (width - x1, y0, width - x0, y1),
        3: (width - x1, height - y1, width - x0, height - y0),
        4: (x0, height - y1, x1, height - y0),
        5: (y0, x0, y1, x1),
        6: (height - y1, x0, height - y0, x1),
        7: (height - y1, width - x1, height - y0, width - x0),
        8: (y0, width - x1, y1, width - x0),
    }
    return np.stack(turned[orientation], 1)


def _verdict(box: NDArray[np.float64], known: bool, has_area: bool, size: tuple[int, int]) -> tuple[str, str]:
    if not known:
        return "box dropped", "unknown category"
    if not np.isfinite(box).all():
        return "box dropped", "not four numbers"
    if not np.all(box[2:] > box[:2]):
        return "box dropped", "no area"
    if not has_area:
        return "box dropped", f"outside the image of {size[0]} x {size[1]}"
    return "box clipped", f"partly outside the image of {size[0]} x {size[1]}"


def _shown(box: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in box) + "]"
