"""The annotation schema: the columns of values that images and objects have.

The columns that every cache has are declared in SCHEMA only. A source may declare extra columns. Sources yield columns,
`cache.write.fitting` filters and transforms them, caches store them, and `Targets` has them for each batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from math import prod
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

import fastload._core as _core

Columns: TypeAlias = Mapping[str, NDArray[Any]]  # values by the name or the key of their column

Per = Literal["image", "object"]
Moves = Literal["box", "area", "points", "polygon", "none"]
DTYPES = {  # the types that both NumPy and torch have, and their notation in caches
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
OFFSETS_DTYPE = "<i8"
COORDINATES: dict[Moves, tuple[int, ...]] = {"box": (4,), "points": (2, 3), "polygon": (2,)}  # valid last dimensions
_OFFSETS = ("offsets", "inner_offsets")  # the arrays of a ragged column besides its values, outer first
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Column:
    """One kind of annotation: a value for each image or each object, or a list of values if it is ragged.

        Column("track_id", "int64")
        Column("joints", "float32", shape=(17, 3), moves="points")
        Column("outline", "float32", shape=(2,), moves="polygon", ragged=2)  # rings of points

    Args:
        name: letters, digits and underscores; at most 64.
        dtype: the type of the numbers: bool, uint8, int8, int16, int32, int64, float32 or float64.
        per: "object" or "image". Default: "object".
        shape: the shape of one value, with at most two dimensions. Default: (), a number.
        moves: how a value changes when its image is transformed. Default: "none", it does not change. "box": (..., 4)
            x0, y0, x1, y1 in pixels. "area": square pixels. "points": (..., 2) x, y in pixels, or (..., 3) x, y,
            visibility; a point of visibility 0 is unlabeled and stays (0, 0, 0), and in a batch a point outside of
            the visible part of its image becomes so. "polygon": (..., 2) the points of a ring. When a cache is built,
            boxes are clipped to the image; points and polygons are not.
        default: the value where a source gives none. None: the source must give it. Ragged columns get an empty list
            instead. Default: 0.
        required: whether every cache has the column: for SCHEMA only.
        ragged: levels of lists. 0: one value. 1 or True: a list of values. 2: a list of lists of values. Default: 0.
        flip_pairs: of values (K, 2) or (K, 3) that move as points, the pairs of points, counted from 0, that are
            exchanged when an image is mirrored, such as left and right eye. Default: (), none.

    Raises:
        ValueError: the name, type, shape, `moves`, `ragged` or `flip_pairs` is not supported.
    """

    name: str
    dtype: str
    per: Per = "object"
    shape: tuple[int, ...] = ()
    moves: Moves = "none"
    default: float | None = 0
    required: bool = False
    ragged: int = 0
    # Not in `repr`, of which the digest of Python samples is made: it must not change for columns without pairs.
    flip_pairs: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.required and (not _NAME.fullmatch(self.name) or self.name in _IN_USE):
            raise ValueError(f"{self.name!r} cannot be an extra column: it is not a valid name, or it is reserved")
        if self.dtype not in DTYPES or self.per not in get_args(Per):
            raise ValueError(f"`{self.name}` is {self.dtype} per {self.per}: use a dtype among {', '.join(DTYPES)}")
        sound = all(type(side) is int and side > 0 for side in self.shape)
        if not sound or len(self.shape) > 2 or prod(self.shape) > MAX_VALUES:
            raise ValueError(f"`{self.name}` has shape {self.shape}: use at most two positive sizes")
        if self.moves != "none" and not self.dtype.startswith("float"):
            raise ValueError(f"`{self.name}` moves with its image: use float32 or float64, not {self.dtype}")
        last = COORDINATES.get(self.moves)
        if self.moves not in get_args(Moves) or (last and not {*self.shape[-1:]} & {*last}):
            raise ValueError(f"`{self.name}` moves as {self.moves}, which values of shape {self.shape} do not support")
        if self.ragged not in range(len(_OFFSETS) + 1):
            raise ValueError(f"`{self.name}` has {self.ragged} levels of lists: use 0 to {len(_OFFSETS)}")
        object.__setattr__(self, "flip_pairs", self._checked_flip_pairs() if self.flip_pairs else ())

    def _checked_flip_pairs(self) -> tuple[tuple[int, int], ...]:
        if self.moves != "points" or len(self.shape) != 2:
            raise ValueError(
                f"`{self.name}` has `flip_pairs`: it must have a shape (K, 2) or (K, 3) and move as points"
            )
        pairs = [tuple(pair) if isinstance(pair, (tuple, list)) else () for pair in self.flip_pairs]
        ends = [*chain.from_iterable(pairs)]
        known = all(type(end) is int and 0 <= end < self.shape[0] for end in ends)
        if not known or len({*ends}) < len(ends) or any(len(pair) != 2 for pair in pairs):
            raise ValueError(
                f"`flip_pairs` of `{self.name}` must be pairs of different points, 0 to {self.shape[0] - 1}"
            )
        return tuple(sorted((min(pair), max(pair)) for pair in pairs))

    @property
    def key(self) -> str:
        """The name of its array in a cache. Extra columns have a prefix, as in `object/difficult`."""
        return self.name if self.required else f"{self.per}/{self.name}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its arrays in a cache: the values, then the offsets of a ragged column, outer first."""
        return self.key, *(f"{self.key}/{name}" for name in _OFFSETS[: self.ragged])

    @property
    def traits(self) -> dict[str, Any]:
        """The extra keys of its entry in a manifest: `moves`, `ragged` and `flip_pairs`, each unless it is default."""
        traits: dict[str, Any] = {"moves": self.moves} if self.moves != "none" else {}
        if self.ragged:
            traits["ragged"] = int(self.ragged)
        if self.flip_pairs:
            traits["flip_pairs"] = [list(pair) for pair in self.flip_pairs]
        return traits

    @property
    def kind(self) -> str | dict[str, Any]:
        """Its entry in the manifest's `source`: the dtype, or a dict of dtype and traits if it has traits."""
        return {"dtype": self.dtype, **self.traits} if self.traits else self.dtype

    @property
    def flip_order(self) -> list[int]:
        """Which of its K points takes the place of each one when an image is mirrored; empty without `flip_pairs`."""
        order = list(range(self.shape[0])) if self.flip_pairs else []
        for one, other in self.flip_pairs:
            order[one], order[other] = other, one
        return order

    @classmethod
    def of_array(cls, key: str, described: Mapping[str, Any], counts: Mapping[Per, int]) -> Column | None:
        """Return the extra column that an entry of a manifest describes, or None if this version does not support it.

        Args:
            key: the name of the array.
            described: its entry in the manifest.
            counts: the number of images and objects.

        Raises:
            ValueError: the entry is invalid.
        """
        prefix, _, name = key.partition("/")
        per = next((per for per in counts if per == prefix), None)
        if per is None or not _NAME.fullmatch(name):
            return None
        if described.keys() - {"moves", "ragged", "flip_pairs"} != {"dtype", "shape", "checksum"}:
            return None
        dtype = next((dtype for dtype, written in DTYPES.items() if written == described["dtype"]), None)
        moves = next((moves for moves in get_args(Moves) if moves == described.get("moves", "none")), None)
        ragged = described.get("ragged", 0)
        if dtype is None or moves is None or type(ragged) is not int or ragged not in range(len(_OFFSETS) + 1):
            return None
        flip_pairs = described.get("flip_pairs", [])
        if type(flip_pairs) is not list:
            return None
        length, *shape = described["shape"]
        if type(length) is not int or length < 0 or (length != counts[per] and not ragged):
            raise ValueError(key)
        return cls(name, dtype, per, tuple(shape), moves, ragged=ragged, flip_pairs=tuple(flip_pairs))

    def of(self, arrays: Columns) -> Any:
        """Return its values from the arrays of an index or an image: an array, or `Ragged`."""
        values, *offsets = (arrays[key] for key in self.keys)
        return Ragged(self, values, tuple(offsets)) if self.ragged else values

    def given(self, values: Any, count: int) -> Any:
        """Convert the values that a source gives for one image.

        Args:
            values: an array-like of the shape below; of a ragged column, a list for each object, or one for the image,
                where None is an empty list. None: the default.
            count: number of objects of the image.

        Returns:
            An array (count, *shape), or (*shape) if it is per image. Of a ragged column `Ragged`, of length `count`
            or 1.

        Raises:
            ValueError: the values are missing, have another shape, or are not numbers.
        """
        if self.ragged:
            return self._given_lists(values, count)
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

    def _given_lists(self, values: Any, count: int) -> Ragged:
        if values is None and self.default is None and count:
            raise ValueError(f"`{self.name}` is missing")
        rows = [values] if self.per == "image" else [None] * count if values is None else values
        if self.per == "object" and len(rows) != count:
            raise ValueError(f"`{self.name}` has {len(rows)} lists for {count} objects")
        lists: list[Any] = [() if row is None else row for row in rows]
        offsets = []
        for _ in range(self.ragged - 1):
            offsets.append(offsets_of(map(len, lists)))
            lists = list(chain.from_iterable(lists))
        parts = [np.asarray(each) for each in lists]
        for part in parts:
            numbers = part.ndim > 0 and part.shape[1:] == self.shape and part.dtype.kind in "buif"
            if not numbers and part.shape[:1] != (0,):
                shape = ("n", *self.shape)
                raise ValueError(f"`{self.name}` has a list of {part.dtype} of shape {part.shape}, not numbers {shape}")
        offsets.append(offsets_of(map(len, parts)))
        filled = [part for part in parts if len(part)]
        return Ragged(self, np.concatenate(filled or [np.zeros((0, *self.shape), self.dtype)]), tuple(offsets))

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return `values` in the type of the column. ValueError if it cannot hold them."""
        with np.errstate(all="ignore"):
            stored = values.astype(self.dtype)
        if stored.dtype.kind in "bui" and not np.array_equal(stored, values):
            raise ValueError(f"`{self.name}` holds numbers that {stored.dtype} cannot")
        return stored


@dataclass(frozen=True, eq=False)
class Ragged:
    """The values of a ragged column. Its rows are objects or images.

    Indexing by a slice returns views. Indexing by a mask or by row numbers (k, not negative) returns copies.

    Args:
        column: the column.
        values: (total, *shape) the values of all rows, concatenated.
        offsets: for each level, an array that begins with 0. Row i consists of the values offsets[0][i] to
            offsets[0][i + 1]. With two levels, it consists of these lists instead, and list k of the values
            offsets[1][k] to offsets[1][k + 1]. Both levels have offsets so that the same code filters, joins and checks
            them.
    """

    column: Column
    values: NDArray[Any]
    offsets: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.offsets[0]) - 1

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Ragged:
        offsets = []
        if isinstance(rows, slice):
            start, end, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, end, step)]
            for steps in self.offsets:
                steps = steps[start : max(start, end) + 1]
                start, end = int(steps[0]), int(steps[-1])
                offsets.append(steps - start if start else steps)
            return Ragged(self.column, self.values[start:end], tuple(offsets))
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        for steps in self.offsets:
            first, lengths = steps[rows], steps[rows + 1] - steps[rows]
            offsets.append(offsets_of(lengths))
            rows = np.repeat(first - offsets[-1][:-1], lengths) + np.arange(offsets[-1][-1])
        return Ragged(self.column, self.values.take(rows, 0), tuple(offsets))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by key: the inverse of `Column.of`."""
        return dict(zip(self.column.keys, (self.values, *self.offsets), strict=True))

    def lists(self) -> list[Any]:
        """Return a view (k, *shape) for each row, or a list of views if there are two levels."""
        lists: Any = self.values
        for steps in reversed(self.offsets):
            lists = [lists[start:end] for start, end in pairwise(steps.tolist())]
        return list(lists)


