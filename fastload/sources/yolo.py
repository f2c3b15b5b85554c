"""YOLO: images in `images`, a text file per image in `labels`, class names and splits in a YAML file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import POLYGONS, ROTATED, Column, keypoints_column
from fastload.errors import SourceError
from fastload.sources.base import NO_LABELS, SKIPPED, Dataset, Pair, Problem, Sample
from fastload.sources.files import digest_of, encode_names, number_categories, number_images, unlisted_images
from fastload.sources.flip_pairs import FlipPairs, pairs_of_order
from fastload.sources.listed import split_beside
from fastload.sources.yolo_layout import NAME_FILES, YoloLayout, list_images, pair_layout, read_layout

LIMIT = 1e6  # of coordinates, which are fractions of the image's size


class Kind(Enum):
    """What the numbers after the class of a label are."""

    SHAPES = "a box of 4 numbers or an outline of 3 or more points"
    ROTATED = "4 corners"
    KEYPOINTS = "a box and the points of `kpt_shape`"


@dataclass(frozen=True, slots=True)
class Labels:
    """One label file.

    Args:
        rows: the class and the coordinates of each line.
        lines: the numbers of these lines, from 1.
        bad: lines that hold no such numbers, with the reason.
    """

    rows: list[NDArray[np.float64]]
    lines: list[int]
    bad: list[tuple[int, str]]


def yolo_splits(root: Path) -> dict[str, str | None]:
    """Return the name of each split, with the reason if the dataset states it but it cannot be read."""
    layout = read_layout(root)
    return {split: layout.missing.get(split) for split in layout.splits}


def pair(given: Pair) -> Dataset:
    """Return the dataset of one folder of label files and one image folder."""
    layout = pair_layout(given.annotations, given.images, given.classes)
    layout.class_names()  # so that the error comes before a build begins
    return split_beside(given.annotations, partial(YoloSource, given.images, "all", layout))


class YoloSource:
    """One split of a YOLO dataset.

    A line of a label file is `class cx cy w h`, or `class x y x y x y ...` for an outline, which is kept in the column
    `polygons` beside the box around it. With `kpt_shape` in the YAML file, a line is a box and keypoints. With
    `task: obb`, or if every line of the dataset has 8 coordinates, these are the corners in the column `rotated`.
    Coordinates are fractions of the image's size. An image without a label file has no objects. Category ids are the
    class numbers plus one.

    Args:
        root: the folder, or its YAML file.
        split: the name of the split, one of `yolo_splits(root)`.
        layout: where the files are. Default: as read from `root`.

    Raises:
        SourceError: the YAML file or a list file cannot be read or is invalid, or there are no class names.
    """

    format = "yolo"

    def __init__(self, root: Path, split: str, layout: YoloLayout | None = None) -> None:
        layout = layout or read_layout(root)
        if split in layout.missing:
            raise SourceError(layout.missing[split])
        images = list_images(layout, split)
        self.location = f"{root} ({split})"
        self.categories = number_categories(layout.class_names())
        self.files, self._reasons = list(images.reasons), dict(images.reasons)
        self.names = [_name_in(images.base, path) for path in self.files]
        self.image_ids = number_images(self.files)
        contents, used = self._read_contents(layout)
        if layout.labels and self.files and not used:
            where = layout.label_paths(self.files[0])[0]
            raise SourceError(f"no image of {root} has a label file: the first would be {where}. Check both folders.")
        labels = [_parse(content) for content in contents]
        self._keypoints = _keypoint_shape(layout)
        self._kind = self._find_kind(layout, split, labels)
        self.problems = (
            *images.problems,
            *_unlisted(layout, split, self.files),
            *self._problems(layout, labels, used),
            *_orphans(layout, images.folders, used),
        )
        self._rows = [[row for row in each.rows if self._fits(len(row))] for each in labels]
        self.columns = self._declared(layout)
        names = [*(category.name for category in self.categories), *self.names]
        traits = [] if self._kind is Kind.SHAPES else [f"{self._kind.name} {self._keypoints}".encode()]
        self.digest = digest_of(encode_names(names, "\n"), *contents, *traits)

    def __len__(self) -> int:
        return len(self.files)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the images from position `start` on."""
        first_id = 1 + sum(len(rows) for rows in self._rows[:start])
        for i in range(start, len(self)):
            rows, reason = self._rows[i], self._reasons[self.files[i]]
            columns = {**self._columns_of(rows), "annotation_id": first_id + np.arange(len(rows))}
            first_id += len(rows)
            yield Sample(self.image_ids[i], self.names[i], self.files[i], columns, skip_reason=reason, relative=True)

    def _read_contents(self, layout: YoloLayout) -> tuple[list[bytes], set[Path]]:
        """Read the label file of each image that is not skipped, and return the contents and paths of the files."""
        contents, used = [], set()
        for image, reason in self._reasons.items():
            content, path, self._reasons[image] = (
                (b"", None, reason) if reason else _read_label(layout.label_paths(image))
            )
            contents.append(content)
            used |= {path} if path else set()
        return contents, used

    def _find_kind(self, layout: YoloLayout, split: str, labels: list[Labels]) -> Kind:
        if self._keypoints:
            return Kind.KEYPOINTS
        if layout.settings.get("task") == "obb":
            return Kind.ROTATED
        if not any(each.rows for each in labels) or not all(map(_all_corners, labels)):
            return Kind.SHAPES
        for other in layout.splits.keys() - layout.missing.keys() - {split}:  # so that all splits are read alike
            images = [image for image, reason in list_images(layout, other).reasons.items() if not reason]
            if not all(_all_corners(_parse(_read_label(layout.label_paths(image))[0])) for image in images):
                return Kind.SHAPES
        return Kind.ROTATED

    def _declared(self, layout: YoloLayout) -> tuple[Column, ...]:
        if self._keypoints:
            return (keypoints_column(self._keypoints[0], _flip_pairs(layout, self._keypoints[0])),)
        if self._kind is Kind.ROTATED:
            return (ROTATED,)
        return (POLYGONS,) if any(len(row) > 5 for rows in self._rows for row in rows) else ()

    def _fits(self, length: int) -> bool:
        """Return whether the dataset declares rows of `length` numbers, the class included."""
        if self._keypoints:
            return length == 5 + self._keypoints[0] * self._keypoints[1]
        if self._kind is Kind.ROTATED:
            return length == 9
        return length == 5 or (length >= 7 and length % 2 == 1)

    def _problems(self, layout: YoloLayout, labels: list[Labels], used: set[Path]) -> Iterator[Problem]:
        for i, each in enumerate(labels):
            bad = [
                (line, f"{len(row) - 1} numbers follow the class, which are not {self._kind.value}")
                for row, line in zip(each.rows, each.lines, strict=True)
                if not self._fits(len(row))
            ]
            for line, reason in sorted(each.bad + bad):
                yield Problem(self.image_ids[i], self.names[i], "box dropped", f"line {line} of its labels: {reason}")
        if self.files and not used:
            where = layout.label_paths(self.files[0])[0]
            yield Problem(-1, self.location, NO_LABELS, f"no image has a label file: the first would be {where}")

    def _columns_of(self, rows: list[NDArray[np.float64]]) -> dict[str, Any]:
        boxes = np.zeros((len(rows), 4))
        columns: dict[str, Any] = {"boxes": boxes, "label": np.array([int(row[0]) + 1 for row in rows], np.int64)}
        if self._keypoints:
            k, d = self._keypoints
            table = np.array(rows).reshape(-1, 5 + k * d)
            points = table[:, 5:].reshape(-1, k, d)
            visible = points[..., 2:] if d == 3 else 2.0 * points.any(-1, keepdims=True)
            columns["keypoints"] = np.concatenate([points[..., :2], visible], -1)
        elif self._kind is Kind.ROTATED:
            columns["rotated"] = np.array(rows).reshape(-1, 9)[:, 1:].reshape(-1, 4, 2)
        elif POLYGONS in self.columns:
            columns["polygons"] = [[row[1:].reshape(-1, 2)] if len(row) > 5 else [] for row in rows]
        boxed = [i for i, row in enumerate(rows) if len(row) == 5 or self._keypoints]
        center, size = np.split(np.array([rows[i][1:5] for i in boxed]).reshape(-1, 4), 2, axis=1)
        boxes[boxed] = np.concatenate([center - size / 2, center + size / 2], 1)
        for i in set(range(len(rows))) - set(boxed):
            outline = rows[i][1:].reshape(-1, 2)
            boxes[i] = (*outline.min(0), *outline.max(0))
        return columns


