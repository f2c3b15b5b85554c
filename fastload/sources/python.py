"""Samples from Python: a torch `Dataset`, or any sequence or iterable of dicts."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastload.annotations import CLASS_ID, POLYGONS, RLE, ROTATED, Column, keypoints_column
from fastload.errors import SourceError
from fastload.sources.base import Category, Problem, Sample
from fastload.sources.files import digest_of
from fastload.sources.run_lengths import encode

BoxFormat: TypeAlias = Literal["xyxy", "xywh", "cxcywh"]
Classes: TypeAlias = Sequence[str] | Mapping[int, str]
LOOKED_AT = 100  # at most as many samples are read in advance, to find one with objects
_TO_XYXY: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "xyxy": lambda boxes: boxes,
    "xywh": lambda boxes: np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
    "cxcywh": lambda boxes: np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1),
}
_SCHEMA = {"boxes": "boxes", "labels": "label", "iscrowd": "crowd", "area": "area", "annotation_id": "annotation_id"}
_KEYS = {"image", "name", "image_id", *_SCHEMA}  # that are no extra columns
_SHARED = {column.name: column for column in (POLYGONS, ROTATED, RLE, CLASS_ID)}
_TYPES = {"b": "bool", "i": "int64", "u": "int64", "f": "float32"}  # of columns, by the kind of their values


class Indexable(Protocol):
    """What torch's `Dataset` offers."""

    def __getitem__(self, index: int, /) -> Any: ...


Samples: TypeAlias = Iterable[Any] | Indexable


