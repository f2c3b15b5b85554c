"""The annotation schema: the columns of values that images and objects have.

Those that every cache has are declared in SCHEMA and nowhere else; a source may declare further ones. Sources yield
columns, `cache.fitting` filters and moves them, a cache stores those that are there, and `Targets` shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core

Columns: TypeAlias = Mapping[str, NDArray[Any]]  # values by the name of their column, or its key

Per = Literal["image", "object"]
DTYPES = {  # those that NumPy and torch both have, and how caches write them
    "bool": "b1",
    "uint8": "u1",
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "float32": "<f4",
    "float64": "<f8",
}
MAX_VALUES = 1 << 16  # numbers in one value
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Column:
    """One kind of annotation: a value of `shape` for each image or each object.

    Args:
        name: of the column.
        dtype: of the numbers: one of DTYPES.
        per: what has such a value.
        shape: of one value; () is a number.
        moves: what becomes of a value when its image is turned, clipped or made smaller: "box" is x0, y0, x1, y1 in
            pixels, "area" square pixels, "none" stays as it is.
        default: of what a source does not give. None: the source has to.
        required: every cache has it.

    Raises:
        ValueError: it cannot have such a name, type or shape.
    """

    name: str
    dtype: str
    per: Per = "object"
    shape: tuple[int, ...] = ()
    moves: Literal["box", "area", "none"] = "none"
    default: float | None = 0
    required: bool = False

    def __post_init__(self) -> None:
        if not self.required and (not _NAME.fullmatch(self.name) or self.name in _IN_USE):
            raise ValueError(f"{self.name!r} cannot be a further column: it is no name, or one that is in use")
        if self.dtype not in DTYPES or self.per not in get_args(Per):
            raise ValueError(f"`{self.name}` is {self.dtype} of each {self.per}: choose one of {', '.join(DTYPES)}")
        sound = all(type(side) is int and side > 0 for side in self.shape)
        if not sound or len(self.shape) > 2 or prod(self.shape) > MAX_VALUES:
            raise ValueError(f"`{self.name}` has values of shape {self.shape}")

    @property
    def key(self) -> str:
        """The name of its array in a cache. That of a further column says what it is of: `object/difficult`."""
        return self.name if self.required else f"{self.per}/{self.name}"

    @classmethod
    def of_array(cls, key: str, described: Mapping[str, Any], counts: Mapping[Per, int]) -> Column | None:
        """The further column of an array in a manifest; None if it is of a kind that this version does not know.

        Args:
            key: the array's name.
            described: what the manifest says of it.
            counts: how many images and objects there are.

        Raises:
            ValueError: it says what cannot be.
        """
        prefix, _, name = key.partition("/")
        per = next((per for per in counts if per == prefix), None)
        if per is None or not _NAME.fullmatch(name) or described.keys() != {"dtype", "shape", "checksum"}:
            return None
        dtype = next((dtype for dtype, written in DTYPES.items() if written == described["dtype"]), None)
        if dtype is None:
            return None
        length, *shape = described["shape"]
        if type(length) is not int or length != counts[per]:
            raise ValueError(key)
        return cls(name, dtype, per, tuple(shape))

    def given(self, values: Any, count: int) -> NDArray[Any]:
        """What a source gives for `count` objects, or for an image, as an array: (count, *shape), or (*shape).

        Raises:
            ValueError: it is missing, has another shape, or is not made of numbers.
        """
        shape = (count, *self.shape) if self.per == "object" else self.shape
        if values is None:
            if self.default is None and count:
                raise ValueError(f"`{self.name}` is missing")
            return np.full(shape, self.default or 0)
        array = np.asarray(values)
        if not array.size and not prod(shape):
            return np.zeros(shape, self.dtype)
        if array.shape != shape or array.dtype.kind not in "buif":
            raise ValueError(f"`{self.name}` is {array.dtype} of shape {array.shape}, not numbers of shape {shape}")
        return array

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` in the type that caches have. ValueError when that cannot hold them."""
        with np.errstate(all="ignore"):
            stored = values.astype(self.dtype)
        if stored.dtype.kind in "bui" and not np.array_equal(stored, values):
            raise ValueError(f"`{self.name}` holds numbers that {stored.dtype} cannot")
        return stored


SCHEMA = (
    Column("boxes", "float32", shape=(4,), moves="box", default=None, required=True),  # x0, y0, x1, y1 in pixels
    Column("label", "int32", default=None, required=True),  # in a source the category's id, in a cache its position
    Column("crowd", "uint8", required=True),  # 1: around a crowd, not one object
    Column("area", "float32", moves="area", default=np.nan, required=True),  # square pixels; NaN: the box's own
    Column("annotation_id", "int64", default=-1, required=True),
)
_IN_USE = {"image_id", "labels", "iscrowd", *(column.name for column in SCHEMA)}  # by the dicts of `Targets` or here


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of a cache, as batches are made of them.

    Args:
        boxes: what the core puts on canvases.
        objects: further columns by name, a value an object.
        images: further columns by name, a value an image.
        check: raises unless the columns are still what they were when the cache was opened.
    """

    boxes: _core.Annotations
    objects: Columns
    images: Columns
    check: Callable[[], None]

    def of_objects(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The further columns of these objects (...), as (..., *shape); 0 where there is none, which is row -1."""
        found = {name: column.take(rows, 0) for name, column in self.objects.items()}
        padding = rows < 0
        for values in found.values():
            values[padding] = 0
        self.check()
        return found

    def of_images(self, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The further columns of these images (B), as (B, *shape)."""
        found = {name: column.take(index, 0) for name, column in self.images.items()}
        self.check()
        return found
