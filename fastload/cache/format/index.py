"""The index of a cache: the flat arrays of `layout.INDEX`, and extra columns, over all images and boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core
from fastload.annotations import SCHEMA, Column, Columns, offsets_of
from fastload.cache.format.layout import COLOR_MEAN, COLOR_STD, INDEX, OPTIONAL

Index: TypeAlias = dict[str, NDArray[Any]]
_VALUES: dict[str, tuple[int, ...]] = {"size": (2,), "source_size": (2,)} | {each.key: each.shape for each in SCHEMA}
_OFFSETS = {"name_offset": "names", "box_offset": "boxes"}


class ColorMoments(NamedTuple):
    """The colors of an image as R, G and B, in levels of 0 to 255."""

    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True, slots=True)
class Entry:
    """The index entry of one image with G boxes."""

    image_id: int
    name: str
    size: tuple[int, int]  # width, height
    source_size: tuple[int, int]  # of the annotated image
    encoding: int
    checksum: int
    columns: Columns  # by key: (G, ...) per object, (...) per image; ragged columns have an array for each of `keys`
    color: ColorMoments | None = None  # None: unknown


def shape_of(name: str, images: int, boxes: int, name_bytes: int) -> tuple[int, ...]:
    """Return the shape of an array of INDEX, given the numbers of images, boxes and bytes of names."""
    length = {"image": images, "image+1": images + 1, "object": boxes, "bytes": name_bytes}[INDEX[name][1]]
    return (length, *_VALUES.get(name, ()))


def build_index(entries: Sequence[Entry]) -> Index:
    """Build the index of images in the given order. All must have the same columns.

    Arrays of OPTIONAL are omitted unless the values of all images are known.
    """
    names = [entry.name.encode("utf-8", "surrogateescape") for entry in entries]
    arrays: dict[str, Any] = {
        "name_offset": offsets_of(map(len, names)),
        "names": np.frombuffer(b"".join(names), np.uint8),
        "box_offset": offsets_of(len(entry.columns["boxes"]) for entry in entries),
    }
    for name in ("image_id", "size", "source_size", "encoding", "checksum"):
        arrays[name] = [getattr(entry, name) for entry in entries]
    keys = list(entries[0].columns) if entries else [column.key for column in SCHEMA]
    for key in keys:
        single = key.startswith("image/") and f"{key}/offsets" not in keys and not _is_offsets(key)
        parts = [entry.columns[key][None] if single else entry.columns[key] for entry in entries]
        arrays[key] = join_arrays(key, parts) if parts else []
    colors = [entry.color for entry in entries if entry.color is not None]
    if colors and len(colors) == len(entries):
        arrays[COLOR_MEAN] = np.array([color.mean for color in colors], np.float32)
        arrays[COLOR_STD] = np.array([color.std for color in colors], np.float32)
    extra = sorted(arrays.keys() - INDEX.keys())
    return {name: _as_array(name, arrays[name]) for name in INDEX} | {key: arrays[key] for key in extra}


def join_indices(parts: Iterable[Index]) -> Index:
    """Concatenate indices, with the optional arrays and extra columns that all have with the same type and shape."""
    parts = [part for part in parts if len(part["image_id"])] or [build_index([])]
    kinds = [{(name, array.dtype.str, array.shape[1:]) for name, array in part.items()} for part in parts]
    extra = sorted(name for name, *_ in set.intersection(*kinds) if name not in INDEX)
    return {name: join_arrays(name, [part[name] for part in parts]) for name in (*INDEX, *extra)}


def join_arrays(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate array `name` of several indices."""
    return _join_offsets(parts) if _is_offsets(name) else np.concatenate(parts)


def check_index(index: Index, categories: int, columns: Iterable[Column] = ()) -> None:
    """Check that the arrays of an index are consistent with each other.

    Args:
        index: arrays with valid checksums, types and shapes.
        categories: number of categories.
        columns: the extra columns.

    Raises:
        ValueError: they are not.
    """
    ends = {offsets: len(index[values]) for offsets, values in _OFFSETS.items()}
    for column in columns:
        values, *levels = column.keys
        for outer, inner in pairwise([*levels, values]):
            ends[outer] = len(index[inner]) - (inner in levels)
    for offsets, end in ends.items():
        steps = index[offsets]
        if steps[0] != 0 or steps[-1] != end or (steps[1:] < steps[:-1]).any():
            raise ValueError(f"its {offsets} holds invalid offsets")
    if index["label"].min(initial=0) < 0 or index["label"].max(initial=-1) >= categories:
        raise ValueError("it has labels without a category")
    if index["crowd"].max(initial=0) > 1 or min(index[name].min(initial=1) for name in ("size", "source_size")) < 1:
        raise ValueError("its index holds invalid values")
    for name in OPTIONAL.keys() & index.keys():
        lowest, highest = index[name].min(initial=0), index[name].max(initial=0)  # NaN if a value is
        if not (lowest >= 0 and highest <= 255):
            raise ValueError(f"its {name} holds invalid values")
    for name, array in index.items():
        if array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"its {name} holds invalid values")
    _check_pixels(index)


def _check_pixels(index: Index) -> None:
    widest, highest = index["size"].max(0, initial=1).tolist()
    if widest * highest <= _core.max_pixels():
        return
    too_large = np.flatnonzero(index["size"].astype(np.int64).prod(1) > _core.max_pixels())
    if len(too_large):
        image_id, (width, height) = index["image_id"][too_large[0]], index["size"][too_large[0]]
        raise ValueError(f"image {image_id} is {width} x {height} pixels, more than FASTLOAD_MAX_PIXELS allows")


def _is_offsets(name: str) -> bool:
    return name in _OFFSETS or name.count("/") == 2  # as in `Column.keys`


def _join_offsets(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return offsets_of(np.concatenate([np.diff(part) for part in parts]))


def _as_array(name: str, values: Any) -> NDArray[Any]:
    return np.asarray(values, INDEX[name][0]).reshape(-1, *_VALUES.get(name, ()))
