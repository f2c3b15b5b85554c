"""Extra columns from fields of annotations and images, which are found by name, checked and converted to arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import DTYPES, Column, Per
from fastload.errors import SourceError

Fields = Mapping[str, Any]  # the fields of an annotation or an image
_TYPES = {"b": "bool", "i": "int64", "u": "int64", "f": "float32"}  # default types, by NumPy's kind of the values
_REQUEST = re.compile(r"(?:(image)/)?(\w+)(?::(\w+))?")
_WOULD_NOT_MOVE = {"bbox", "segmentation", "keypoints"}  # these fields are coordinates


@dataclass(frozen=True)
class Request:
    """A field that is requested as a column."""

    name: str
    dtype: str | None  # None: according to its values
    of_images: bool  # only look for it in images, even if annotations have it too

    @classmethod
    def of(cls, text: str) -> Request:
        """Parse `NAME`, `NAME:TYPE`, `image/NAME` or `image/NAME:TYPE`. SourceError if it cannot be a column."""
        match = _REQUEST.fullmatch(text)
        if match is None or match[3] not in (None, *DTYPES):
            raise SourceError(f"{text!r} is not a column: use NAME or NAME:TYPE with TYPE one of {', '.join(DTYPES)}.")
        if match[2] in _WOULD_NOT_MOVE:
            raise SourceError(f"{match[2]} cannot be a column: its coordinates would not move with the image.")
        try:
            Column(match[2], match[3] or "bool")
        except ValueError as error:
            raise SourceError(f"{error}.") from error
        return cls(match[2], match[3], match[1] is not None)


def read_columns(
    names: Sequence[str], entries: Mapping[Per, Sequence[Fields]], where: str, name_of: Callable[[Per, int], str]
) -> list[tuple[Column, NDArray[Any]]]:
    """Return the requested columns and their values for all objects or images.

    Missing and null values are 0, or NaN in floating-point columns.

    Args:
        names: the columns, as `Request.of` parses them. A plain NAME is a field of objects, or of images if no object
            has it.
        entries: the fields of each object and each image.
        where: the dataset, for error messages.
        name_of: returns the name of an object or image in `entries`, for error messages.

    Raises:
        SourceError: a field does not exist, or its values are not numbers.
    """
    read = []
    for request in map(Request.of, names):
        kinds: tuple[Per, ...] = ("image",) if request.of_images else ("object", "image")
        found = (per for per in kinds if any(fields.get(request.name) is not None for fields in entries[per]))
        per = next(found, None)
        if per is None:
            there = sorted({name for kind in kinds for fields in entries[kind] for name in fields})
            raise SourceError(f"{where} has no field `{request.name}`. Its fields: {', '.join(there) or 'none'}.")
        values = [fields.get(request.name) for fields in entries[per]]
        try:
            read.append(_read_column(request, per, values))
        except (ValueError, TypeError, OverflowError) as error:
            wrong = name_of(per, _first_wrong(request, per, values))
            raise SourceError(
                f"{where}: `{request.name}` cannot be a column: see {wrong}. Each value must be a number, or a list of "
                f"numbers as long as the others, that fits the type of the column ({error})."
            ) from error
    if len({column.name for column, _ in read}) < len(read):
        raise SourceError(f"{where}: a column is requested twice: {', '.join(names)}.")
    return read


def _read_column(request: Request, per: Per, values: Sequence[Any]) -> tuple[Column, NDArray[Any]]:
    there = np.array([value is not None for value in values], np.bool_)
    given = np.array([value for value in values if value is not None])
    if given.dtype.kind not in _TYPES:
        raise ValueError("not numbers")
    dtype = request.dtype or _TYPES[given.dtype.kind]
    column = Column(request.name, dtype, per, given.shape[1:], default=np.nan if dtype.startswith("float") else 0)
    array = np.full((len(values), *column.shape), column.default, dtype)
    array[there] = column.stored(given)
    return column, array


def _first_wrong(request: Request, per: Per, values: Sequence[Any]) -> int:
    """The first value that does not fit in a column with the first one."""
    first = next(i for i, value in enumerate(values) if value is not None)
    for i in range(first, len(values)):
        try:
            _read_column(request, per, [values[first], values[i]])
        except (ValueError, TypeError, OverflowError):
            return i
    return first
