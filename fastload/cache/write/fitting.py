"""Fitting the columns of a sample to its image as it was found, and to the size at which it is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import COORDINATES, RLE, SCHEMA, Column, Columns, Ragged
from fastload.errors import SourceError
from fastload.sources.base import Problem, Sample
from fastload.sources.run_lengths import decode, encode

MIRRORED = (2, 4, 5, 7)  # EXIF orientations of images that were stored as in a mirror
ROUNDING = 0.5  # pixels by which a box may exceed its image without being reported


def fit_columns(
    sample: Sample,
    size: tuple[int, int],
    orientation: int,
    label_of: Mapping[int, int],
    extra: Sequence[Column] = (),
) -> tuple[Columns, list[Problem]]:
    """Convert the columns of a sample to those of a cache.

    Objects are dropped if their category is unknown or their box has no area within the image. Boxes are clipped to the
    image. Points and polygons are not clipped. Coordinates refer to the upright image; if the source states the size of
    the unrotated image instead, they are rotated with it.

    Args:
        sample: the sample.
        size: width, height of the upright image in pixels.
        orientation: the EXIF orientation that was applied to the image.
        label_of: label by category id.
        extra: the extra columns of the source.

    Returns:
        The columns by key, and a problem for each object that was dropped or clipped.

    Raises:
        SourceError: the columns of the sample are invalid.
    """
    schema = (*SCHEMA, *extra)
    try:
        if unknown := sample.columns.keys() - {column.name for column in schema}:
            raise ValueError(f"`{min(unknown)}` is not among the columns that its source declares")
        count = len(sample.columns.get("boxes", ()))
        given = {column.name: column.given(sample.columns.get(column.name), count) for column in schema}
        boxes = _place(SCHEMA[0], given["boxes"], sample, size, orientation)
        clipped = np.clip(boxes, 0, np.tile(size, 2)).astype(np.float32)
        label = np.array([label_of.get(category, -1) for category in given["label"].tolist()], np.int32)
        kept, problems = _judge(sample, given, boxes, clipped, label >= 0, size)
        own_area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
        area = np.where(np.isnan(given["area"]), own_area, given["area"])
        fitted = {**given, "boxes": clipped, "label": label, "area": area}
        columns: dict[str, NDArray[Any]] = {}
        for column in schema:
            values = fitted[column.name][kept] if column.per == "object" else fitted[column.name]
            arrays = values.arrays if isinstance(values, Ragged) else {column.key: values}
            if column == RLE and _is_turned(sample, size, orientation):
                arrays = turn_run_lengths(column.of(arrays), orientation, sample.size or size).arrays
            elif not column.required and sample.columns.get(column.name) is not None:
                arrays[column.key] = _place(column, arrays[column.key], sample, size, orientation)
            columns |= {**arrays, column.key: column.stored(arrays[column.key])}
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"the annotations of image {sample.image_id} ({sample.name}) are invalid: {error}."
        ) from error
    return columns, problems


def scale_columns(
    columns: Columns, size: tuple[int, int], stored: tuple[int, int], extra: Sequence[Column] = ()
) -> Columns:
    """Scale the columns of an image.

    Args:
        columns: the columns by key.
        size: width, height in pixels to which they refer.
        stored: width, height of the stored image.
        extra: the extra columns.
    """
    if size == stored:
        return columns
    scale, limit = np.array(stored) / np.array(size), np.array(stored)
    moved = {
        column.key: _SCALED[column.moves](columns[column.key], scale, limit).astype(column.dtype)
        for column in (*SCHEMA, *extra)
        if column.moves != "none"
    }
    return {**columns, **moved}


def _scale_points(points: NDArray[Any], scale: NDArray[Any], limit: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([points[..., :2] * scale, points[..., 2:]], -1)


# Scale values by (x, y), for each `Column.moves`. `limit` is the new size (width, height) of the image.
_SCALED: dict[str, Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "box": lambda boxes, scale, limit: np.minimum(boxes * np.tile(scale, 2), np.tile(limit, 2)),
    "area": lambda area, scale, limit: area * scale.prod(),
    "points": _scale_points,
    "polygon": _scale_points,
}


def _place(
    column: Column, values: NDArray[Any], sample: Sample, size: tuple[int, int], orientation: int
) -> NDArray[Any]:
    """Convert the values of a column to pixels of the upright image of `size`.

    Raises:
        ValueError: points or polygons are not finite.
    """
    if column.moves not in COORDINATES:
        return values
    if sample.relative:
        values = _SCALED[column.moves](values, np.array(size), np.full(2, np.inf))
    if sample.size is not None and _is_turned(sample, size, orientation):
        turn = turn_boxes if column.moves == "box" else turn_points
        values = turn(values, orientation, sample.size)
        if column.flip_pairs and orientation in MIRRORED:
            values = values[..., column.flip_order, :]
    if column.moves == "box":
        return values if column.required else np.clip(values, 0, np.tile(size, 2))
    if values.shape[-1] == 3:
        values = np.where(values[..., 2:] == 0, 0, values)
    with np.errstate(over="ignore"):
        if not np.isfinite(values.astype(column.dtype)).all():
            raise ValueError(f"`{column.name}` holds coordinates that are not finite")
    return values


def _judge(
    sample: Sample,
    given: Columns,
    boxes: NDArray[np.float64],
    clipped: NDArray[np.float32],
    known: NDArray[np.bool_],
    size: tuple[int, int],
) -> tuple[NDArray[np.bool_], list[Problem]]:
    """Return whether each object is kept, and a problem for each that is dropped or clipped."""
    beyond = np.abs(clipped - boxes).max(1, initial=0)
    has_area: NDArray[np.bool_] = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)  # false for NaN
    problems = []
    for row in np.flatnonzero(~known | ~has_area | (beyond > ROUNDING)):
        kind, why = _verdict(boxes[row], bool(known[row]), bool(has_area[row]), size)
        what = f"annotation {given['annotation_id'][row]} {_shown(boxes[row])}"
        category = "" if known[row] else f" {given['label'][row]}"
        problems.append(Problem(sample.image_id, sample.name, kind, f"{what}: {why}{category}"))
    return known & has_area, problems


def _is_turned(sample: Sample, size: tuple[int, int], orientation: int) -> bool:
    """Return whether the annotations refer to the image as it was before it was turned to `size`."""
    return orientation != 1 and sample.size is not None and sample.size != size


def turn_run_lengths(masks: Ragged, orientation: int, size: tuple[int, int]) -> Ragged:
    """Run lengths of masks of a stored image of `size` (width, height), as they are once `orientation` is applied."""
    turned = [
        np.frombuffer(encode(_TURNED[orientation](decode(row.tobytes(), size[1], size[0]))), np.uint8)
        if len(row)
        else row
        for row in masks.lists()
    ]
    return masks.column.given(turned, len(turned))  # type: ignore[no-any-return]


_TURNED: dict[int, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    2: lambda mask: mask[:, ::-1],
    3: lambda mask: mask[::-1, ::-1],
    4: lambda mask: mask[::-1],
    5: lambda mask: mask.T,
    6: lambda mask: mask.T[:, ::-1],
    7: lambda mask: mask.T[::-1, ::-1],
    8: lambda mask: mask.T[::-1],
}


def turn_boxes(boxes: NDArray[np.float64], orientation: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Apply EXIF `orientation` to boxes (..., 4) of an unrotated image of `size` (width, height)."""
    corners = turn_points(boxes.reshape(*boxes.shape[:-1], 2, 2), orientation, size)
    return np.where(_mirrored(orientation), corners[..., ::-1, :], corners).reshape(boxes.shape)


def turn_points(points: NDArray[Any], orientation: int, size: tuple[int, int]) -> NDArray[Any]:
    """Apply EXIF `orientation` to points (..., 2 or 3), of which x and y change, as `turn_boxes` does."""
    step = -1 if orientation >= 5 else 1  # orientations 5 to 8 swap x and y
    moved = points[..., :2][..., ::step]
    moved = np.where(_mirrored(orientation), np.array(size)[::step] - moved, moved)
    return np.concatenate([moved, points[..., 2:]], -1)


def _mirrored(orientation: int) -> tuple[bool, bool]:
    """Whether x and y are mirrored in the upright image."""
    return orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)


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