def _parse(content: bytes) -> Labels:
    """Return the rows of a label file. Byte order mark, blanks and blank lines have no meaning."""
    labels = Labels([], [], [])
    for line, text in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        try:
            row = np.array([float(field) for field in text.split()])
        except ValueError:
            labels.bad.append((line, "it is not made of numbers"))
            continue
        if not len(row):
            continue
        if not (np.abs(row) < LIMIT).all():
            labels.bad.append((line, "a number is too large or not finite"))
        elif row[0] < 0 or row[0] % 1:
            labels.bad.append((line, f"its class {row[0]:g} is no whole number from 0"))
        else:
            labels.rows.append(row)
            labels.lines.append(line)
    return labels


def _all_corners(labels: Labels) -> bool:
    return all(len(row) == 9 for row in labels.rows)


def _read_label(candidates: list[Path]) -> tuple[bytes, Path | None, str | None]:
    """Return the content and the path of an image's label file, and why the image must be skipped."""
    for path in candidates:
        try:
            return path.read_bytes(), path, None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            return b"", path, f"its label file {path} cannot be read: {getattr(error, 'strerror', error)}"
    return b"", None, None


def _flip_pairs(layout: YoloLayout, count: int) -> FlipPairs:
    """Return which of `count` keypoints are exchanged in a mirrored image, by the `flip_idx` of the YAML file."""
    stated = layout.settings.get("flip_idx")
    if stated is None:
        return ()
    try:
        if sorted(map(str, stated)) != sorted(map(str, range(count))):
            raise ValueError("it does not list each keypoint once")
        return pairs_of_order([int(number) for number in stated])
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"`flip_idx` in {layout.folder} must list each of the {count} keypoints once, in the order of a mirrored "
            f"object: {error}. Correct it."
        ) from error


