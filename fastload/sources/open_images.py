"""Open Images: a CSV file of normalized boxes for each split, and one of class names."""

from __future__ import annotations

from array import array
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np

from fastload.annotations import Column
from fastload.errors import SourceError
from fastload.sources.base import SKIPPED, Dataset, Problem, Sample
from fastload.sources.files import digest_of, images_below, number_categories
from fastload.sources.listed import ListedSource, first_folder, header_of, read_rows, split_of

_FIELDS = ("ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax")
_FLAGS = {"IsGroupOf": "crowd", "IsOccluded": "occluded", "IsTruncated": "truncated"}
_COLUMNS = (Column("occluded", "bool"), Column("truncated", "bool"))


def find(root: Path) -> list[Dataset]:
    """Return a split for each CSV file with Open Images' header, in `root` or up to two folders below."""
    files = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(f"{depth}*.csv"))]
    boxes = [path for path in files if {*_FIELDS} <= {*header_of(path)}]
    return [split_of(root, split, partial(_source, root, path, split)) for path in boxes for split in [_split(path)]]


def _split(path: Path) -> str:
    """Return the split of `oidv6-train-annotations-bbox.csv`, or of FiftyOne's `train/labels/detections.csv`."""
    name = path.stem.partition("-annotations")[0].removeprefix("oidv6-")
    return path.parent.parent.name if path.parent.name == "labels" else name


def _source(root: Path, path: Path, split: str) -> ListedSource:
    names = _class_names(root, path)
    candidates = [home / name for home in (root, path.parent) for name in (split, f"images/{split}", "images")]
    files = {file.stem: file for file in images_below(first_folder([path.parent.parent / "data", *candidates], path))}
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
    unlisted = len(files.keys() - set(listed))
    counts = {"images of the file are not in its folder": len(absent), "images have no boxes in the file": unlisted}
    problems = tuple(Problem(-1, str(path), SKIPPED, f"{count} {what}") for what, count in counts.items() if count)
    digest = digest_of(boxes.tobytes(), labels.tobytes(), values.tobytes(), repr((categories, listed)).encode())
    columns = tuple(column for column in _COLUMNS if column.name in map(_FLAGS.get, flags))
    return ListedSource("open-images", str(path), digest, len(listed), sample, categories, columns, problems)


def _class_names(root: Path, path: Path) -> dict[str, str]:
    """Return the class names by their codes, such as /m/011k07."""
    homes = dict.fromkeys((root, path.parent, path.parent.parent / "metadata", root / "metadata"))
    files = [file for home in homes for name in ("*class-descriptions*.csv", "classes.csv") for file in home.glob(name)]
    if not files:
        raise SourceError(f"{path} has no class names: put class-descriptions-boxable.csv beside it.")
    return {row[0]: row[1] for row in read_rows(sorted(files)[0]) if len(row) > 1 and row[0].startswith("/")}
