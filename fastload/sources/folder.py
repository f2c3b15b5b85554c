"""A folder of images without annotations, for viewing, prediction and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fastload.annotations import Column
from fastload.errors import SourceError
from fastload.sources.base import Category, Dataset, Pair, Problem, Sample, box_columns
from fastload.sources.files import digest_of, images_below, number_images
from fastload.sources.listed import split_of


def find(root: Path) -> list[Dataset]:
    """Return the images in a folder as one split."""
    name = root.resolve().name
    return [split_of(root, name, partial(FolderSource, root))] if images_below(root) else []


def pair(given: Pair) -> Dataset:
    """Return the images in a folder as one split."""
    found = find(given.images)
    if not found:
        raise SourceError(f"{given.images} holds no images: check the path.")
    return found[0]


class FolderSource:
    """Every image in a folder and its subfolders, sorted by path. No boxes and no categories."""

    format = "folder"
    categories: tuple[Category, ...] = ()
    columns: tuple[Column, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)
        self.folder = folder
        self.files = images_below(folder)
        self.names = [file.relative_to(folder).as_posix() for file in self.files]
        self.image_ids = number_images(self.files)
        self.digest = digest_of("\0".join(self.names).encode("utf-8", "surrogateescape"))

    def __len__(self) -> int:
        return len(self.files)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the images from position `start` on."""
        for i in range(start, len(self)):
            yield Sample(self.image_ids[i], self.names[i], self.files[i], box_columns([]))
