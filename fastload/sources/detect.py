"""Finding the datasets in a folder: their format, their splits, and the default paths of their caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path

from fastload.errors import SourceError
from fastload.sources import classes, coco_layouts, crowdhuman, folder, open_images, webdataset
from fastload.sources.advice import describe, for_file, for_folder
from fastload.sources.base import Dataset, Extras
from fastload.sources.files import CACHE_FOLDER
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
    root, extras = Path(root), Extras(columns, masks, keypoints)
    if root.is_file() and format in (None, Format.YOLO) and looks_like_yolo(root):
        format = Format.YOLO
    elif not root.is_dir():
        raise SourceError(for_file(root))
    format = detect_format(root) if format is None else format_named(format)
    check_extras(format, root, extras)
    found = _FINDERS[format](root, extras)
    if not found:
        raise SourceError(
            f"no dataset of the format {format.value} in {root}, which holds {describe(root)}: looked for "
            f"{_SIGNS[format]}. Choose another folder or format, or use --annotations with --images."
        )
    if unknown := set(splits) - {dataset.split for dataset in found}:
        names = ", ".join(dataset.split for dataset in found)
        raise SourceError(f"{root} has no split {' or '.join(sorted(unknown))}: choose from {names}.")
    wanted = [dataset for dataset in found if not splits or dataset.split in splits]
    missing = [dataset.missing for dataset in wanted if dataset.missing]
    if missing and (splits or len(missing) == len(wanted) or format is Format.YOLO):
        raise SourceError(missing[0])
    return wanted


def check_extras(format: Format, where: Path, extras: Extras) -> None:
    """Raise a SourceError if datasets of a format have not what is requested of the one at `where`."""
    if extras.columns and format in _WITHOUT_FIELDS:
        names = ", ".join(extras.columns)
        raise SourceError(
            f"{where} is a {format.value} dataset, which cannot have extra columns ({names}): request none."
        )
    shapes = " and ".join(name for name in ("masks", "keypoints") if getattr(extras, name))
    if shapes and format not in _WITH_SHAPES:
        raise SourceError(f"{where} is a {format.value} dataset: {shapes} are read from COCO and YOLO datasets only.")


def format_named(name: Format | str) -> Format:
    """Return the format of a name. SourceError if there is none."""
    try:
        return Format(name)
    except ValueError:
        names = ", ".join(format.value for format in Format)
        raise SourceError(f"unknown dataset format {name!r}: use one of {names}.") from None


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
    signs = ", ".join(f"{sign} ({format.value})" for format, sign in _SIGNS.items() if format is not Format.FOLDER)
    raise SourceError(
        f"no dataset found in {root}, which holds {describe(root)}: looked for {signs}. {for_folder(root)}"
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
    Format.FOLDER: partial(_without_extras, folder.find),
    **{format: partial(_without_extras, find) for format, find in _OTHERS.items()},
}
_WITHOUT_FIELDS = {Format.YOLO, Format.FOLDER, *_OTHERS}
_WITH_SHAPES = {Format.COCO, Format.YOLO}  # YOLO's are always read
# The files that identify each format, for messages.
_SIGNS = {
    Format.COCO: coco_layouts.SIGNS,
    Format.VOC: "*.xml in Annotations/ or beside the images",
    Format.YOLO: "images/ with labels/ and data.yaml or classes.txt",
    Format.FOLDER: "image files",
    Format.OPEN_IMAGES: "*-annotations-bbox.csv",
    Format.CROWDHUMAN: "annotation_*.odgt",
    Format.WEBDATASET: "*.tar",
    Format.CSV: "*.csv with path,label",
    Format.CLASSES: "images in CLASS/ or SPLIT/CLASS/ without annotation files",
}
