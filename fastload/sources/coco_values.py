"""The values of COCO files: ids, flags, boxes, outlines and masks in the forms in which tools write them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import offsets_of
from fastload.sources.run_lengths import box_of, compress, decompress

NOT_AN_ID = 2**62  # ids are smaller
Reasons: TypeAlias = list[tuple[int, str]]  # rows and what is wrong with them
_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")
_FLAGS = {"0": False, "0.0": False, "false": False, "none": False, "1": True, "1.0": True, "true": True}
_NUMBERS = r"\s*\[[-+0-9eE.,\s]*\]\s*"
_POLYGONS = re.compile(rf'"segmentation"\s*:\s*(\[{_NUMBERS}(?:,{_NUMBERS})*\])')


def quote_polygons(text: str) -> str:
    """Make strings of the polygons in a JSON text: NumPy reads them faster, and only if they are needed."""
    return _POLYGONS.sub(lambda found: f'"segmentation":"{found[1]}"', text)


def whole_number(value: Any) -> int | None:
    """Return an id of any JSON form (1, 1.0, "1") as an integer; None if it is no whole number."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value.partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < NOT_AN_ID else None


def whole_numbers(values: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return ids (n) as integers, and which of them are whole numbers. The others are NOT_AN_ID."""
    if set(map(type, values)) == {int} and max(map(abs, values)) < NOT_AN_ID:
        return np.array(values, np.int64), np.ones(len(values), np.bool_)
    numbers = [whole_number(value) for value in values]
    sound = np.array([number is not None for number in numbers], np.bool_)
    return np.array([NOT_AN_ID if number is None else number for number in numbers], np.int64), sound


def flags(values: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return flags (n) by value ("0" and "false" are false, null too), and which of them are flags."""
    read = [_FLAGS.get(str(value).lower()) for value in values]
    sound = np.array([value is not None for value in read], np.bool_)
    return np.array([bool(value) for value in read], np.bool_), sound


def areas(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return areas (n), NaN for those that are not positive numbers: they are the box's own."""
    numbers = _floats(values, ())
    return np.where(numbers > 0, numbers, np.nan)


def boxes(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return boxes (n, 4) x0, y0, x1, y1 of x, y, width, height, in lists or dicts. NaN: not four numbers."""
    xywh = _floats(values, (4,))
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)


def _floats(values: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return numbers (n, *shape), also of strings. NaN where a value has another shape or is too large."""
    array = _array(values)
    if array is None or array.shape[1:] != shape:
        rows = [_array([value[side] for side in _SIDES] if _is_box(value) else value) for value in values]
        sound = [np.full(shape, np.nan) if row is None or row.shape != shape else row for row in rows]
        array = np.array(sound, np.float64).reshape(-1, *shape)
    return np.where(np.abs(array) < 1e30, array, np.nan)


_SIDES = ("x", "y", "width", "height")


def _is_box(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= {*_SIDES}


def _array(values: Any) -> NDArray[np.float64] | None:
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None


@dataclass(frozen=True)
class Outlines:
    """The polygons of n objects.

    Args:
        points: (P, 2) x, y of all polygons, one after the other.
        lengths: (R) points of each polygon.
        counts: (n) polygons of each object.
    """

    points: NDArray[np.float32]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]

    def boxes(self) -> NDArray[np.float64]:
        """Return the boxes (n, 4) around the objects. NaN: an object without polygons."""
        found = np.full((len(self.counts), 4), np.nan)
        has = np.flatnonzero(self.counts)
        if len(has):
            starts = offsets_of(self.lengths)[offsets_of(self.counts)[has]]
            found[has, :2] = np.minimum.reduceat(self.points, starts)
            found[has, 2:] = np.maximum.reduceat(self.points, starts)
        return found


def outlines(values: Sequence[Any]) -> tuple[Outlines, Reasons]:
    """Return the polygons of `segmentation` values (n), and what is wrong with those that are not usable.

    Args:
        values: lists of polygons, or strings of such lists; anything else has no polygons.
    """
    reasons: Reasons = []
    read = _read_polygons([value if isinstance(value, str) else "" for value in values])
    if read is None or any(isinstance(value, list) and value for value in values):
        read = _read_polygons([_corrected(value, i, reasons) for i, value in enumerate(values)])
    assert read is not None
    return read, reasons


def _read_polygons(texts: Sequence[str]) -> Outlines | None:
    """Return the polygons of lists of lists of numbers, as texts; None if any of them is not usable."""
    counts = np.fromiter((max(text.count("[") - 1, 0) for text in texts), np.int64, len(texts))
    rings = [part.partition("]")[0] for part in "".join(texts).split("[") if "]" in part]
    numbers = np.fromiter((ring.count(",") + 1 for ring in rings), np.int64, len(rings))
    if len(rings) != counts.sum() or np.any(numbers % 2 != 0) or np.any(numbers < 6):
        return None
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("ignore")  # where it stops before the end, which its length shows
        try:
            values = np.fromstring(",".join(rings), np.float64, sep=",").astype(np.float32)
        except ValueError:
            return None
    if len(values) != numbers.sum() or not np.isfinite(values).all():
        return None
    return Outlines(values.reshape(-1, 2), numbers // 2, counts)


def _corrected(value: Any, row: int, reasons: Reasons) -> str:
    """Return the usable polygons of a `segmentation` as text, and add what is wrong with the others to `reasons`."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value else []
        except (ValueError, RecursionError):
            value = [value]
    if not isinstance(value, list):
        return ""
    if value and all(isinstance(number, (int, float)) for number in value):
        value = [value]  # one polygon without the list around it
    rings = []
    for ring in value:
        numbers = _array(ring) if isinstance(ring, list) else None
        if numbers is None:
            reasons.append((row, "a polygon is no list of numbers"))
        elif not np.all(np.abs(numbers) < 1e30):
            reasons.append((row, "a polygon has a coordinate that is not finite, or beyond 1e30"))
        elif numbers.size % 2 or (numbers.ndim > 1 and numbers.shape[1:] != (2,)):
            reasons.append((row, f"a polygon has {numbers.size} numbers, which are no pairs"))
        elif 0 < numbers.size < 6:
            reasons.append((row, f"a polygon has {numbers.size // 2} points: it needs 3"))
        elif numbers.size:
            rings.append(numbers.ravel().tolist())
    return json.dumps(rings) if rings else ""


@dataclass(frozen=True)
class Mask:
    """A mask in COCO's run lengths.

    Args:
        size: height and width.
        data: the compressed runs.
        box: x0, y0, x1, y1 in pixels; zeros for an empty mask.
    """

    size: tuple[int, int]
    data: bytes
    box: tuple[int, int, int, int]


def read_mask(value: dict[str, Any]) -> Mask:
    """Return the mask of a `segmentation` that is a dict of `counts`, compressed or not, and `size`.

    Raises:
        ValueError: it is no mask.
    """
    size, counts = value.get("size"), value.get("counts")
    sides = [whole_number(side) for side in size] if isinstance(size, list) and len(size) == 2 else [None] * 2
    height, width = sides
    if height is None or width is None:
        raise ValueError(f"the `size` of its mask is {size}: it must be [height, width]")
    if isinstance(counts, str):
        runs = decompress(counts.encode("utf-8", "surrogatepass"))
    elif isinstance(counts, list):
        runs, sound = whole_numbers(counts)
        if not sound.all():
            raise ValueError("the `counts` of its mask are not whole numbers")
    else:
        raise ValueError("its mask has no `counts`")
    if np.any(runs < 0):
        raise ValueError(f"the `counts` of its mask have the negative number {runs.min()}")
    pixels = sum(runs.tolist())  # which int64 may not hold
    if pixels != height * width or pixels == 0:
        raise ValueError(f"its mask has {pixels} pixels, its size is {width} x {height}")
    return Mask((height, width), compress(runs), box_of(runs, height))