def _keypoint_shape(layout: YoloLayout) -> tuple[int, int] | None:
    """Return the number of keypoints of each object and the numbers of each keypoint, if the YAML file states them."""
    stated = layout.settings.get("kpt_shape")
    if stated is None:
        return None
    try:
        k, d = (int(number) for number in stated)
        if k < 1 or d not in (2, 3):
            raise ValueError
    except (ValueError, TypeError):
        raise SourceError(
            f"the YAML file in {layout.folder} gives `kpt_shape` as {stated}: it must be [K, 2] or [K, 3]."
        ) from None
    return k, d


def _unlisted(layout: YoloLayout, split: str, images: list[Path]) -> list[Problem]:
    """Count the images beside those that the list files of a split name, except those of other splits."""
    lists = [str(path) for path in layout.splits[split] if not path.is_dir()]

    def others() -> list[str]:
        readable = layout.splits.keys() - layout.missing.keys() - {split}
        return [image.name for other in readable for image in list_images(layout, other).reasons]

    return unlisted_images(images, ", ".join(lists), others) if lists else []


def _orphans(layout: YoloLayout, folders: list[Path], used: set[Path]) -> Iterator[Problem]:
    """Yield a problem for each label file of an image folder that belongs to no image."""
    for folder in folders:
        labels = layout.label_paths(folder / "x.jpg")[0].parent
        for path in sorted(labels.rglob("*.txt")) if labels != folder else ():
            if path not in used and path.name not in NAME_FILES:
                yield Problem(-1, path.relative_to(labels).as_posix(), SKIPPED, f"there is no image for {path}")


def _name_in(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
