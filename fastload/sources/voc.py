"""Pascal VOC: an XML file an image in `Annotations`, pictures in `JPEGImages`, lists in `ImageSets/Main`."""

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
    inside,
    number_categories,
    number_images,
    pictures_below,
    read_bytes,
)

LEADS_OUT = "its name in the list leads out of the image folder"


@dataclass(frozen=True)
class VocObject:
    """One object of an annotation file."""

    name: str
    xyxy: list[float]
    difficult: bool
    fields: Fields  # all that is a single value


def voc_splits(root: Path) -> list[str]:
    """The names of the lists of images. Lists of one class (`cat_train.txt`) are no splits."""
    lists = sorted(path.stem for path in (root / "ImageSets" / "Main").glob("*.txt"))
    splits = [name for name in lists if "_" not in name]
    return splits or ["all"]


class VocSource:
    """One list of images of a VOC folder; `all` without lists is every annotated image.

    Pixels count from 1 and a box includes its last one, so x0 = xmin - 1 and x1 = xmax. Objects marked difficult
    become crowds: not to be learnt, and no error when found. Classes are those of the whole folder, sorted by name,
    so that all splits number them alike.

    Args:
        root: the folder.
        split: the list.
        columns: further fields of objects or images to keep, such as `truncated`: see `Request`.
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
        names = sorted({thing.name for things in self.objects.values() for thing in things if thing.name})
        self.categories = number_categories(names)
        self._category_id = {category.name: category.id for category in self.categories}
        self.stems = _listed(root, split) or sorted(contents)
        pictures = {path.stem: path for path in pictures_below(root / "JPEGImages")}
        self.files = [pictures.get(stem, root / "JPEGImages" / f"{stem}.jpg") for stem in self.stems]
        self.unreadable |= {stem: LEADS_OUT for stem in self.stems if inside(root, stem) is None}
        self.image_ids = number_images(self.files)
        self._further = self._read_further(columns)
        self.columns = tuple(column for column, _ in self._further)
        listed = [f"{stem}\n".encode() + contents.get(stem, b"") for stem in self.stems]
        self.digest = digest_of("\n".join(names).encode(), *listed)

    def __len__(self) -> int:
        return len(self.stems)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """The listed images from position `start` on."""
        first = sum(len(self.objects.get(stem, [])) for stem in self.stems[:start])
        for i in range(start, len(self)):
            stem = self.stems[i]
            things = self.objects.get(stem, [])
            yield Sample(
                image_id=self.image_ids[i],
                name=self.files[i].name,
                path=self.files[i],
                columns=self._columns_of(i, things, first),
                size=self.sizes.get(stem),
                left_out=self.unreadable.get(stem),
            )
            first += len(things)

    def _columns_of(self, i: int, things: list[VocObject], first: int) -> dict[str, NDArray[Any]]:
        """Of image i, which holds `things`; `first` objects come before them."""
        columns = box_columns([(thing.xyxy, self._category_id.get(thing.name, -1)) for thing in things], 1 + first)
        columns["crowd"] = np.array([thing.difficult for thing in things], np.bool_)
        rows = slice(first, first + len(things))
        further = {column.name: values[rows if column.per == "object" else i] for column, values in self._further}
        return columns | further

    def _read_further(self, columns: Sequence[str]) -> list[tuple[Column, NDArray[Any]]]:
        things = [(stem, thing.fields) for stem in self.stems for thing in self.objects.get(stem, [])]
        images = [(stem, self._fields.get(stem, {})) for stem in self.stems]
        entries: dict[Per, list[tuple[str, Fields]]] = {"object": things, "image": images}
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
        self.objects[stem] = [_object(thing) for thing in tree.findall("object")]


def _listed(root: Path, split: str) -> list[str]:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.exists():
        return []
    stems = [line.split()[0] for line in read_bytes(path).decode("utf-8", "replace").splitlines() if line.split()]
    if any(inside(path.parent, stem) and ("/" in stem or stem.startswith(".")) for stem in stems):
        raise SourceError(f"{path} should list file names without folder or extension.")
    return list(dict.fromkeys(stems))


def _object(thing: ElementTree.Element) -> VocObject:
    xmin, ymin, xmax, ymax = (_number(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    name = (thing.findtext("name") or "").strip()
    return VocObject(name, [xmin - 1, ymin - 1, xmax, ymax], bool(_number(thing, "difficult", 0)), _fields(thing))


def _fields(tree: ElementTree.Element) -> Fields:
    """The single values in an element: numbers where they are such."""
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
