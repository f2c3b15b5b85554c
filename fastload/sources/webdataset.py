"""WebDataset: tar files of images with a `.cls` or `.json` member each, read in place."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastload.errors import SourceError
from fastload.sources.base import SKIPPED, Dataset, Pair, Problem
from fastload.sources.classes import SPLITS
from fastload.sources.files import is_image_name, is_image_start, read_lines
from fastload.sources.listed import split_beside, split_of, subfolders
from fastload.sources.python import PythonSource

KEYS = ("boxes", "labels", "iscrowd", "area", "keypoints", "polygons", "image_id", "annotation_id", "class_id")
_NAMES = ("classes.txt", "classnames.txt")


def find(root: Path) -> list[Dataset]:
    """Return a split for the tar files in `root` and in each of its subfolders.

    If the names of the files in a folder name several splits, as `x-train-0.tar` and `x-val-0.tar` do, each is one.
    """
    found = []
    for home in (root, *subfolders(root)):
        shards, own = _shards_in(home), home.resolve().name
        for split, tars in shards.items():
            name = split if home == root else f"{own}-{split}"
            name = name if split and len(shards) > 1 else own
            found.append(split_of(root, name, partial(_source, home, tars, _class_files(home, root))))
    return found


def _shards_in(home: Path) -> dict[str, list[Path]]:
    """Return the tar files in a folder by the split that their names have as one of their words, "" if none."""
    shards: dict[str, list[Path]] = {}
    for tar in sorted(home.glob("*.tar")):
        words = re.split(r"[^a-z]+", tar.stem.lower())
        shards.setdefault(next((word for word in words if word in SPLITS), ""), []).append(tar)
    return shards


def pair(given: Pair) -> Dataset:
    """Return the dataset of one tar file, or of those in one folder."""
    path = given.annotations
    shards = list(_shards_in(path).values()) if path.is_dir() else [[path]]
    if not shards:
        raise SourceError(f"{path} holds no tar files (*.tar): give a tar file, or a folder of them.")
    if len(shards) > 1:
        raise SourceError(
            f"{path} holds tar files of several splits: give it as DATASET, with --split for one of them."
        )
    load = partial(_source, path, shards[0], [given.classes] if given.classes else _class_files(path, path.parent))
    return split_beside(path, load)


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


def _class_files(*homes: Path) -> list[Path]:
    return [path for home in homes for name in _NAMES if (path := home / name).is_file()]


def _source(home: Path, tars: Sequence[Path], named: Sequence[Path]) -> PythonSource:
    """Read tar files, with the names of the classes in the first of the files `named`, if there are any."""
    members: list[tuple[_Member, dict[str, Any]]] = []
    problems: list[Problem] = []
    for tar in tars:
        images, stated, repeated = _read_tar(tar)
        members += [(images[key], stated[key]) for key in images if key in stated]
        reasons = dict.fromkeys(images.keys() - stated.keys(), "it has no .cls, and no `boxes` or `class_id` in .json")
        reasons |= dict.fromkeys(stated.keys() - images.keys(), "no image lies beside its .cls or .json")
        reasons |= repeated
        problems += [Problem(-1, f"{tar.name}/{key}", SKIPPED, reasons[key]) for key in sorted(reasons)]
    if not members:
        raise SourceError(
            f"{tars[0]}: no image has a .cls member, or a .json member with `boxes` or `class_id`. Write "
            "build_cache(({'image': ..., 'boxes': ..., 'labels': ...} for ... in ...), 'X.lmdb', classes=[...])."
        )
    names = read_lines(named[0], "replace") if named else None
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


def _read_tar(tar: Path) -> tuple[dict[str, _Member], dict[str, dict[str, Any]], dict[str, str]]:
    """Return the images and the annotations of a tar file by key, and why further images are skipped, by name.

    The key is the name of a member up to the first dot, and `4.seg.png` is a further part of the sample of `4.jpg`. If
    there is no such image, the key is the name up to the last dot.
    """
    plain: dict[str, list[_Member | dict[str, Any]]] = {}
    dotted: dict[str, list[_Member | dict[str, Any]]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                found = _read_member(tar, archive, member)
                if found is not None:
                    stem = member.name.rpartition(".")[0]
                    by_key = plain if _first_key(stem) == stem else dotted
                    by_key.setdefault(stem, []).append(found)
    except (OSError, tarfile.TarError) as error:
        raise SourceError(f"{tar} cannot be read: {error}. Download it again, uncompressed.") from error
    with_image = {key for key, parts in plain.items() if any(isinstance(part, _Member) for part in parts)}
    samples = plain | {key: parts for key, parts in dotted.items() if _first_key(key) not in with_image}
    images: dict[str, _Member] = {}
    annotations: dict[str, dict[str, Any]] = {}
    repeated: dict[str, str] = {}
    for key, parts in samples.items():
        for part in parts:
            if not isinstance(part, _Member):
                annotations.setdefault(key, {}).update(part)
            elif key in images:
                repeated[part.name] = f"{images[key].name} comes before it and is the image of {key}"
            else:
                images[key] = part
    return images, {key: stated for key, stated in annotations.items() if stated}, repeated


def _first_key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _read_member(tar: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> _Member | dict[str, Any] | None:
    """Return the image or the annotations in a member; None if it holds neither."""
    last = member.name.rpartition("/")[2]
    stored = None if last.startswith("._") else archive.extractfile(member) if member.isfile() else None
    if stored is None:  # a folder, a link, or what macOS stores beside a file
        return None
    suffix = last.rpartition(".")[2]
    if suffix in ("cls", "json"):
        return _annotations(tar, member.name, stored.read(), suffix)
    by_name = is_image_name(last)
    if by_name or (by_name is None and is_image_start(stored.read(16))):
        return _Member(tar, member.name, member.offset_data, member.size)
    return None


def _annotations(tar: Path, name: str, text: bytes, suffix: str) -> dict[str, Any]:
    try:
        if suffix == "cls":
            written = text.decode("utf-8-sig").strip()
            return {"class_id": int(written) if written.isdigit() else written}
        stated = json.loads(text)
        return {key: stated[key] for key in KEYS if key in stated}
    except (ValueError, TypeError) as error:
        raise SourceError(f"{tar}: {name} cannot be read: {error}. Correct it.") from error
