"""WebDataset: tar files of images with a `.cls` or `.json` member each, read in place."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastload.errors import SourceError
from fastload.sources.base import SKIPPED, Dataset, Problem
from fastload.sources.files import IMAGE_SUFFIXES, read_bytes
from fastload.sources.listed import split_of, subfolders
from fastload.sources.python import PythonSource

KEYS = ("boxes", "labels", "iscrowd", "area", "keypoints", "polygons", "image_id", "annotation_id", "class_id")
_NAMES = ("classes.txt", "classnames.txt")


def find(root: Path) -> list[Dataset]:
    """Return a split for the tar files in `root` and in each of its subfolders."""
    homes = [(home, sorted(home.glob("*.tar"))) for home in (root, *subfolders(root))]
    return [split_of(root, home.resolve().name, partial(_source, root, home, tars)) for home, tars in homes if tars]


class _Member(NamedTuple):
    """An image in a tar file."""

    tar: Path
    name: str
    start: int
    size: int


class _Shards(Sequence[dict[str, Any]]):
    """The samples of tar files as dicts."""

    def __init__(self, members: list[tuple[_Member, dict[str, Any]]]) -> None:
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: Any) -> Any:
        member, annotations = self._members[index]
        with open(member.tar, "rb") as file:
            file.seek(member.start)
            return {"image": file.read(member.size), "name": member.name, **annotations}


def _source(root: Path, home: Path, tars: Sequence[Path]) -> PythonSource:
    members: list[tuple[_Member, dict[str, Any]]] = []
    problems: list[Problem] = []
    for tar in tars:
        images, stated = _read_tar(tar)
        members += [(images[key], stated[key]) for key in images if key in stated]
        reasons = dict.fromkeys(images.keys() - stated.keys(), "it has no .cls, and no `boxes` or `class_id` in .json")
        reasons |= dict.fromkeys(stated.keys() - images.keys(), "no image lies beside its .cls or .json")
        problems += [Problem(-1, f"{tar.name}/{key}", SKIPPED, reasons[key]) for key in sorted(reasons)]
    if not members:
        raise SourceError(
            f"{tars[0]}: no image has a .cls member, or a .json member with `boxes` or `class_id`. Write "
            "build_cache(({'image': ..., 'boxes': ..., 'labels': ...} for ... in ...), 'X.lmdb', classes=[...])."
        )
    named = [each / name for each in (home, root) for name in _NAMES if (each / name).is_file()]
    names = [line for line in read_bytes(named[0]).decode("utf-8-sig").splitlines() if line.strip()] if named else None
    stamps = [(tar.name, tar.stat().st_size, tar.stat().st_mtime_ns) for tar in tars]
    source = PythonSource(_Shards(members), names or _classes_in(members), fingerprint=repr(stamps))
    source.location, source.problems = str(home), tuple(problems)
    return source


def _classes_in(members: list[tuple[_Member, dict[str, Any]]]) -> list[str] | dict[int, str]:
    """Return the names of the classes that occur, or the numbers as names."""
    labels: set[Any] = set()
    for _, stated in members:
        labels.update(stated.get("labels", ()), [stated["class_id"]] if "class_id" in stated else [])
    if all(isinstance(label, int) for label in labels):
        return {label: str(label) for label in labels}
    return sorted(map(str, labels))


def _read_tar(tar: Path) -> tuple[dict[str, _Member], dict[str, dict[str, Any]]]:
    """Return the images and the annotations of a tar file by key, which is the name of members up to the first dot."""
    images: dict[str, _Member] = {}
    annotations: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = folder + slash + stem
                if not member.isfile() or name.startswith("."):
                    continue
                if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    images[key] = _Member(tar, member.name, member.offset_data, member.size)
                elif suffix in ("cls", "json"):
                    stored = archive.extractfile(member)
                    text = stored.read() if stored else b""
                    annotations.setdefault(key, {}).update(_annotations(tar, member.name, text, suffix))
    except (OSError, tarfile.TarError) as error:
        raise SourceError(f"{tar} cannot be read: {error}. Download it again, uncompressed.") from error
    return images, {key: stated for key, stated in annotations.items() if stated}


def _annotations(tar: Path, name: str, text: bytes, suffix: str) -> dict[str, Any]:
    try:
        if suffix == "cls":
            written = text.decode("utf-8-sig").strip()
            return {"class_id": int(written) if written.isdigit() else written}
        stated = json.loads(text)
        return {key: stated[key] for key in KEYS if key in stated}
    except (ValueError, TypeError) as error:
        raise SourceError(f"{tar}: {name} cannot be read: {error}. Correct it.") from error