class PythonSource:
    """Samples that are Python objects (docs/caches.md says what a sample may be).

    Extra columns are those of the first sample that has objects. At most 100 samples are read to find it.

    Args:
        samples: dicts or (image, target) pairs. With `__len__` and `__getitem__`, a build can be resumed.
        classes: the names of the classes, numbered from 0, or a dict of id: name. Default: `samples.classes`.
        box_format: "xyxy", "xywh" or "cxcywh", in pixels.
        columns: further extra columns, such as those that the first samples do not have.
        fingerprint: changes whenever the samples change. Default: made from all annotations and paths of a list, and
            from the length and first samples of another sequence. An iterator always counts as changed.

    Raises:
        SourceError: the samples cannot be read, or are no samples.
    """

    format = "python"
    problems: tuple[Problem, ...] = ()

    def __init__(
        self,
        samples: Samples,
        classes: Classes | None = None,
        box_format: BoxFormat = "xyxy",
        columns: Sequence[Column] = (),
        fingerprint: str | None = None,
    ) -> None:
        listed = hasattr(samples, "__iter__") or hasattr(samples, "__getitem__")
        if isinstance(samples, str | bytes | os.PathLike | Mapping) or not listed:
            raise SourceError(
                f"{samples!r:.200} is no sequence of samples: give a list of dicts or a torch Dataset. To build from a "
                "folder, use find_datasets."
            )
        if box_format not in _TO_XYXY:
            raise SourceError(f"unknown box format {box_format!r}: use one of {', '.join(_TO_XYXY)}.")
        self.location = f"{type(samples).__module__}.{type(samples).__qualname__}"
        self.categories = _categories(getattr(samples, "classes", None) if classes is None else classes)
        self._id_of = {category.name: category.id for category in self.categories}
        self._ids = np.array([category.id for category in self.categories], np.int64)
        self._box_format = box_format
        self._is_sequence = hasattr(samples, "__len__") and hasattr(samples, "__getitem__")
        self._items: Any = samples
        if not self._is_sequence:
            self._items = iter(self._items)
        first = self._first_samples()
        found = self._columns_of(len(first) - 1, first[-1]) if first else ()
        self._columns = {column.name: column for column in (*found, *columns)}
        self.columns = tuple(self._columns.values())
        self._count = len(self._items) if self._is_sequence else len(first)
        stated = [self._count, box_format, self.categories, self.columns]
        contents = self._items if isinstance(samples, list) else first
        parts = [stated, [fingerprint]] if fingerprint is not None else chain([stated], contents)
        self.digest = digest_of(*(json.dumps(each, default=_described).encode() for each in parts))
        if not self._is_sequence:
            self._items, self.digest = chain(first, self._items), uuid.uuid4().hex

    def __len__(self) -> int:
        return self._count

    def samples(self, start: int = 0, earlier_ids: Iterable[int] = ()) -> Iterator[Sample]:
        """Yield the samples from position `start` on. An iterator can be read only once.

        Args:
            start: the position of the first sample.
            earlier_ids: the image ids of the samples before it, which are not read again.
        """
        seen = set(earlier_ids)
        for i, item in enumerate(self._read(start), start):
            with _naming(i):
                sample = self._sample(i, _fields_of(item))
            if sample.image_id in seen:
                sample = replace(sample, skip_reason=f"an earlier sample has the same image_id {sample.image_id}")
            seen.add(sample.image_id)
            yield sample

    def files_to_compare(self) -> Iterator[Sample]:
        """Yield the samples of a list without their columns, to compare the files. Nothing else is read again."""
        for i, item in enumerate(self._items if isinstance(self._items, list) else ()):
            with _naming(i):
                fields = _fields_of(item)
                is_file = isinstance(fields["image"], str | os.PathLike)
                yield _image_of(i, fields if is_file else {**fields, "image": b""})

    def _read(self, start: int) -> Iterator[Any]:
        """Yield the items from position `start` on. Errors of the user's code get the index."""
        items = map(self._items.__getitem__, range(start, self._count)) if self._is_sequence else self._items
        for i in count(start):
            try:
                item = next(items)
            except Exception as error:
                if isinstance(error, StopIteration) and (i >= self._count or not self._is_sequence):
                    return
                reason = f"{type(error).__name__}: {error}"
                raise SourceError(f"sample {i} cannot be read: {reason}. Correct it in the dataset.") from error
            yield item

    def _first_samples(self) -> list[Any]:
        """Return the samples up to the first one that has objects, or that has no `boxes` at all."""
        self._count = len(self._items) if self._is_sequence else 0
        first = []
        for i, item in enumerate(self._read(0)):
            first.append(item)
            with _naming(i):
                boxes = _fields_of(item).get("boxes")
                if boxes is None or len(boxes) or len(first) == LOOKED_AT:
                    break
        return first

    def _columns_of(self, i: int, item: Any) -> list[Column]:
        with _naming(i):
            fields = _fields_of(item)
            names = sorted(name for name in fields.keys() - _KEYS if fields[name] is not None)
            return [_column_of(name, fields) for name in names]

    def _sample(self, i: int, fields: dict[str, Any]) -> Sample:
        sample = _image_of(i, fields)
        boxes = self._boxes_of(fields)
        given: dict[str, Any] = {**fields, "boxes": boxes, "labels": self._labels_of(fields, len(boxes))}
        if fields.get("masks") is not None:
            masks = _numbers("masks", fields["masks"], (len(boxes), "H", "W"))
            given["rle"] = [np.frombuffer(encode(mask != 0), np.uint8) for mask in masks]
            sample = replace(sample, size=(masks.shape[2], masks.shape[1]) if len(boxes) else sample.size)
        if CLASS_ID.name in self._columns:
            given[CLASS_ID.name] = self._ids_of(CLASS_ID.name, fields.get(CLASS_ID.name), ())
        columns = {}
        for key in given.keys() - {"image", "name", "image_id", "masks"}:
            name = _SCHEMA.get(key, key)
            if key not in _SCHEMA and name not in self._columns:
                raise ValueError(f"`{name}` is new: declare it by columns=[Column({name!r}, ...)], or remove it.")
            if given[key] is not None:
                ragged = key in self._columns and self._columns[key].ragged
                columns[name] = given[key] if ragged else _array(given[key])
        if "keypoints" in columns and columns["keypoints"].shape[2:] == (2,):
            there = np.any(columns["keypoints"] != 0, 2, keepdims=True)
            columns["keypoints"] = np.concatenate([columns["keypoints"], np.where(there, 2, 0)], 2)
        return replace(sample, columns=columns)

    def _boxes_of(self, fields: Mapping[str, Any]) -> NDArray[np.float64]:
        boxes = fields.get("boxes")
        if boxes is None:
            if objects := {"labels", "masks", "keypoints"} & {key for key in fields if fields[key] is not None}:
                raise ValueError(f"`boxes` is missing beside `{min(objects)}`: give one box per object.")
            boxes = ()
        stated = getattr(getattr(boxes, "format", None), "name", self._box_format)  # torchvision's BoundingBoxes know
        if stated.lower() not in _TO_XYXY:
            raise ValueError(f"`boxes` are {stated}: give one of {', '.join(_TO_XYXY)}.")
        return _TO_XYXY[stated.lower()](_numbers("boxes", boxes, ("n", 4)).astype(np.float64))

    def _labels_of(self, fields: Mapping[str, Any], boxes: int) -> NDArray[np.int64]:
        labels = fields.get("labels")
        return self._ids_of("labels", labels, (boxes,)) if boxes or labels is not None else np.zeros(0, np.int64)

    def _ids_of(self, key: str, given: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Return class ids for ids or names."""
        if given is None:
            raise ValueError(f"`{key}` is missing: give ids or names of classes.")
        if not self.categories:
            raise ValueError(f"`{key}` needs classes: write build_cache(samples, path, classes=[...]).")
        array = _array(given)
        if array.shape != shape and (array.size != 1 or shape):
            raise ValueError(f"`{key}` has shape {array.shape}: give ids or names of classes of shape {shape}.")
        if not array.size:
            return np.zeros(shape, np.int64)
        ids = array.reshape(-1).tolist()
        if array.dtype.kind in "UO":
            ids = [self._id_of.get(name, name) for name in ids]
        elif array.dtype.kind not in "iu":
            raise ValueError(f"`{key}` is {array.dtype}: give ids or names of classes.")
        if unknown := set(ids).difference(self._id_of.values()):
            raise ValueError(
                f"`{key}` has {unknown.pop()!r}, which is none of the classes. A list of classes is numbered from 0: "
                "for other ids, write classes={id: name, ...}."
            )
        return np.array(ids, np.int64).reshape(shape)


@contextmanager
def _naming(i: int) -> Iterator[None]:
    """Name the sample in errors of its content."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise SourceError(f"sample {i}: {error}") from error


def _categories(classes: Any) -> tuple[Category, ...]:
    numbered = classes if isinstance(classes, Mapping) else dict(enumerate(classes or ()))
    names = list(numbered.values())
    if isinstance(classes, str) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise SourceError(f"`classes` is {classes!r}: give a list of different names, or a dict of id: name.")
    return tuple(Category(int(id), name) for id, name in sorted(numbered.items()))


def _fields_of(item: Any) -> dict[str, Any]:
    """Return a sample as a dict with `image`."""
    if isinstance(item, Mapping):
        if item.get("image") is None:
            keys = ", ".join(map(str, item)) or "none"
            raise ValueError(f"`image` is missing (its keys: {keys}): give a path, bytes, a PIL image or an array.")
        return dict(item)
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(f"it is a {type(item).__name__}: give a dict with `image`, or a pair (image, target).")
    image, target = item
    if isinstance(target, Mapping):
        return {**target, "image": image}
    if target is None or isinstance(target, str) or (not isinstance(target, list) and _array(target).size == 1):
        return {"image": image, CLASS_ID.name: target}
    raise ValueError(
        f"its target is a {type(target).__name__}: give a class, or a dict with `boxes` and `labels`, as torchvision's "
        "wrap_dataset_for_transforms_v2 makes."
    )


def _image_of(i: int, fields: Mapping[str, Any]) -> Sample:
    """Return the sample of an image, without columns."""
    image, name, stated = fields["image"], fields.get("name"), fields.get("image_id")
    image_id = _array(i if stated is None else stated)
    if image_id.size != 1 or image_id.dtype.kind not in "iu":
        raise ValueError(f"`image_id` is {stated!r:.60}: give an integer.")
    if isinstance(image, str | os.PathLike):
        return Sample(int(image_id.item()), str(name or Path(image).name), Path(image))
    sample = Sample(int(image_id.item()), str(name or f"sample {i}"), Path())
    if isinstance(image, bytes | bytearray | memoryview):
        return replace(sample, data=bytes(image))
    if isinstance(image, Image.Image):
        return replace(sample, data=_unread(image) or image, size=image.size)
    return replace(sample, data=_pixels(image))


def _unread(image: Any) -> bytes | None:
    """Return the file of a PIL image whose pixels have not been read, and so not been changed; else None."""
    file = getattr(image, "fp", None)
    if not getattr(image, "tile", None) or file is None:
        return None
    position = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(position)
    return data


def _pixels(image: Any) -> NDArray[np.uint8]:
    array = _array(image)
    if array.dtype != np.uint8:
        raise ValueError(f"`image` is {array.dtype}: give uint8, 0 to 255 (torchvision: PILToTensor, not ToTensor).")
    first, last = (array.ndim == 3 and array.shape[axis] in (1, 3) for axis in (0, 2))
    if first and (hasattr(image, "detach") or not last):  # tensors are CHW rather than HWC
        array = np.moveaxis(array, 0, 2)
    elif not last and array.ndim != 2:
        raise ValueError(f"`image` has shape {array.shape}: give (H, W, 3), (3, H, W), or (H, W) for gray.")
    return np.array(array[..., 0] if array.shape[2:] == (1,) else array)  # a copy, because a dataset may reuse memory


def _column_of(name: str, fields: Mapping[str, Any]) -> Column:
    """Return the column for such values as this sample has."""
    if name == "masks" or name in _SHARED:
        return _SHARED.get(name, RLE)
    boxes = fields.get("boxes")
    array, objects = _array(fields[name]), 0 if boxes is None else len(boxes)
    if name == "keypoints" and array.ndim == 3:
        return keypoints_column(array.shape[1])
    per_object = array.shape[:1] == (objects,)
    if array.dtype.kind not in _TYPES or (array.ndim and not per_object):
        raise ValueError(
            f"`{name}` is {array.dtype} of shape {array.shape} beside {objects} boxes: give a number per image or per "
            f"object, declare it by columns=[Column({name!r}, ...)], or remove it."
        )
    dtype = _TYPES[array.dtype.kind]
    default = np.nan if dtype == "float32" else 0
    return Column(name, dtype, "object" if per_object else "image", array.shape[per_object:], default=default)


def _numbers(name: str, given: Any, shape: tuple[int | str, ...]) -> NDArray[Any]:
    """Return numbers of this shape, where a name stands for any length. Without numbers there are no rows."""
    array = _array(given)
    if not array.size and shape[0] in (0, "n"):
        return np.zeros([0 if isinstance(length, str) else length for length in shape])
    fits = array.ndim == len(shape) and all(n in (m, "n", "H", "W") for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in "buif":
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"`{name}` is {array.dtype} of shape {array.shape}: give numbers of shape ({wanted}).")
    return array


def _array(given: Any) -> NDArray[Any]:
    """Return an array for numbers, lists, and tensors on any device."""
    return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)


def _described(value: Any) -> Any:
    """Return what JSON can hold of a value, for the digest."""
    if isinstance(value, bytes):
        return digest_of(value)
    if isinstance(value, Image.Image):
        value = _unread(value) or value
        return (
            [value.mode, *value.size, digest_of(value.tobytes())]
            if isinstance(value, Image.Image)
            else digest_of(value)
        )
    if hasattr(value, "__array__"):
        array = _array(value)
        return [str(array.dtype), *array.shape, digest_of(array.tobytes())]
    return str(value)
