"""Classified images: a folder for each class (torchvision's ImageFolder), or a CSV file of paths and classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastload.annotations import CLASS_ID
from fastload.errors import SourceError
from fastload.sources.base import MERGED, Category, Dataset, Pair, Problem, Sample
from fastload.sources.files import (
    CACHE_FOLDER,
    IMAGE_SUFFIXES,
    digest_of,
    images_below,
    inside,
    number_images,
    read_lines,
    unlisted_images,
)
from fastload.sources.listed import ListedSource, header_of, read_rows, split_beside, split_of, subfolders

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_NO_CLASSES = {"images", "imgs", "img", "masks", "labels", "annotations", "jpegimages", "segmentationclass", "data"}
_ANNOTATIONS = {".json", ".jsonl", ".xml", ".csv", ".odgt", ".tar", ".npz", ".mat", ".parquet"}
_PATHS = ("path", "image", "file", "filename", "file_name", "filepath", "image_path", "image_name", "image_id", "img")
_LABELS = ("label", "class", "category", "class_name", "target")
_LOOKED_AT = 100  # rows that are tried to find the image folder
OUTSIDE = "its path is empty or points outside the image folder"


def find_folders(root: Path) -> list[Dataset]:
    """Return the splits of SPLIT/CLASS/*.jpg or CLASS/*.jpg, unless there are annotation files too."""
    folders = subfolders(root)
    homes = folders if folders and all(folder.name.lower() in SPLITS for folder in folders) else [root]
    names = _class_folders(homes)
    if len(names) < 2 or {name.lower() for name in names} & (_NO_CLASSES | SPLITS) or _has_other_files(root, homes):
        return []
    return [split_of(root, home.resolve().name, partial(_folder_source, home, names)) for home in homes]


def pair_folders(given: Pair) -> Dataset:
    """Return the dataset of one folder that has a folder for each class."""
    home = given.images
    names = read_lines(given.classes) if given.classes else _class_folders([home])
    if not names:
        raise SourceError(f"{home} holds no folders: the format `classes` needs a folder of images for each class.")
    return split_of(home, home.resolve().name, partial(_folder_source, home, names))


def _class_folders(homes: Sequence[Path]) -> list[str]:
    return sorted({folder.name for home in homes for folder in subfolders(home)})


def _has_other_files(root: Path, homes: Sequence[Path]) -> bool:
    """Return whether files below `root` may hold annotations, or images lie beside the folders of classes."""
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name[0] != "." and name != CACHE_FOLDER]
        kinds = {os.path.splitext(name)[1].lower() for name in files}
        if kinds & _ANNOTATIONS or (".txt" in kinds and Path(parent) != root):
            return True
        if kinds & IMAGE_SUFFIXES and (Path(parent) == root or Path(parent) in homes):
            return True
    return False


def _folder_source(home: Path, names: list[str]) -> ListedSource:
    files = images_below(home)
    parts = [file.relative_to(home).parts for file in files]
    ids, id_of = number_images(files), {name: i for i, name in enumerate(names)}

    def sample(i: int) -> Sample:
        class_id = id_of.get(parts[i][0])
        skip = None if class_id is not None and len(parts[i]) > 1 else "it lies in no folder of a class"
        return Sample(ids[i], "/".join(parts[i]), files[i], {CLASS_ID.name: class_id or 0}, skip_reason=skip)

    digest = digest_of("\0".join(names + ["/".join(each) for each in parts]).encode("utf-8", "surrogateescape"))
    categories = tuple(Category(i, name) for i, name in enumerate(names))
    return ListedSource("classes", str(home), digest, len(files), sample, categories, (CLASS_ID,))


def find_csv(root: Path) -> list[Dataset]:
    """Return a split for each CSV file of paths and classes in `root`. Their header says `path` and `label`."""
    files = _csv_files(root)
    return [split_of(root, path.stem, partial(_csv_source, path, files)) for path in files]


def pair_csv(given: Pair) -> Dataset:
    """Return the dataset of one CSV file of paths and classes, and the folder that the paths are relative to.

    Without a file of class names, its classes are numbered together with those of the CSV files beside it.
    """
    path = given.annotations
    if not is_csv(path):
        raise SourceError(f"{path} is no CSV file of paths and classes: its first line must be path,label.")
    files = [path, *(other for other in _csv_files(path.parent) if other != path)]
    names = read_lines(given.classes) if given.classes else None
    return split_beside(path, partial(_csv_source, path, files, [given.images], names))


def is_csv(path: Path) -> bool:
    """Return whether the header of a CSV file names a path and a class."""
    return _fields_of(path) is not None


def _csv_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.csv")) if is_csv(path)]


def _fields_of(path: Path) -> tuple[int, int] | None:
    """Return which fields are the path and the class, if the header says so."""
    header = [name.strip().lower() for name in header_of(path)]
    found = [next((header.index(name) for name in names if name in header), None) for names in (_PATHS, _LABELS)]
    boxes = any(name in header for name in ("xmin", "x0", "x1", "bbox"))
    return None if found[0] is None or found[1] is None or boxes else (found[0], found[1])


def _listed_in(path: Path) -> tuple[list[tuple[str, str]], int]:
    """Return (path, class) of each image that a file lists, and how many rows repeat an earlier one."""
    where, label = _fields_of(path) or (0, 1)
    rows = read_rows(path)
    next(rows)
    padded = ([*row, *[""] * (where + label)] for row in rows)
    pairs = [(row[where], row[label]) for row in padded]
    return list(dict.fromkeys(pairs)), len(pairs) - len(set(pairs))


def _csv_source(
    path: Path, files: Sequence[Path], folders: Sequence[Path] = (), names: Sequence[str] | None = None
) -> ListedSource:
    """Read a CSV file.

    Args:
        path: the file.
        files: the files whose classes are numbered together.
        folders: the folders that may hold the images. Default: the usual ones.
        names: the names of the classes, numbered from 0. Default: the labels of `files`, sorted.
    """
    listed = {each: _listed_in(each) for each in files}
    labels = sorted({label for pairs, _ in listed.values() for _, label in pairs if label})
    id_of, categories = _numbered(labels, names)
    pairs, repeated = listed[path]
    folder, suffix = _image_folder(path, folders or _image_folders(path), [name for name, _ in pairs])
    paths = [inside(folder, name + suffix) for name, _ in pairs]
    ids = number_images([each or path for each in paths])
    first = {name: i for i, (name, _) in reversed(list(enumerate(pairs)))}

    def sample(i: int) -> Sample:
        name, label = pairs[i]
        unknown = f"its class {label} is none of the classes" if label else f"{path.name} states no class for it"
        skip = OUTSIDE if paths[i] is None else None if label in id_of else unknown
        skip = skip or (f"{path.name} states two classes for it" if first[name] != i else None)
        return Sample(ids[i], name, paths[i] or path, {CLASS_ID.name: id_of.get(label, 0)}, skip_reason=skip)

    reason = f"{repeated} rows repeat an earlier one and are merged with it"
    merged = [Problem(-1, str(path), MERGED, reason)] if repeated else []
    elsewhere = [f"{name.rpartition('/')[2]}{suffix}" for each in files if each != path for name, _ in listed[each][0]]
    unlisted = unlisted_images((each for each in paths if each), str(path), lambda: elsewhere)
    digest = digest_of(repr((names or labels, pairs)).encode("utf-8", "surrogateescape"))
    return ListedSource("csv", str(path), digest, len(pairs), sample, categories, (CLASS_ID,), (*merged, *unlisted))


def _numbered(labels: Sequence[str], names: Sequence[str] | None) -> tuple[dict[str, int], tuple[Category, ...]]:
    """Return the number of each label, and the classes. Labels are numbers of classes if all of them can be."""
    numbers = all(label.isascii() and label.isdigit() and len(label) < 10 for label in labels)
    if names is not None:
        id_of = {name: i for i, name in enumerate(names)}
        if numbers and not id_of.keys() >= {*labels}:
            id_of = {label: int(label) for label in labels if int(label) < len(names)}
        return id_of, tuple(Category(i, name) for i, name in enumerate(names))
    id_of = {label: int(label) if numbers else i for i, label in enumerate(labels)}
    return id_of, tuple(sorted((Category(id, name) for name, id in id_of.items()), key=lambda category: category.id))


def _image_folders(path: Path) -> list[Path]:
    home = path.parent
    return [home, home / "images", home / path.stem, home / "images" / path.stem]


def _image_folder(path: Path, folders: Sequence[Path], names: Sequence[str]) -> tuple[Path, str]:
    """Return the one of `folders` that `names` are relative to, and the suffix that they lack."""
    for folder in folders:
        for suffix in ("", ".jpg", ".jpeg", ".png"):
            paths = (inside(folder, name + suffix) for name in names[:_LOOKED_AT])
            if any(each is not None and os.path.isfile(each) for each in paths):
                return folder, suffix
    raise SourceError(
        f"{path}: none of its first {len(names[:_LOOKED_AT])} images is in {', '.join(map(str, folders))}. Move the "
        "images, or write build_cache([(path, label), ...], 'X.lmdb', classes=[...])."
    )
