"""YOLO: images in `images`, a text file of boxes per image in `labels`, class names in a YAML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fastload.annotations import Column
from fastload.errors import SourceError
from fastload.sources.base import Problem, Sample, box_columns
from fastload.sources.files import digest_of, images_below, is_below, number_categories, number_images, read_bytes

NAME_FILES = ("classes.txt", "obj.names", "names.txt")
SPLITS = ("train", "val", "valid", "test")
OUTSIDE = "its path in the list points outside the dataset's folder"


def yolo_splits(root: Path) -> dict[str, Path]:
    """Return the image folder or list file of each split: from the YAML file, else `images/SPLIT` or `SPLIT/images`."""
    settings = _settings(root)
    stated = {split: _resolve(root, settings, split) for split in SPLITS if settings.get(split)}
    found = {split: path for split, path in stated.items() if path is not None}
    if found:
        return found
    folders = [(split, folder) for split in SPLITS for folder in (root / "images" / split, root / split / "images")]
    found = {split: folder for split, folder in folders if folder.is_dir()}
    return found or ({"all": root / "images"} if (root / "images").is_dir() else {})


def looks_like_yolo(root: Path) -> bool:
    """Return whether `root` has a labels folder for one of its splits."""
    return any(_has_labels(path) for path in yolo_splits(root).values())


class YoloSource:
    """One split of a YOLO dataset.

    A line of a label file is `class cx cy w h`, or `class x y x y x y ...` for a polygon, which is stored as its
    bounding box. Coordinates are fractions of the image's size. An image without a label file has no boxes. Category
    ids are the class numbers plus one.

    Args:
        root: the folder.
        split: the name of the split, one of `yolo_splits(root)`.

    Raises:
        SourceError: the YAML file or a list file cannot be read or is invalid, or there are no class names.
    """

    format = "yolo"
    columns: tuple[Column, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __init__(self, root: Path, split: str) -> None:
        where = yolo_splits(root)[split]
        self.location = f"{root} ({split})"
        self.categories = number_categories(_class_names(root))
        self.files = _listed(where) if where.is_file() else images_below(where)
        self.outside = {path for path in self.files if not is_below(path, root)}
        base = where.parent if where.is_file() else where
        self.names = [_name_in(base, path) for path in self.files]
        self.image_ids = number_images(self.files)
        self.labels = [b"" if path in self.outside else _read_labels(path) for path in self.files]
        names = "\n".join([*(category.name for category in self.categories), *self.names])
        self.digest = digest_of(names.encode("utf-8", "surrogateescape"), *self.labels)

    def __len__(self) -> int:
        return len(self.files)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the images from position `start` on."""
        first_id = 1 + sum(_count_boxes(label) for label in self.labels[:start])
        for i in range(start, len(self)):
            lines = self.labels[i].decode("utf-8", "replace").splitlines()
            columns = box_columns([_parse(line.split()) for line in lines if line.strip()], first_id)
            first_id += len(columns["boxes"])
            reason = OUTSIDE if self.files[i] in self.outside else None
            yield Sample(self.image_ids[i], self.names[i], self.files[i], columns, skip_reason=reason, relative=True)


def _name_in(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _count_boxes(label: bytes) -> int:
    return sum(bool(line.strip()) for line in label.decode("utf-8", "replace").splitlines())


def _parse(fields: list[str]) -> tuple[list[float], int]:
    try:
        category, numbers = int(float(fields[0])) + 1, [float(field) for field in fields[1:]]
    except (ValueError, OverflowError):
        return [np.nan] * 4, -1
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], category
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[::2], numbers[1::2]
        return [min(xs), min(ys), max(xs), max(ys)], category
    return [np.nan] * 4, category


def _settings(root: Path) -> dict[str, Any]:
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    for path in files:
        try:
            settings = yaml.safe_load(read_bytes(path))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise SourceError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Correct it.") from error
        if isinstance(settings, dict) and "names" in settings:
            return settings
    return {}


def _resolve(root: Path, settings: dict[str, Any], split: str) -> Path | None:
    """Return the path of a split in the YAML file, or None if nothing exists there.

    The path may be relative to `path` in the YAML file, to the file's folder, or to that folder's parent.

    Raises:
        SourceError: the path is not a string, or it exists only outside `root`.
    """
    if not isinstance(settings[split], str):
        raise SourceError(f"the YAML file in {root} must give `{split}` as one path, of a folder or of a list file.")
    stated = Path(settings[split])
    bases = [root, root / str(settings.get("path") or "."), root.parent]
    inner = Path(*[part for part in stated.parts if part != ".."])
    candidates = [base / tail for base in bases for tail in (stated, inner)]
    found = [path for path in candidates if path.exists()]
    within = [path for path in found if is_below(path, root)]
    if found and not within:
        raise SourceError(
            f"the YAML file in {root} gives `{split}` as {stated}, which is outside that folder. Move "
            "the images into it, or change the path."
        )
    return within[0] if within else None


def _class_names(root: Path) -> list[str]:
    names = _settings(root).get("names")
    if isinstance(names, list):
        return [str(name) for name in names]
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        return [str(names[i]) for i in range(len(names))]
    for path in (root / name for name in NAME_FILES):
        if path.exists():
            return [line.strip() for line in read_bytes(path).decode("utf-8", "replace").splitlines() if line.strip()]
    raise SourceError(f"no class names in {root}: add a YAML file with `names`, numbered from 0, or classes.txt.")


def _listed(path: Path) -> list[Path]:
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    return [path.parent / line.strip() for line in lines if line.strip()]


def _has_labels(images: Path) -> bool:
    return images.is_file() or (_label_path(images / "x.jpg")).parent.is_dir()


def _label_path(image: Path) -> Path:
    """Return `.../labels/a/b.txt` for `.../images/a/b.jpg`, or the .txt file beside an image in no such folder."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_labels(image: Path) -> bytes:
    path = _label_path(image)
    return read_bytes(path) if path.exists() else b""
