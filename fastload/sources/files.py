"""What sources share about files: finding pictures, staying inside a folder, numbering, digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastload.errors import SourceError
from fastload.sources.base import Category

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
CACHE_FOLDER = "fastload"  # beside the data; holds what fastload makes


def pictures_below(folder: Path) -> list[Path]:
    """Every picture in `folder` and its subfolders, by its extension, sorted by path.

    Links are followed, since datasets are often gathered by them; each folder is entered once, so they may form a ring.
    """
    found, entered = [], {os.path.realpath(folder)}
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and name != CACHE_FOLDER]
        folders[:] = [name for name in folders if _enter(os.path.join(where, name), entered)]
        found += [Path(where, name) for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES and name[0] != "."]
    return sorted(found)


def _enter(folder: str, entered: set[str]) -> bool:
    """Whether `folder` is none of those `entered`, to which it is added."""
    real = os.path.realpath(folder)
    new = real not in entered
    entered.add(real)
    return new


def inside(folder: Path, name: str) -> Path | None:
    """The file `name` of `folder`, or None when the name would lead out of it.

    That is a matter of the name alone: a link within the folder is its owner's doing, and is followed.
    """
    parts = Path(name).parts
    if not parts or os.path.isabs(name) or ".." in parts or "\0" in name:
        return None
    return folder / name


def is_below(path: Path, folder: Path) -> bool:
    """Whether `path`, as it is written, lies in `folder`, by whichever name: links within are not resolved."""
    written, names = Path(os.path.abspath(path)), {os.path.abspath(folder), os.path.realpath(folder)}
    return "\0" not in str(path) and any(written.is_relative_to(name) for name in names)


def number_images(files: Sequence[Path]) -> list[int]:
    """Image ids: the files' own numbers where every name is a different number, else 1, 2, 3 ..."""
    stems = [file.stem for file in files]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= 18 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))


def number_categories(names: Iterable[str]) -> tuple[Category, ...]:
    """Categories with ids 1, 2, 3 ... in the order given."""
    return tuple(Category(i, name) for i, name in enumerate(names, start=1))


def digest_of(*parts: bytes) -> str:
    """Hex digits that change whenever one of `parts` does."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """The file's bytes. `SourceError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}.") from error
