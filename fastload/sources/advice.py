"""What to do where no dataset is found: what a path holds, and the command or the Python call that would read it."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections import Counter
from itertools import islice
from pathlib import Path

from fastload.sources.files import CACHE_FOLDER, IMAGE_SUFFIXES, images_below

PYTHON = 'fastload.build_cache([{"image": path, "boxes": [...], "labels": [...]}, ...], "X.lmdb", classes=[...])'
_TABLES = {".parquet": "parquet", ".arrow": "arrow"}  # formats of Hugging Face, by suffix
_FROM_MASKS = PYTHON.replace('"boxes"', '"masks": [...], "boxes"')
_FROM_ARRAYS = PYTHON.replace("path", "numpy.load(path)")
_ARRAYS = {".npy", ".npz"}
_ARCHIVES = {".zip", ".tgz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"}
_LOOKED_AT = 10_000  # files below a folder


def describe(folder: Path) -> str:
    """Describe what is in a folder: its first subfolders, and the number of files by suffix."""
    entries = sorted(each for each in folder.iterdir() if each.name != CACHE_FOLDER)
    folders = [f"{entry.name}{os.sep}" for entry in entries if entry.is_dir()]
    files = Counter(entry.suffix or "other" for entry in entries if not entry.is_dir())
    counts = [f"{count:,} {suffix} file{'s' * (count > 1)}" for suffix, count in files.most_common(3)]
    return ", ".join([*folders[:5], *(["..."] if len(folders) > 5 else []), *counts]) or "nothing"


def for_folder(root: Path) -> str:
    """Return what to do with a folder that is no dataset that is known."""
    below = [path for path in islice(root.rglob("*"), _LOOKED_AT) if CACHE_FOLDER not in path.relative_to(root).parts]
    suffixes = Counter(path.suffix.lower() for path in below if path.is_file())
    if table := next((kind for suffix, kind in _TABLES.items() if suffixes[suffix]), None):
        return f"In Python: {_from_table(table, root / '**' / f'*.{table}')}."
    if any(path.is_dir() and _holds_masks(path) for path in below) and images_below(root):
        return f"For masks without annotation files, in Python: {_FROM_MASKS}."
    if images_below(root):
        return (
            "If the annotations are elsewhere, use --annotations FILE|DIR --images DIR; for images without boxes, "
            f"--format folder; for anything else, in Python {PYTHON}."
        )
    if any(suffixes[suffix] for suffix in _ARRAYS):
        return f"For arrays, in Python: {_FROM_ARRAYS}."
    if any(suffixes[suffix] for suffix in _ARCHIVES):
        return "Unpack its archives first."
    return "It holds no images either: check the path."


def for_file(path: Path) -> str:
    """Return why a file, or a path that does not exist, is no dataset, and what to do with it."""
    if not path.exists():
        return f"{path} does not exist: check the path."
    return unlike_annotations(path) or (
        f"{path} is a file, not the folder of a dataset: if it holds annotations, use --annotations {path}, with "
        "--images DIR if the images are apart."
    )


def unlike_annotations(path: Path) -> str | None:
    """Return why a path cannot be the annotations of a dataset, and what to do with it; None if it can be."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return None
    if suffix in _TABLES:
        return f"{path} is a table: in Python, {_from_table(_TABLES[suffix], path)}."
    if suffix in _ARRAYS:
        return f"{path} holds arrays: in Python, {_FROM_ARRAYS}."
    if suffix in IMAGE_SUFFIXES:
        return f"{path} is an image: name the folder of a dataset, or in Python {PYTHON}."
    if suffix in (".yaml", ".yml"):
        return f"{path} is a YAML file: for a YOLO dataset with `names`, name it as DATASET, without --annotations."
    if suffix in _ARCHIVES or (zipfile.is_zipfile(path) and not tarfile.is_tarfile(path)):
        return f"{path} is an archive: unpack it, and name the folder."
    return None


def _holds_masks(folder: Path) -> bool:
    name = folder.name.lower()
    return "mask" in name or name.startswith("segmentation")


def _from_table(format: str, files: Path) -> str:
    loaded = f'datasets.load_dataset("{format}", data_files="{files}", split="train")'
    return f'fastload.build_cache({loaded}, "X.lmdb", format="xywh")'
