"""File helpers for sources: finding images, staying inside a folder, numbering, digests."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastload.errors import SourceError
from fastload.sources.base import UNLISTED, Category, Problem

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx", ".qoi", ".pcx", ".sgi", ".tga"),
}
# Images that Pillow may be unable to read: the problems file names them.
_OTHER_SUFFIXES = {".heic", ".heif", ".jxl", ".jxr", ".psd", ".exr", ".hdr", ".dcm", ".svg"}
# Not opened, because label files are many.
_TEXT_SUFFIXES = {".txt", ".xml", ".json", ".jsonl", ".csv", ".yaml", ".yml", ".md", ".html", ".log", ".py"}
# How images without a known suffix begin.
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{8}[\x36-\x8a]\0|II\*\0|MM\0\*|RIFF.{4}WEBP|P[1-6]\s|qoif"
    rb"|\0\0\0\x0c(jP  |JXL )|\xff\x4f\xff\x51|\xff\x0a|.{4}ftyp(avi[fs]|hei[cxms]|hevc|mif1|msf1)",
    re.DOTALL,
)
OUTSIDE = "its file name points outside the image folder"
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


def is_image_name(name: str) -> bool | None:
    """Return whether a file of this name is an image by its suffix; None if its content decides."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES or suffix in _OTHER_SUFFIXES:
        return True
    return False if suffix in _TEXT_SUFFIXES else None


def is_image_start(content: bytes) -> bool:
    """Return whether a file that begins with `content`, 16 bytes or more, is an image."""
    return _SIGNATURES.match(content) is not None


def _is_image(folder: str, name: str) -> bool:
    by_name = is_image_name(name)
    path = os.path.join(folder, name)
    try:
        if by_name is not None or not os.path.isfile(path):  # opening a pipe would wait for its writer
            return bool(by_name)
        with open(path, "rb") as file:
            return is_image_start(file.read(16))
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
    return None if _leads_out(name) else folder / name


def _leads_out(name: str) -> bool:
    if "\0" in name or os.path.isabs(name):
        return True
    if ".." not in name and name.strip("./"):  # nearly all names: a Path of each would take longer than the rest
        return False
    parts = Path(name).parts
    return not parts or ".." in parts


@dataclass(frozen=True)
class FoundFile:
    """Where the file of a name is.

    Args:
        path: the file, or where it was looked for. A string, since many names are found at once.
        reason: why there is no file to use. Default: there is.
        stated: whether it is where its name says, and not only a file with the same last parts.
    """

    path: str
    reason: str | None = None
    stated: bool = True


def find_named(folder: Path, names: Sequence[str]) -> list[FoundFile]:
    """Find files by the names that annotations give them.

    A name is tried as written, then without its leading parts, with `\\` read as `/`, then as a file in any subfolder.
    A file that is found like that and that several names lead to is the file of none of them: it is unclear of which.
    """
    finder = _Finder(folder)
    found = [finder.find(name) for name in names]
    if all(each.stated for each in found):
        return found
    users: dict[str, set[str]] = {}
    for name, each in zip(names, found, strict=True):
        users.setdefault(each.path, set()).add(name)
    return [
        _unclear(folder, name, each) if not each.stated and not each.reason and len(users[each.path]) > 1 else each
        for name, each in zip(names, found, strict=True)
    ]


def _unclear(folder: Path, name: str, found: FoundFile) -> FoundFile:
    outside = f"{OUTSIDE}, and " if _leads_out(name) else ""
    reason = f"{outside}several images lead to the file {found.path}: give the path of each in {folder}"
    return FoundFile(found.path, reason, False)


class _Finder:
    """Finds files in a folder. Each subfolder is listed once, which is faster than asking for each file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder.parts
        self._listed: dict[str, set[str]] = {}
        self._below: dict[str, list[Path]] | None = None

    def find(self, name: str) -> FoundFile:
        outside = _leads_out(name)
        if not outside and self._exists(name):
            return FoundFile(os.path.join(self.folder, name))
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        start = len(parts) - parts[::-1].index("..") if ".." in parts else 0
        for i in range(start, len(parts)):
            if self._exists("/".join(parts[i:])):
                stated = parts[:i] == list(self._parts[len(self._parts) - i :]) and "\\" not in name
                return FoundFile(os.path.join(self.folder, *parts[i:]), stated=stated)
        same = self._called(parts[-1]) if parts else []
        if len(same) == 1:
            return FoundFile(str(same[0]), stated=False)
        if same:
            reason = f"several files are called {parts[-1]}, such as {same[0]} and {same[1]}: give the path of one"
            return FoundFile(str(same[0]), reason, False)
        if outside:
            return FoundFile(str(self.folder), OUTSIDE)
        return FoundFile(os.path.join(self.folder, name))

    def _exists(self, name: str) -> bool:
        parent, _, last = name.rpartition("/")
        if parent not in self._listed:
            try:
                self._listed[parent] = set(os.listdir(self.folder / parent))
            except (OSError, ValueError):
                self._listed[parent] = set()
        return last in self._listed[parent]

    def _called(self, last: str) -> list[Path]:
        if self._below is None:
            self._below = {}
            for path in images_below(self.folder):
                self._below.setdefault(path.name, []).append(path)
        return self._below.get(last, [])


def unlisted_images(
    paths: Iterable[str | Path], listed_in: str, others: Callable[[], Collection[str]] = list
) -> list[Problem]:
    """Return a problem that counts the images beside those of a list, if there are any.

    Args:
        paths: the images of the list.
        listed_in: what lists them, for the message.
        others: returns the file names, without folders, that other lists have. Called only if it matters.
    """
    listed: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        listed.setdefault(folder, set()).add(name)
    by_folder: dict[str, set[str]] = {}
    for folder, names in listed.items():
        if "\0" not in folder:
            by_folder.setdefault(os.path.realpath(folder), set()).update(names)
    unlisted: dict[str, set[str]] = {}
    for folder, names in by_folder.items():
        with suppress(OSError, ValueError):
            there = set(os.listdir(folder))
            if beside := {name for name in there - names if name[0] != "." and is_image_name(name)}:
                unlisted |= {folder: beside} if there & names else {}
    elsewhere = set(others()) if unlisted else set()
    unlisted = {folder: names - elsewhere for folder, names in unlisted.items() if names - elsewhere}
    if not unlisted:
        return []
    count, where = sum(map(len, unlisted.values())), os.path.commonpath(unlisted)
    reason = f"{count:,} images in {where} are not listed in {listed_in}: they are not in the cache"
    return [Problem(-1, listed_in, UNLISTED, reason)]


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


def encode_names(names: Iterable[str], separator: str) -> bytes:
    """Return names as bytes for a digest. They may hold bytes that are not UTF-8, and lone surrogates."""
    text = separator.join(names)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


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
    with read_errors(path):
        return path.read_bytes()


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise a SourceError with advice where reading the file raises OSError."""
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {error.strerror or error}. Check that the file exists and that you may read it."
        ) from error
