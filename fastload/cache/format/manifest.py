"""The manifest of a cache: its content and the checksums of its index. It is written last and completes the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import fastload._core as _core
from fastload.annotations import OFFSETS_DTYPE, Column, Per
from fastload.cache.format.index import Index, shape_of
from fastload.cache.format.layout import INDEX, OPTIONAL, VERSION
from fastload.sources.base import Category


@dataclass(frozen=True)
class Manifest:
    """The manifest of a cache of this format version."""

    encoding: str  # the requested encoding; single records may have another one
    images: int
    boxes: int
    categories: tuple[Category, ...]
    source: dict[str, Any]  # dataset and settings from which it was built
    # by name: dtype, shape, checksum (hex) and `Column.traits`; includes arrays that this version does not support
    arrays: dict[str, dict[str, Any]]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The extra columns. ValueError if their entries are invalid."""
        found = (Column.of_array(key, array, self._counts) for key, array in sorted(self.arrays.items()))
        columns = tuple(column for column in found if column is not None)
        if len({column.name for column in columns}) < len(columns):
            raise ValueError("two columns have the same name")
        return columns

    @property
    def array_names(self) -> list[str]:
        """The arrays that this version reads."""
        return [*INDEX, *self._optional, *(key for column in self.columns for key in column.keys)]

    @property
    def fingerprint(self) -> str:
        """Hex digest that changes whenever images or annotations change, but not if the dataset is moved."""
        content = [self.encoding, [asdict(category) for category in self.categories], self.arrays]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the stored form of the manifest: a line with its checksum, then JSON."""
        fields = {"version": VERSION, "fingerprint": self.fingerprint, **asdict(self)}
        text = json.dumps(fields, sort_keys=True).encode()
        return b"xxh64=%016x\n" % _core.xxh64(text) + text

    @classmethod
    def from_bytes(cls, stored: bytes) -> Manifest:
        """Read a manifest. ValueError if it is damaged, invalid or of another version."""
        line, _, text = stored.partition(b"\n")
        if line != b"xxh64=%016x" % _core.xxh64(text):
            raise ValueError("its manifest is damaged")
        try:
            fields = json.loads(text)
        except RecursionError as error:
            raise ValueError("its manifest is nested too deeply") from error
        if not isinstance(fields, dict) or fields.get("version") != VERSION:
            raise ValueError(f"it has another version of the cache format than {VERSION}, which this fastload supports")
        try:
            manifest = cls(
                encoding=str(fields["encoding"]),
                images=int(fields["images"]),
                boxes=int(fields["boxes"]),
                categories=tuple(Category(**category) for category in fields["categories"]),
                source=dict(fields["source"]),
                arrays={name: dict(array) for name, array in fields["arrays"].items()},
            )
            manifest._check_arrays()
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ValueError(f"its manifest is invalid ({error!r})") from error
        return manifest

    @property
    def _optional(self) -> list[str]:
        plain = {"dtype", "shape", "checksum"}
        entries = {name: self.arrays[name] for name in OPTIONAL if name in self.arrays}
        return [name for name, each in entries.items() if each.keys() == plain and each["dtype"] == OPTIONAL[name][0]]

    @property
    def _counts(self) -> dict[Per, int]:
        return {"image": self.images, "object": self.boxes}

    def _check_arrays(self) -> None:
        name_bytes = self.arrays["names"]["shape"][0]
        for name, (dtype, _) in INDEX.items():
            array = self.arrays[name]
            if array["dtype"] != dtype or tuple(array["shape"]) != shape_of(name, self.images, self.boxes, name_bytes):
                raise ValueError(name)
        for name in self._optional:
            if tuple(self.arrays[name]["shape"]) != (self.images, *OPTIONAL[name][1]):
                raise ValueError(name)
        for column in self.columns:
            for level, name in enumerate(column.keys[1:]):
                (length,) = self.arrays[name]["shape"]
                known = length > 0 if level else length == self._counts[column.per] + 1
                if self.arrays[name]["dtype"] != OFFSETS_DTYPE or type(length) is not int or not known:
                    raise ValueError(name)
        for name in self.array_names:
            int(self.arrays[name]["checksum"], 16)


def describe_arrays(index: Index, columns: Iterable[Column] = ()) -> dict[str, dict[str, Any]]:
    """Return the manifest's entry for each array of an index. `columns` must include all extra columns with traits."""
    traits = {column.key: column.traits for column in columns}
    return {
        name: {
            "dtype": array.dtype.str.lstrip("|"),
            "shape": list(array.shape),
            "checksum": f"{_core.xxh64(array.tobytes()):016x}",
            **traits.get(name, {}),
        }
        for name, array in index.items()
    }
