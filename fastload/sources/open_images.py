"""Open Images: a CSV file of normalized boxes for each split, and one of class names."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np

from fastload.annotations import Column
from fastload.errors import SourceError
from fastload.sources.base import SKIPPED, Dataset, Pair, Problem, Sample
from fastload.sources.files import digest_of, images_below, number_categories, unlisted_images
from fastload.sources.listed import ListedSource, first_folder, header_of, read_rows, split_beside, split_of

_FIELDS = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax")
_FLAGS = {"IsGroupOf": "crowd", "IsOccluded": "occluded", "IsTruncated": "truncated"}
_COLUMNS = (Column("occluded", "bool"), Column("truncated", "bool"))


def find(root: Path) -> list[Dataset]:
    """Return a split for each CSV file with Open Images' header, in `root` or up to two folders below."""
    files = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(f"{depth}*.csv"))]
    boxes = [path for path in files if is_boxes(path)]
    homes = [(path, _split(path), [root, path.parent]) for path in boxes]
    return [
        split_of(root, split, partial(_source, path, _image_folders(path, split, folders), folders))
        for path, split, folders in homes
    ]


def pair(given: Pair) -> Dataset:
    """Return the dataset of one CSV file of boxes and one image folder."""
    path = given.annotations
    if not is_boxes(path):
        raise SourceError(f"{path} is no file of Open Images: its first line must have {', '.join(_FIELDS)}.")
    load = partial(_source, path, [given.images], [path.parent, path.parent.parent], given.classes)
    return split_beside(path, load, _split(path))


def is_boxes(path: Path) -> bool:
    """Return whether a CSV file has Open Images' header."""
    return {*_FIELDS} <= {*header_of(path)}


def _split(path: Path) -> str:
    """Return the split of `oidv6-train-annotations-bbox.csv`, or of FiftyOne's `train/labels/detections.csv`."""
    name = path.stem.partition("-annotations")[0].removeprefix("oidv6-")
    return path.parent.parent.name if path.parent.name == "labels" else name


def _image_folders(path: Path, split: str, homes: Sequence[Path]) -> list[Path]:
    folders = [home / name for home in homes for name in (split, f"images/{split}", "images")]
    return [path.parent.parent / "data", *folders]


def _source(path: Path, folders: Sequence[Path], homes: Sequence[Path], classes: Path | None = None) -> ListedSource:
    """Read a file of boxes, with the images in the first of `folders`, and the class names in `classes` or `homes`."""
    names = _class_names(path, [classes] if classes else _class_files(path, homes))
    files = {file.stem: file for file in images_below(first_folder(folders, path))}
    rows = read_rows(path)
    header = next(rows)
    flags = [name for name in _FLAGS if name in header]
    pick = itemgetter(*(header.index(name) for name in (*_FIELDS, *flags)))
    position_of: dict[str, int] = {}
    absent, label_of = set(), {mid: i for i, mid in enumerate(names, 1)}
    image, label, sides, flagged = array("q"), array("q"), array("d"), array("b")
    for row in rows:
        if len(row) != len(header):
            raise SourceError(f"{path}: a row has {len(row)} fields instead of {len(header)}: {row}. Correct it.")
        image_id, mid, x0, y0, x1, y1, *others = pick(row)
        if image_id not in files:
            absent.add(image_id)
            continue
        try:
            sides.extend((float(x0), float(y0), float(x1), float(y1)))
        except ValueError:
            sides.extend([np.nan] * 4)
        image.append(position_of.setdefault(image_id, len(position_of)))
        label.append(label_of.setdefault(mid, len(label_of) + 1))
        flagged.extend([other == "1" for other in others])
    if not position_of:
        raise SourceError(f"{path}: none of its {len(absent)} images is in the image folder. Download them into it.")
    listed, positions = list(position_of), np.array(image)
    order = np.argsort(positions, kind="stable")
    offsets = np.searchsorted(positions[order], np.arange(len(listed) + 1))
    boxes, labels = np.array(sides).reshape(-1, 4)[order], np.array(label)[order]
    values = np.array(flagged, np.bool_).reshape(len(image), len(flags))[order]

    def sample(i: int) -> Sample:
        own = slice(offsets[i], offsets[i + 1])
        columns = {"boxes": boxes[own], "label": labels[own], "annotation_id": np.arange(own.start, own.stop) + 1}
        columns |= {_FLAGS[name]: values[own, k] for k, name in enumerate(flags)}
        return Sample(i + 1, files[listed[i]].name, files[listed[i]], columns, relative=True)

    categories = number_categories(names.get(mid, mid) for mid in label_of)

    def elsewhere() -> set[str]:
        others = (each for each in path.parent.glob("*.csv") if each != path and is_boxes(each))
        ids = {row[header_of(each).index("ImageID")] for each in others for row in read_rows(each) if len(row) > 5}
        return {files[each].name for each in ids & files.keys()}

    reason = f"{len(absent)} images of the file are not in its folder"
    missing = [Problem(-1, str(path), SKIPPED, reason)] if absent else []
    problems = (*missing, *unlisted_images((files[each] for each in listed), str(path), elsewhere))
    digest = digest_of(boxes.tobytes(), labels.tobytes(), values.tobytes(), repr((categories, listed)).encode())
    columns = tuple(column for column in _COLUMNS if column.name in map(_FLAGS.get, flags))
    return ListedSource("open-images", str(path), digest, len(listed), sample, categories, columns, problems)


def _class_files(path: Path, homes: Sequence[Path]) -> list[Path]:
    folders = dict.fromkeys((*homes, path.parent.parent / "metadata", homes[0] / "metadata"))
    names = ("*class-descriptions*.csv", "classes.csv")
    return sorted(file for folder in folders for name in names for file in folder.glob(name))


def _class_names(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return the class names by their codes, such as /m/011k07."""
    if not files:
        raise SourceError(
            f"{path} has no class names: put class-descriptions-boxable.csv beside it, or give it by --classes."
        )
    names = {row[0]: row[1] for row in read_rows(files[0]) if len(row) > 1 and row[0].startswith("/")}
    if not names:
        raise SourceError(f"{files[0]} names no classes: its lines must be like /m/011k07,Tortoise.")
    return names
