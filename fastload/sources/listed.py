"""Helpers for sources whose annotations fit in memory: the source itself, CSV files, splits by folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastload.annotations import Column
from fastload.errors import SourceError
from fastload.sources.base import Category, Dataset, Problem, Sample, Source
from fastload.sources.files import CACHE_FOLDER

# Folders of annotations that are not named after a split.
GROUPS = {"annotations", "annotation", "annots", "labels", "xmls", "xml"}


@dataclass(eq=False)
class ListedSource:
    """A source of `count` samples, each made when it is read.

    Args:
        count: the number of samples.
        sample: returns the sample at a position.
    """

    format: str
    location: str
    digest: str
    count: int
    sample: Callable[[int], Sample]
    categories: tuple[Category, ...]
    columns: tuple[Column, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return self.count

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the samples from position `start` on."""
        return map(self.sample, range(start, self.count))


def read_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV file that are not blank.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            yield from filter(None, csv.reader(lines))
    except (OSError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read: {error}. Correct the file.") from error


def header_of(path: Path) -> list[str]:
    """Return the first row of a CSV file; an empty list if it is none."""
    try:
        return next(read_rows(path), [])
    except SourceError:
        return []


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in `folder` that may belong to a dataset, sorted."""
    return sorted(
        each for each in folder.iterdir() if each.is_dir() and each.name[0] != "." and each.name != CACHE_FOLDER
    )


def first_folder(candidates: Sequence[Path], where: Path) -> Path:
    """Return the first of `candidates` that exists. SourceError if none does."""
    for folder in candidates:
        if folder.is_dir():
            return folder
    searched = ", ".join(map(str, dict.fromkeys(candidates)))
    raise SourceError(f"{where} has no image folder: looked for {searched}. Move the images to one of these.")


def split_of(root: Path, name: str, load: Callable[[], Source]) -> Dataset:
    """Return a split of the dataset in `root`, with the default path of its cache."""
    return Dataset(name, root / CACHE_FOLDER / f"{name}.lmdb", load)


def split_beside(annotations: Path, load: Callable[[], Source], name: str | None = None) -> Dataset:
    """Return the split of annotations that are given without a dataset's folder.

    Its cache is beside the annotations, or in X for `X/annotations/FILE` and `X/labels/train`. Its name is `name`, by
    default that of the file or the folder: `X/labels/train` is `train`, and `X/labels` is `X`.
    """
    path = Path(os.path.abspath(annotations))
    home = path.parent
    if not path.is_dir():
        return split_of(home.parent if home.name == "annotations" else home, name or path.stem, load)
    if path.name.lower() in GROUPS:
        return split_of(home, home.name or "all", load)
    return split_of(home.parent if home.name.lower() in GROUPS else home, path.name, load)
