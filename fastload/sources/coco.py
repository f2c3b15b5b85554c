"""COCO: a JSON file with images, annotations and categories, and an image folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Per
from fastload.errors import SourceError
from fastload.sources.base import Category, Problem, Sample
from fastload.sources.columns import read_columns
from fastload.sources.files import digest_of, inside, read_bytes

INVALID_BOX = (np.nan,) * 4


class CocoSource:
    """A COCO annotation file with its image folder, in the order of the file's `images`.

    Args:
        annotations: the annotation file.
        images: the image folder.
        columns: extra fields of annotations or images to keep (see `Request`).

    Raises:
        SourceError: the file cannot be read or is invalid.
    """

    format = "coco"

    def __init__(self, annotations: Path, images: Path, columns: Sequence[str] = ()) -> None:
        self.location = str(annotations)
        self.path, self.folder = annotations, images
        content = read_bytes(annotations)
        self.digest = digest_of(content)
        document = self._parse(content)
        self.categories = self._categories(document)
        self.images = self._entries(document, "images")
        self._check_images()
        self._read_annotations(document.get("annotations") or [], columns)
        self.problems = self._orphans()

    def __len__(self) -> int:
        return len(self.images)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the images from position `start` on."""
        seen = {image["id"] for image in self.images[:start]}
        for i, image in enumerate(self.images[start:], start):
            yield self._sample(i, image, duplicate=image["id"] in seen)
            seen.add(image["id"])

    def _sample(self, i: int, image: dict[str, Any], duplicate: bool) -> Sample:
        name = image["file_name"]
        path = inside(self.folder, name)
        skip_reason = None
        if path is None:
            skip_reason = "its file name points outside the image folder"
        elif duplicate:
            skip_reason = f"an earlier image has the same id {image['id']}"
        return Sample(
            image_id=image["id"],
            name=name,
            path=path or self.folder,
            columns=self._columns_of(i, image["id"]),
            size=_size(image),
            skip_reason=skip_reason,
        )

    def _columns_of(self, i: int, image_id: int) -> dict[str, NDArray[Any]]:
        rows = slice(*np.searchsorted(self._image_of, [image_id, image_id + 1]))
        objects = {name: values[rows] for name, values in self._objects.items()}
        return objects | {column.name: values[i] for column, values in self._extra if column.per == "image"}

    def _parse(self, content: bytes) -> dict[str, Any]:
        try:
            # Polygons are most of the file and are not used: dropping them while parsing saves memory.
            document = json.loads(content, object_hook=_without_polygons)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self.path} is not valid JSON: {error}. Download or export it again.") from error
        if not isinstance(document, dict) or not {"images", "categories"} <= document.keys():
            raise SourceError(
                f"{self.path} is not a COCO instances file: it has no `images` or no `categories`. Use another."
            )
        return document

    def _entries(self, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
        entries = document[key]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SourceError(f"{self.path}: `{key}` must be a list of JSON objects. Correct the file.")
        return entries

    def _categories(self, document: dict[str, Any]) -> tuple[Category, ...]:
        categories = []
        for entry in self._entries(document, "categories"):
            if not _is_id(entry.get("id")) or not isinstance(entry.get("name"), str):
                raise SourceError(
                    f"{self.path}: a category needs an integer `id` and a `name`: {entry}. Correct the file."
                )
            categories.append(Category(entry["id"], entry["name"], str(entry.get("supercategory") or "")))
        if len({category.id for category in categories}) < len(categories):
            raise SourceError(f"{self.path}: two categories have the same id. Give each its own.")
        return tuple(sorted(categories, key=lambda category: category.id))

    def _check_images(self) -> None:
        for entry in self.images:
            if not _is_id(entry.get("id")) or not isinstance(entry.get("file_name"), str):
                raise SourceError(
                    f"{self.path}: an image needs an integer `id` and a `file_name`: {entry}. Correct the file."
                )

    def _read_annotations(self, annotations: Any, columns: Sequence[str]) -> None:
        if not isinstance(annotations, list) or not all(isinstance(entry, dict) for entry in annotations):
            raise SourceError(f"{self.path}: `annotations` must be a list of JSON objects. Correct the file.")

        def values(read: Callable[[Any], Any], field: str, dtype: type[Any]) -> NDArray[Any]:
            return np.fromiter((read(entry.get(field)) for entry in annotations), dtype, len(annotations))

        xywh = np.array([_four_numbers(entry.get("bbox")) for entry in annotations], np.float64).reshape(-1, 4)
        ids = (_id(entry.get("id", i)) for i, entry in enumerate(annotations))
        objects: dict[str, NDArray[Any]] = {
            "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
            "label": values(_id, "category_id", np.int64),
            "crowd": values(bool, "iscrowd", np.bool_),
            "area": values(_number, "area", np.float64),
            "annotation_id": np.fromiter(ids, np.int64, len(annotations)),
        }
        entries: dict[Per, Any] = {"object": annotations, "image": self.images}
        self._extra = read_columns(columns, entries, str(self.path), partial(_name_of, entries))
        self.columns = tuple(column for column, _ in self._extra)
        objects |= {column.name: array for column, array in self._extra if column.per == "object"}
        image_of = values(_id, "image_id", np.int64)
        order = np.argsort(image_of, kind="stable")
        self._image_of: NDArray[np.int64] = image_of[order]
        self._objects = {name: array[order] for name, array in objects.items()}

    def _orphans(self) -> tuple[Problem, ...]:
        known = np.fromiter((image["id"] for image in self.images), np.int64, len(self.images))
        rows, ids = np.flatnonzero(~np.isin(self._image_of, known)), self._objects["annotation_id"]
        return tuple(
            Problem(int(self._image_of[row]), "", "box dropped", f"annotation {ids[row]} is of an unlisted image")
            for row in rows
        )


def _name_of(entries: dict[Per, Any], per: Per, i: int) -> str:
    return f"{'annotation' if per == 'object' else 'image'} {entries[per][i].get('id')}"


def _without_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62


def _id(value: Any) -> int:
    return value if _is_id(value) else -1


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e30 else np.nan


def _four_numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != 4:
        return INVALID_BOX
    return tuple(_number(number) for number in value)


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) and width and height else None