def offsets_of(lengths: Iterable[int]) -> NDArray[np.int64]:
    """Return the start of each of n concatenated lists and the end of the last one: (n + 1)."""
    counts = lengths if isinstance(lengths, np.ndarray) else np.fromiter(lengths, np.int64)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


SCHEMA = (
    Column("boxes", "float32", shape=(4,), moves="box", default=None, required=True),  # x0, y0, x1, y1 in pixels
    Column("label", "int32", default=None, required=True),  # in a source the category id, in a cache its position
    Column("crowd", "uint8", required=True),  # 1: a crowd instead of one object
    Column("area", "float32", moves="area", default=np.nan, required=True),  # square pixels; NaN: that of the box
    Column("annotation_id", "int64", default=-1, required=True),
)
_IN_USE = {"image_id", "labels", "iscrowd", *(column.name for column in SCHEMA)}  # keys of `Targets[i]`, and here

# Optional columns, by the names that all sources use.
POLYGONS = Column("polygons", "float32", shape=(2,), moves="polygon", ragged=2)  # rings of (x, y) pixels
RLE = Column("rle", "uint8", ragged=1)  # COCO's compressed run lengths of a mask of the annotated image; empty: none
ROTATED = Column("rotated", "float32", shape=(4, 2), moves="points")  # the corners of a rotated box
MASKS = (POLYGONS.name, RLE.name)  # what masks are made of
CLASS_ID = Column("class_id", "int64", per="image")  # the label of a classified image


