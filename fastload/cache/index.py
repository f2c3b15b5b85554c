"""The index of a cache: flat arrays over all its images and boxes, as `layout.INDEX` lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core
from fastload.cache.layout import INDEX

Index: TypeAlias = dict[str, NDArray[Any]]
_COLUMNS = {"size": 2, "source_size": 2, "boxes": 4}  # the arrays with two dimensions
_OFFSETS = {"name_offset": "names", "box_offset": "boxes"}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index keeps of one image with G boxes."""

    image_id: int
    name: str
    size: tuple[int, int]  # width, height
    source_size: tuple[int, int]  # of the annotated picture
    encoding: int
    checksum: int
    boxes: NDArray[np.float32]  # (G, 4) x0, y0, x1, y1 pixels
    label: NDArray[np.int32]  # (G)
    crowd: NDArray[np.uint8]  # (G)
    area: NDArray[np.float32]  # (G)
    annotation_id: NDArray[np.int64]  # (G)


def shape_of(name: str, images: int, boxes: int, name_bytes: int) -> tuple[int, ...]:
    """The shape an index array must have in a cache of so many images, boxes and bytes of names."""
    length = {"image": images, "image+1": images + 1, "box": boxes, "bytes": name_bytes}[INDEX[name][1]]
    return (length, _COLUMNS[name]) if name in _COLUMNS else (length,)


def build_index(entries: Sequence[Entry]) -> Index:
    """The index of images in the order given."""
    names = [entry.name.encode("utf-8", "surrogateescape") for entry in entries]
    columns: dict[str, Any] = {
        "name_offset": _offsets(map(len, names)),
        "names": np.frombuffer(b"".join(names), np.uint8),
        "box_offset": _offsets(len(entry.boxes) for entry in entries),
    }
    for name, (_, per) in INDEX.items():
        if per == "image":
            columns[name] = [getattr(entry, name) for entry in entries]
        elif per == "box":
            columns[name] = np.concatenate([getattr(entry, name) for entry in entries]) if entries else []
    return {name: _as_column(name, columns[name]) for name in INDEX}


def join_indices(parts: Iterable[Index]) -> Index:
    """One index of the images of several, in order."""
    parts = [build_index([]), *parts]
    return {
        name: _join_offsets([part[name] for part in parts])
        if name in _OFFSETS
        else np.concatenate([part[name] for part in parts])
        for name in INDEX
    }


def check_index(index: Index, categories: int) -> None:
    """ValueError when the arrays, each sound by itself, do not fit one another."""
    for offsets, values in _OFFSETS.items():
        steps = index[offsets]
        if steps[0] != 0 or steps[-1] != len(index[values]) or (steps[1:] < steps[:-1]).any():
            raise ValueError(f"its {offsets} is wrong")
    if index["label"].min(initial=0) < 0 or index["label"].max(initial=-1) >= categories:
        raise ValueError("its labels are not among its categories")
    if index["crowd"].max(initial=0) > 1 or min(index[name].min(initial=1) for name in ("size", "source_size")) < 1:
        raise ValueError("its index holds impossible values")
    _check_pixels(index)


def _check_pixels(index: Index) -> None:
    widest, highest = index["size"].max(0, initial=1).tolist()
    if widest * highest <= _core.max_pixels():
        return
    too_large = np.flatnonzero(index["size"].astype(np.int64).prod(1) > _core.max_pixels())
    if len(too_large):
        image_id, (width, height) = index["image_id"][too_large[0]], index["size"][too_large[0]]
        raise ValueError(f"image {image_id} is {width} x {height} pixels, more than FASTLOAD_MAX_PIXELS allows")


def _offsets(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _join_offsets(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return _offsets(np.concatenate([np.diff(part) for part in parts]))


def _as_column(name: str, values: Any) -> NDArray[Any]:
    column = np.asarray(values, INDEX[name][0])
    return column.reshape(-1, _COLUMNS[name]) if name in _COLUMNS else column
