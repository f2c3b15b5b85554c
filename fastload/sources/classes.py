"""Classified images: a folder for each class (torchvision's ImageFolder), or a CSV file of paths and classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastload.annotations import CLASS_ID
from fastload.errors import SourceError
from fastload.sources.base import Category, Dataset, Problem, Sample
from fastload.sources.files import CACHE_FOLDER, IMAGE_SUFFIXES, digest_of, images_below, inside, number_images
from fastload.sources.listed import ListedSource, header_of, read_rows, split_of, subfolders

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
    names = sorted({folder.name for home in homes for folder in subfolders(home)})
    if len(names) < 2 or {name.lower() for name in names} & (_NO_CLASSES | SPLITS) or _has_other_files(root, homes):
        return []
    return [split_of(root, home.resolve().name, partial(_folder_source, home, names)) for home in homes]


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
    files = [path for path in sorted(root.glob("*.csv")) if _fields_of(path) is not None]
    return [split_of(root, path.stem, partial(_csv_source, path, files)) for path in files]


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


def _csv_source(path: Path, files: Sequence[Path]) -> ListedSource:
    listed = {each: _listed_in(each) for each in files}
    labels = sorted({label for pairs, _ in listed.values() for _, label in pairs if label})
    numbered = all(label.isascii() and label.isdigit() and len(label) < 10 for label in labels)
    id_of = {label: int(label) if numbered else i for i, label in enumerate(labels)}
    pairs, repeated = listed[path]
    folder, suffix = _image_folder(path, [name for name, _ in pairs])
    paths = [inside(folder, name + suffix) for name, _ in pairs]
    ids = number_images([each or path for each in paths])
    first = {name: i for i, (name, _) in reversed(list(enumerate(pairs)))}

    def sample(i: int) -> Sample:
        name, label = pairs[i]
        skip = OUTSIDE if paths[i] is None else None if label else f"{path.name} states no class for it"
        skip = skip or (f"{path.name} states two classes for it" if first[name] != i else None)
        return Sample(ids[i], name, paths[i] or path, {CLASS_ID.name: id_of.get(label, 0)}, skip_reason=skip)

    reason = f"{repeated} rows repeat an earlier one and are merged with it"
    problems = (Problem(-1, str(path), "merged", reason),) if repeated else ()
    digest = digest_of(repr((labels, pairs)).encode("utf-8", "surrogateescape"))
    categories = tuple(sorted((Category(id, name) for name, id in id_of.items()), key=lambda category: category.id))
    return ListedSource("csv", str(path), digest, len(pairs), sample, categories, (CLASS_ID,), problems)


def _image_folder(path: Path, names: Sequence[str]) -> tuple[Path, str]:
    """Return the folder that `names` are relative to, and the suffix that they lack."""
    home = path.parent
    folders = [home, home / "images", home / path.stem, home / "images" / path.stem]
    for folder in folders:
        for suffix in ("", ".jpg", ".jpeg", ".png"):
            paths = (inside(folder, name + suffix) for name in names[:_LOOKED_AT])
            if any(each is not None and each.is_file() for each in paths):
                return folder, suffix
    raise SourceError(
        f"{path}: none of its first {len(names[:_LOOKED_AT])} images is in {', '.join(map(str, folders))}. Move the "
        "images, or write build_cache([(path, label), ...], 'X.lmdb', classes=[...])."
    )
