"""Pascal VOC: an XML file per image in `Annotations`, images in `JPEGImages`, lists of images in `ImageSets/Main`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column, Per
from fastload.errors import SourceError
from fastload.sources.base import Problem, Sample, box_columns
from fastload.sources.columns import Fields, read_columns
from fastload.sources.files import (
    digest_of,
    images_below,
    inside,
    number_categories,
    number_images,
    read_bytes,
)

OUTSIDE = "its name in the list points outside the image folder"


@dataclass(frozen=True)
class VocObject:
    """One object in an annotation file."""

    name: str
    xyxy: list[float]
    difficult: bool
    fields: Fields  # its elements that hold a single value


def voc_splits(root: Path) -> list[str]:
    """Return the names of the lists of images, except lists of one class such as `cat_train.txt`."""
    lists = sorted(path.stem for path in (root / "ImageSets" / "Main").glob("*.txt"))
    splits = [name for name in lists if "_" not in name]
    return splits or ["all"]


class VocSource:
    """One list of images in a VOC folder. In a folder without lists, the split `all` has every annotated image.

    VOC counts pixels from 1 and a box includes its last pixel, so x0 = xmin - 1 and x1 = xmax. Objects marked
    difficult become crowds, which are ignored in training and evaluation. The classes are those of the whole folder,
    sorted by name, so that all splits have the same category ids.

    Args:
        root: the folder.
        split: the name of the list.
        columns: extra fields of objects or images to keep, such as `truncated` (see `Request`).

    Raises:
        SourceError: the list cannot be read or is invalid.
    """

    format = "voc"
    problems: tuple[Problem, ...] = ()

    def __init__(self, root: Path, split: str, columns: Sequence[str] = ()) -> None:
        self.location = f"{root} ({split})"
        annotations = {path.stem: path for path in sorted((root / "Annotations").glob("*.xml"))}
        contents = {stem: read_bytes(path) for stem, path in annotations.items()}
        self.objects: dict[str, list[VocObject]] = {}
        self.sizes: dict[str, tuple[int, int] | None] = {}
        self._fields: dict[str, Fields] = {}
        self.unreadable: dict[str, str] = {}
        for stem, content in contents.items():
            self._read(stem, content)
        names = sorted({each.name for objects in self.objects.values() for each in objects if each.name})
        self.categories = number_categories(names)
        self._category_id = {category.name: category.id for category in self.categories}
        self.stems = _listed(root, split) or sorted(contents)
        images = {path.stem: path for path in images_below(root / "JPEGImages")}
        self.files = [images.get(stem, root / "JPEGImages" / f"{stem}.jpg") for stem in self.stems]
        self.unreadable |= {stem: OUTSIDE for stem in self.stems if inside(root, stem) is None}
        self.image_ids = number_images(self.files)
        self._extra = self._read_extra(columns)
        self.columns = tuple(column for column, _ in self._extra)
        listed = [f"{stem}\n".encode() + contents.get(stem, b"") for stem in self.stems]
        self.digest = digest_of("\n".join(names).encode(), *listed)

    def __len__(self) -> int:
        return len(self.stems)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the listed images from position `start` on."""
        first = sum(len(self.objects.get(stem, [])) for stem in self.stems[:start])
        for i in range(start, len(self)):
            stem = self.stems[i]
            objects = self.objects.get(stem, [])
            yield Sample(
                image_id=self.image_ids[i],
                name=self.files[i].name,
                path=self.files[i],
                columns=self._columns_of(i, objects, first),
                size=self.sizes.get(stem),
                skip_reason=self.unreadable.get(stem),
            )
            first += len(objects)

    def _columns_of(self, i: int, objects: list[VocObject], first: int) -> dict[str, NDArray[Any]]:
        """Return the columns of image i with `objects`; the images before it have `first` objects."""
        columns = box_columns([(each.xyxy, self._category_id.get(each.name, -1)) for each in objects], 1 + first)
        columns["crowd"] = np.array([each.difficult for each in objects], np.bool_)
        rows = slice(first, first + len(objects))
        extra = {column.name: values[rows if column.per == "object" else i] for column, values in self._extra}
        return columns | extra

    def _read_extra(self, columns: Sequence[str]) -> list[tuple[Column, NDArray[Any]]]:
        objects = [(stem, each.fields) for stem in self.stems for each in self.objects.get(stem, [])]
        images = [(stem, self._fields.get(stem, {})) for stem in self.stems]
        entries: dict[Per, list[tuple[str, Fields]]] = {"object": objects, "image": images}
        fields: dict[Per, list[Fields]] = {per: [each for _, each in entries[per]] for per in entries}
        return read_columns(columns, fields, self.location, lambda per, i: f"{entries[per][i][0]}.xml")

    def _read(self, stem: str, content: bytes) -> None:
        try:
            tree = ElementTree.fromstring(content)
        except (ElementTree.ParseError, ValueError) as error:
            self.unreadable[stem] = f"its annotations cannot be read: {error}"
            return
        width, height = (int(_number(tree, f"size/{side}", 0)) for side in ("width", "height"))
        self.sizes[stem] = (width, height) if width and height else None
        self._fields[stem] = _fields(tree)
        self.objects[stem] = [_object(each) for each in tree.findall("object")]


def _listed(root: Path, split: str) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.exists():
        return []
    stems = [line.split()[0] for line in read_bytes(path).decode("utf-8", "replace").splitlines() if line.split()]
    if any(inside(path.parent, stem) and ("/" in stem or stem.startswith(".")) for stem in stems):
        raise SourceError(f"{path} must list file names without folder and suffix. Correct the file.")
    return list(dict.fromkeys(stems))


def _object(each: ElementTree.Element) -> VocObject:
    xmin, ymin, xmax, ymax = (_number(each, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    name = (each.findtext("name") or "").strip()
    return VocObject(name, [xmin - 1, ymin - 1, xmax, ymax], bool(_number(each, "difficult", 0)), _fields(each))


def _fields(tree: ElementTree.Element) -> Fields:
    """Return the children that hold a single value, as a number if it is one."""
    return {child.tag: _value(child.text) for child in tree if len(child) == 0 and child.text}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def _number(tree: ElementTree.Element, path: str, default: float = np.nan) -> float:
    try:
        number = float(tree.findtext(path) or default)
    except ValueError:
        return default
    return number if abs(number) < 1e9 else default