def keypoints_column(k: int, flip_pairs: Iterable[tuple[int, int]] = ()) -> Column:
    """Return the column of `k` keypoints: x, y and visibility (0 unlabeled, 1 hidden, 2 visible)."""
    return Column("keypoints", "float32", shape=(k, 3), moves="points", flip_pairs=tuple(flip_pairs))


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of a cache, in the form from which batches are made.

    Args:
        boxes: the boxes and labels, which the core maps to canvases.
        objects: extra columns of objects by name, not ragged.
        images: extra columns of images by name, not ragged.
        ragged: ragged columns by name, of objects or images as their `column.per` says.
        columns: the extra columns by name.
        box_offsets: (n + 1) the first object of each image.
        source_sizes: (n, 2) width, height of the annotated images.
        check: raises CacheError if the file has changed since the cache was opened.
    """

    boxes: _core.Annotations
    objects: Columns
    images: Columns
    ragged: Mapping[str, Ragged]
    columns: Mapping[str, Column]
    box_offsets: NDArray[np.int64]
    source_sizes: NDArray[np.int32]
    check: Callable[[], None]

    @cached_property
    def mask_shapes(self) -> _core.MaskShapes | None:
        """The polygons and run lengths of objects, from which the core draws masks; None if there are none."""
        known = {name: values for name, values in self.ragged.items() if values.column in (POLYGONS, RLE)}
        polygons, run_lengths = known.get(POLYGONS.name), known.get(RLE.name)
        if polygons is None and run_lengths is None:
            return None
        return _core.MaskShapes(
            np.ascontiguousarray(self.box_offsets, np.int64),
            np.ascontiguousarray(self.source_sizes, np.int32),
            None if polygons is None else (polygons.values, polygons.offsets[0], polygons.offsets[1]),
            None if run_lengths is None else (run_lengths.values, run_lengths.offsets[0]),
        )

    @property
    def has_objects(self) -> bool:
        """Whether objects have extra columns."""
        return bool(self.objects) or any(values.column.per == "object" for values in self.ragged.values())

    def of_objects(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the extra columns of objects `rows` (...) as (..., *shape); 0 where the row is -1."""
        found = {name: column.take(rows, 0) for name, column in self.objects.items()}
        padding = rows < 0
        for values in found.values():
            values[padding] = 0
        self.check()
        return found

    def lists_of_objects(self, rows: NDArray[np.int64]) -> dict[str, Ragged]:
        """Return the ragged columns of objects `rows` (n), which must not be negative."""
        found = {name: values[rows] for name, values in self.ragged.items() if values.column.per == "object"}
        self.check()
        return found

    def of_images(self, index: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the extra columns of images `index` (B) as (B, *shape)."""
        found = {name: column.take(index, 0) for name, column in self.images.items()}
        self.check()
        return found
