"""File helpers for sources: finding images, staying inside a folder, numbering, digests."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastload.errors import SourceError
from fastload.sources.base import Category

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx", ".qoi", ".pcx", ".sgi", ".tga"),
}
# Images that Pillow may be unable to read: the problems file names them.
_OTHER_SUFFIXES = {".heic", ".heif", ".jxl", ".jxr", ".psd", ".exr", ".hdr", ".dcm"}
# Not opened, because label files are many.
_TEXT_SUFFIXES = {".txt", ".xml", ".json", ".jsonl", ".csv", ".yaml", ".yml", ".md", ".html", ".log", ".py"}
# How images without a known suffix begin.
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{8}[\x36-\x8a]\0|II\*\0|MM\0\*|RIFF.{4}WEBP|P[1-6]\s|qoif"
    rb"|\0\0\0\x0c(jP  |JXL )|\xff\x4f\xff\x51|\xff\x0a|.{4}ftyp(avi[fs]|hei[cxms]|hevc|mif1|msf1)",
    re.DOTALL,
)
CACHE_FOLDER = "fastload"  # in the dataset's folder; holds its caches


def images_below(folder: Path) -> list[Path]:
    """Return every image file in `folder` and its subfolders, sorted by path.

    A file without the suffix of an image is one if its first bytes are those of an image. Symbolic links are followed.
    Each folder is visited once, so links may form a cycle.
    """
    found, visited = [], {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and name != CACHE_FOLDER]
        folders[:] = [name for name in folders if _is_new(os.path.join(parent, name), visited)]
        found += [Path(parent, name) for name in files if name[0] != "." and _is_image(parent, name)]
    return sorted(found)


def _is_image(folder: str, name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES or suffix in _OTHER_SUFFIXES:
        return True
    path = os.path.join(folder, name)
    try:
        if suffix in _TEXT_SUFFIXES or not os.path.isfile(path):  # opening a pipe would wait for its writer
            return False
        with open(path, "rb") as file:
            return _SIGNATURES.match(file.read(16)) is not None
    except OSError:
        return False


def _is_new(folder: str, visited: set[str]) -> bool:
    """Return whether `folder` has not been visited yet, and add it to `visited`."""
    real = os.path.realpath(folder)
    new = real not in visited
    visited.add(real)
    return new


def inside(folder: Path, name: str) -> Path | None:
    """Return the path of the file `name` in `folder`, or None if the name points outside the folder.

    Only the name is checked. Symbolic links inside the folder are followed.
    """
    parts = Path(name).parts
    if not parts or os.path.isabs(name) or ".." in parts or "\0" in name:
        return None
    return folder / name


def is_below(path: Path, folder: Path) -> bool:
    """Return whether `path` is inside `folder`. Symbolic links inside the folder are not resolved."""
    absolute, roots = Path(os.path.abspath(path)), {os.path.abspath(folder), os.path.realpath(folder)}
    return "\0" not in str(path) and any(absolute.is_relative_to(root) for root in roots)


def number_images(files: Sequence[Path]) -> list[int]:
    """Return image ids: the file names if all of them are different numbers, else 1, 2, 3, ..."""
    stems = [file.stem for file in files]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= 18 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))


def number_categories(names: Iterable[str]) -> tuple[Category, ...]:
    """Return categories with ids 1, 2, 3, ... in the order of `names`."""
    return tuple(Category(i, name) for i, name in enumerate(names, start=1))


def digest_of(*parts: bytes) -> str:
    """Return a hex digest that changes whenever one of `parts` changes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def read_lines(path: Path, errors: str = "surrogateescape") -> list[str]:
    """Return the lines of a UTF-8 file that are not blank, without the blanks around them.

    A byte order mark is skipped. Bytes that are not UTF-8 are kept as in file names, unless `errors` says otherwise.
    """
    text = read_bytes(path).decode("utf-8-sig", errors)
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file. SourceError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {error.strerror or error}. Check that the file exists and that you may read it."
        ) from error
