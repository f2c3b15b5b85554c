"""Finding the datasets in a folder: their format, their splits, and the default paths of their caches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path

from fastload.errors import SourceError
from fastload.sources import classes, coco_layouts, crowdhuman, open_images, webdataset
from fastload.sources.base import Dataset, Extras
from fastload.sources.coco import CocoSource
from fastload.sources.files import CACHE_FOLDER, images_below
from fastload.sources.folder import FolderSource
from fastload.sources.voc import VocSource, voc_folders, voc_splits
from fastload.sources.yolo import YoloSource, yolo_splits
from fastload.sources.yolo_layout import looks_like_yolo


class Format(str, Enum):
    """The supported dataset formats."""

    COCO = "coco"
    VOC = "voc"
    YOLO = "yolo"
    OPEN_IMAGES = "open-images"
    CROWDHUMAN = "crowdhuman"
    WEBDATASET = "webdataset"
    CSV = "csv"
    CLASSES = "classes"
    FOLDER = "folder"


def find_datasets(
    root: Path | str,
    format: Format | str | None = None,
    splits: Sequence[str] = (),
    columns: Sequence[str] = (),
    masks: bool = False,
    keypoints: bool = False,
) -> list[Dataset]:
    """Find the splits of the dataset in a folder. Annotations are read when a split's `load` is called.

        for dataset in find_datasets("coco/"):
            build_cache(dataset.load(), dataset.cache)

    Args:
        root: the folder, or the YAML file of a YOLO dataset.
        format: a `Format` or its value, such as "coco" or "folder" (images without boxes). Default: detected.
        splits: names of the splits to return. Default: all.
        columns: extra columns to read, such as "difficult" (see `Request`).
        masks: whether to read the polygons and masks of objects of a COCO dataset.
        keypoints: whether to read the keypoints of objects of a COCO dataset.

    Returns:
        A `Dataset` for each split, with its name `split`, the default path `cache` of its cache, and `load`, which
        returns the source to build the cache from.

    Raises:
        SourceError: the folder holds no dataset, datasets of several formats, or not the requested splits or columns.
    """
    root = Path(root)
    if root.is_file() and format in (None, Format.YOLO) and looks_like_yolo(root):
        format = Format.YOLO
    elif not root.is_dir():
        advice = " For a single annotation file, use --annotations with --images." if root.is_file() else ""
        raise SourceError(f"{root} is not a folder: name the folder of a dataset.{advice}")
    format = detect_format(root) if format is None else _format(format)
    if columns and format in _WITHOUT_FIELDS:
        raise SourceError(
            f"{root} is a {format.value} dataset, which cannot have extra columns ({', '.join(columns)}): request none."
        )
    if (masks or keypoints) and format not in _WITH_SHAPES:
        wanted_shapes = " and ".join(name for name, on in (("masks", masks), ("keypoints", keypoints)) if on)
        raise SourceError(
            f"{root} is a {format.value} dataset: {wanted_shapes} are read from COCO and YOLO datasets only."
        )
    found = _FINDERS[format](root, Extras(columns, masks, keypoints))
    if not found:
        raise SourceError(
            f"no {format.value} dataset found in {root}: looked for {_SIGNS[format]}. Choose another folder or format."
        )
    if unknown := set(splits) - {dataset.split for dataset in found}:
        names = ", ".join(dataset.split for dataset in found)
        raise SourceError(f"{root} has no split {' or '.join(sorted(unknown))}: choose from {names}.")
    wanted = [dataset for dataset in found if not splits or dataset.split in splits]
    missing = [dataset.missing for dataset in wanted if dataset.missing]
    if missing and (splits or len(missing) == len(wanted) or format is Format.YOLO):
        raise SourceError(missing[0])
    return wanted


def _format(name: Format | str) -> Format:
    try:
        return Format(name)
    except ValueError:
        names = ", ".join(format.value for format in Format)
        raise SourceError(f"unknown dataset format {name!r}: use one of {names}.") from None


def coco_dataset(
    annotations: Path, images: Path, columns: Sequence[str] = (), masks: bool = False, keypoints: bool = False
) -> Dataset:
    """Return the dataset of one COCO annotation file and one image folder.

    Args:
        annotations: the annotation file.
        images: the image folder.
        columns: extra columns to read (see `Request`).
        masks: whether to read the polygons and masks of objects.
        keypoints: whether to read the keypoints of objects.

    Raises:
        SourceError: the file or the folder does not exist.
    """
    for kind, path, exists in (("file", annotations, annotations.is_file()), ("folder", images, images.is_dir())):
        if not exists:
            raise SourceError(f"there is no {kind} {path}: check --annotations and --images.")
    split = annotations.stem.removeprefix("instances_")
    home = annotations.parent.parent if annotations.parent.name == "annotations" else annotations.parent
    load = partial(CocoSource, annotations, images, columns, masks, keypoints)
    return Dataset(split, home / CACHE_FOLDER / f"{split}.lmdb", load)


def detect_format(root: Path) -> Format:
    """Detect the format of the dataset in `root`. SourceError if no format matches, or more than one."""
    matches = {
        Format.COCO: bool(coco_layouts.coco_files(root)),
        Format.VOC: bool(_voc_roots(root)),
        Format.YOLO: looks_like_yolo(root),
    }
    formats = [format for format, found in matches.items() if found]
    formats = formats or [format for format, find in _OTHERS.items() if find(root)][:1]
    if len(formats) == 1:
        return formats[0]
    if formats:
        names = " and ".join(format.value for format in formats)
        raise SourceError(f"{root} looks like {names}: choose one with --format.")
    signs = ", ".join(f"{_SIGNS[format]} ({format.value})" for format in matches)
    raise SourceError(f"no dataset found in {root}, which holds {_content(root)}: looked for {signs}. {_advice(root)}")


def _content(root: Path) -> str:
    """Describe what is in a folder: its first subfolders, and the number of files by suffix."""
    entries = sorted(root.iterdir())
    folders = [f"{entry.name}{os.sep}" for entry in entries if entry.is_dir()]
    files = Counter(entry.suffix or "other" for entry in entries if not entry.is_dir())
    counts = [f"{count:,} {suffix} file{'s' * (count > 1)}" for suffix, count in files.most_common(3)]
    return ", ".join([*folders[:5], *(["..."] if len(folders) > 5 else []), *counts]) or "nothing"


def _advice(root: Path) -> str:
    if not images_below(root):
        return "It holds no images either: check the path."
    return (
        "Use --annotations with --images for a COCO file, --format folder for images without boxes, or in Python "
        "fastload.build_cache(samples, path, classes=names) for anything else."
    )


def _find_voc(root: Path, extras: Extras) -> list[Dataset]:
    roots = _voc_roots(root)
    many = len(roots) > 1
    return [
        Dataset(
            split=f"{home.name}-{split}" if many else split,
            cache=root / CACHE_FOLDER / (f"{home.name}-{split}.lmdb" if many else f"{split}.lmdb"),
            load=partial(VocSource, home, split, extras.columns),
        )
        for home in roots
        for split in voc_splits(home)
    ]


def _voc_roots(root: Path) -> list[Path]:
    """Return the VOC folders in `root`: `root` itself, or the years in a VOCdevkit."""
    return [home for home in [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))] if _is_voc(home)]


def _is_voc(home: Path) -> bool:
    return bool(voc_folders(home))


def _find_yolo(root: Path, extras: Extras) -> list[Dataset]:
    caches = (root.parent if root.is_file() else root) / CACHE_FOLDER
    return [
        Dataset(split, caches / f"{split}.lmdb", partial(YoloSource, root, split), missing)
        for split, missing in yolo_splits(root).items()
    ]


def _find_folder(root: Path, extras: Extras) -> list[Dataset]:
    if not images_below(root):
        return []
    name = root.resolve().name
    return [Dataset(name, root / CACHE_FOLDER / f"{name}.lmdb", partial(FolderSource, root))]


def _without_extras(find: Callable[[Path], list[Dataset]], root: Path, extras: Extras) -> list[Dataset]:
    return find(root)


# The formats that are looked for where there is none of the above, in this order.
_OTHERS: dict[Format, Callable[[Path], list[Dataset]]] = {
    Format.OPEN_IMAGES: open_images.find,
    Format.CROWDHUMAN: crowdhuman.find,
    Format.WEBDATASET: webdataset.find,
    Format.CSV: classes.find_csv,
    Format.CLASSES: classes.find_folders,
}
_FINDERS: dict[Format, Callable[[Path, Extras], list[Dataset]]] = {
    Format.COCO: coco_layouts.find,
    Format.VOC: _find_voc,
    Format.YOLO: _find_yolo,
    Format.FOLDER: _find_folder,
    **{format: partial(_without_extras, find) for format, find in _OTHERS.items()},
}
_WITHOUT_FIELDS = {Format.YOLO, Format.FOLDER, *_OTHERS}
_WITH_SHAPES = {Format.COCO, Format.YOLO}  # YOLO's are always read
# The files that identify each format, for messages.
_SIGNS = {
    Format.COCO: coco_layouts.SIGNS,
    Format.VOC: "Annotations/*.xml",
    Format.YOLO: "images/ with labels/",
    Format.FOLDER: "image files",
    Format.OPEN_IMAGES: "*-annotations-bbox.csv",
    Format.CROWDHUMAN: "annotation_*.odgt",
    Format.WEBDATASET: "*.tar",
    Format.CSV: "a CSV file with the columns path and label",
    Format.CLASSES: "SPLIT/CLASS/*.jpg or CLASS/*.jpg without annotation files",
}
