"""COCO: a JSON file with images, annotations and categories, and an image folder."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column, Per, Ragged
from fastload.errors import SourceError
from fastload.sources.advice import PYTHON
from fastload.sources.base import FOUND_BY_NAME, NO_FLIP_PAIRS, SKIPPED, Category, Extras, Problem, Sample
from fastload.sources.coco_objects import DROPPED, CocoObjects, KeptFields, shown
from fastload.sources.coco_values import NOT_AN_ID, quote_polygons, whole_number
from fastload.sources.columns import Fields, read_columns
from fastload.sources.files import find_named, unlisted_images
from fastload.sources.flip_pairs import FlipPairs, pairs_of_names
from fastload.sources.json_lists import JsonLists

MANY_FILES = 64  # annotation files in one folder: more are not those of splits
_NAMES = re.compile(rb'"(?:file_name|coco_url)"\s*:\s*("(?:[^"\\]|\\.)*")')
NO_ID = -1  # in the problems of images without an id, or of all images


class CocoSource:
    """A COCO annotation file with its image folder, in the order of the file's `images`.

    An annotation without `bbox` has the box around its polygons or its mask.

    Args:
        annotations: the annotation file.
        images: the image folder. The file names of images are relative to it, or end in the path in it.
        columns: extra fields of annotations or images to keep (see `Request`).
        masks: whether to keep `segmentation`: polygons as the column `polygons`, run lengths as the column `rle`.
        keypoints: whether to keep `keypoints`.

    Raises:
        SourceError: the file cannot be read or is invalid, or has no masks or keypoints although they are requested.
    """

    format = "coco"

    def __init__(
        self,
        annotations: Path,
        images: Path,
        columns: Sequence[str] = (),
        masks: bool = False,
        keypoints: bool = False,
    ) -> None:
        self.location = str(annotations)
        self.path, self.folder = annotations, images
        self._notes: list[Problem] = []
        listed, objects = _Images(columns), CocoObjects(Extras(columns, masks, keypoints))
        categories: list[dict[str, Any]] = []
        self.digest = self._read({"images": listed.add, "annotations": objects.add, "categories": categories.extend})
        self.categories = self._categories(categories)
        if not any(listed.names) and (listed.problems or listed.ids):
            reason = listed.problems[0].reason if listed.problems else "no image has a `file_name`"
            raise SourceError(f"{annotations}: {reason}. Each image needs an `id` and a `file_name`: correct the file.")
        self._names, self._files = listed.names, find_named(images, listed.names)
        self._ids, self._sizes = np.array(listed.ids, np.int64), np.array(listed.sizes, np.int64).reshape(-1, 2)
        self._objects = objects.finish()
        image_of = self._objects.pop("image_id")
        position = self._positions(image_of)
        extra: dict[Column, Any] = {}
        if masks:
            sizes = np.where(position[:, None] >= 0, np.append(self._sizes, [[0, 0]], 0)[position], 0)
            extra |= self._found("segmentation", objects.masks(sizes[:, ::-1]), len(position))
        if keypoints:
            names = _keypoint_names(categories)
            flip_pairs = self._flip_pairs(names)
            counts = {id: len(each) for id, each in names.items()}
            found = objects.keypoints(self._objects["label"], counts, flip_pairs)
            extra |= self._found("keypoints", found, len(position))
        fields: dict[Per, Sequence[Fields]] = {"object": objects.kept.fields, "image": listed.kept.fields}
        extra |= dict(read_columns(columns, fields, str(annotations), partial(_name_of, fields)))
        self.columns = tuple(extra)
        self._objects |= {column.name: values for column, values in extra.items() if column.per == "object"}
        self._of_images = {column.name: values for column, values in extra.items() if column.per == "image"}
        dropped = np.zeros(len(position), np.bool_)
        dropped[[*objects.dropped]] = True
        kept = np.flatnonzero((position >= 0) & ~dropped)
        order = np.argsort(position[kept], kind="stable")
        self._rows = kept[order]
        self._starts = np.searchsorted(position[self._rows], np.arange(len(self) + 1))
        unlisted = unlisted_images((file.path for file in self._files), self.location, self._names_in_other_files)
        of_objects = self._object_problems(objects, image_of, position)
        self.problems = (*self._notes, *listed.problems, *self._name_problems(), *unlisted, *of_objects)

    def __len__(self) -> int:
        return len(self._names)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the images from position `start` on."""
        seen = set(self._ids[:start].tolist())
        for i in range(start, len(self)):
            id, (width, height) = int(self._ids[i]), self._sizes[i].tolist()
            reason = self._files[i].reason
            if not self._names[i]:
                reason = "it has no `file_name`"
            elif id in seen:
                reason = reason or f"an earlier image has the same id {id}"
            seen.add(id)
            size = (width, height) if width and height else None
            yield Sample(id, self._names[i], Path(self._files[i].path), self._columns_of(i), size, reason)

    def _columns_of(self, i: int) -> dict[str, Any]:
        rows = self._rows[self._starts[i] : self._starts[i + 1]]
        objects: dict[str, Any] = {name: values[rows] for name, values in self._objects.items()}
        lists = {name: values.lists() for name, values in objects.items() if isinstance(values, Ragged)}
        return objects | lists | {name: values[i] for name, values in self._of_images.items()}

    def _read(self, add: Mapping[str, Callable[[list[Any]], None]]) -> str:
        """Read the lists of the file, and return its digest."""
        lists = JsonLists(self.path, quote_polygons)
        no_list = "{}: `{}` must be a list of JSON objects. Correct the file."
        for key, entries in lists.batches():
            if key in add:
                if not all(isinstance(entry, dict) for entry in entries):
                    raise SourceError(no_list.format(self.path, key))
                add[key](entries)
        if not {"images", "categories"} <= lists.starts.keys():
            raise SourceError(
                f"{self.path} is not a COCO instances file: it has no `images` or no `categories`. Use another, or in "
                f"Python {PYTHON}."
            )
        if lists.starts.get("annotations") == "n":  # null
            del lists.starts["annotations"]
        if wrong := [key for key in add if lists.starts.get(key, "[") != "["]:
            raise SourceError(no_list.format(self.path, wrong[0]))
        return lists.digest

    def _categories(self, entries: list[dict[str, Any]]) -> tuple[Category, ...]:
        categories = []
        for entry in entries:
            id = whole_number(entry.get("id"))
            if id is None or not isinstance(entry.get("name"), str):
                raise SourceError(
                    f"{self.path}: a category needs an integer `id` and a `name`: {entry}. Correct the file."
                )
            categories.append(Category(id, entry["name"], str(entry.get("supercategory") or "")))
        if len({category.id for category in categories}) < len(categories):
            raise SourceError(f"{self.path}: two categories have the same id. Give each its own.")
        return tuple(sorted(categories, key=lambda category: category.id))

    def _found(self, field: str, columns: Mapping[Column, Any], annotations: int) -> Mapping[Column, Any]:
        if annotations and not columns:
            raise SourceError(f"{self.path}: no annotation has `{field}`. Use another file, or build without them.")
        return columns

    def _flip_pairs(self, names: Mapping[int, list[Any]]) -> FlipPairs:
        """Return the keypoints to exchange in mirrored images, by the names of keypoints by category."""
        why = "no category names them"
        try:
            if names:
                return pairs_of_names(names.values())
        except ValueError as error:
            why = str(error)
        reason = f"left and right keypoints are not exchanged when an image is mirrored, since {why}"
        self._notes.append(Problem(NO_ID, self.location, NO_FLIP_PAIRS, reason))
        return ()

    def _positions(self, image_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of the image of each annotation, the first of several with the same id; -1: unlisted."""
        if not len(self._ids):
            return np.full(len(image_of), -1)
        ordered = np.argsort(self._ids, kind="stable")
        found = np.minimum(np.searchsorted(self._ids[ordered], image_of), len(ordered) - 1)
        return np.where(self._ids[ordered[found]] == image_of, ordered[found], -1)

    def _name_problems(self) -> Iterator[Problem]:
        """Yield one problem for all the images whose files are not where their names say."""
        moved = [i for i, file in enumerate(self._files) if not file.stated and not file.reason]
        if moved:
            where = f"{self._names[moved[0]]} is {self._files[moved[0]].path}"
            reason = f"{len(moved)} images were found by the last parts of their names: {where}"
            yield Problem(NO_ID, self.location, FOUND_BY_NAME, reason)

    def _names_in_other_files(self) -> set[str]:
        """Return the file names, without folders, that the other JSON files in the folder have."""
        found: set[str] = set()
        others = [path for path in self.path.parent.glob("*.json") if path.name != self.path.name]
        for path in others if len(others) < MANY_FILES else []:
            with (
                suppress(OSError, ValueError),
                open(path, "rb") as stream,
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                names = (json.loads(match[1]) for match in _NAMES.finditer(content))
                found.update(name.replace("\\", "/").rpartition("/")[2] for name in names)
        return found

    def _object_problems(
        self, objects: CocoObjects, image_of: NDArray[np.int64], position: NDArray[np.int64]
    ) -> Iterator[Problem]:
        unlisted = np.flatnonzero(position < 0).tolist()
        dropped = dict.fromkeys(unlisted, "its image is not listed") | objects.dropped
        found = [(row, DROPPED, reason) for row, reason in sorted(dropped.items())]
        for row, kind, reason in [*found, *objects.problems]:
            image = NO_ID if image_of[row] == NOT_AN_ID else int(image_of[row])
            name = self._names[position[row]] if position[row] >= 0 else ""
            yield Problem(image, name, kind, f"{objects.name(row)}: {reason}")


class _Images:
    """The images of a COCO file, collected batch by batch."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.kept = KeptFields(columns)
        self.ids: list[int] = []
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []  # width, height; 0 if not stated
        self.problems: list[Problem] = []

    def add(self, entries: list[dict[str, Any]]) -> None:
        """Read the next images."""
        usable = []
        for entry in entries:
            id, name = whole_number(entry.get("id")), file_name(entry)
            if id is None:
                reason = f"an image has no whole number as its id: {shown(entry)}"
                self.problems.append(Problem(NO_ID, name, SKIPPED, reason))
                continue
            usable.append(entry)
            self.ids.append(id)
            self.names.append(name)
            width, height = (whole_number(entry.get(side)) or 0 for side in ("width", "height"))
            self.sizes.append((max(width, 0), max(height, 0)))
        self.kept.add(usable)


def file_name(image: Mapping[str, Any]) -> str:
    """Return the file name of an image: in LVIS, which has none, the last two parts of `coco_url`."""
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str):
        return name
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) else ""


def _keypoint_names(categories: list[dict[str, Any]]) -> dict[int, list[Any]]:
    """Return the names of keypoints by category id, for the categories that have some."""
    stated = {whole_number(entry["id"]): entry.get("keypoints") for entry in categories}
    return {id: names for id, names in stated.items() if id is not None and isinstance(names, list) and names}


def _name_of(entries: dict[Per, Sequence[Fields]], per: Per, i: int) -> str:
    return f"{'annotation' if per == 'object' else 'image'} {entries[per][i].get('id')}"
