"""CrowdHuman: a line of JSON for each image in `annotation_SPLIT.odgt`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastload.errors import SourceError
from fastload.sources.base import Category, Dataset, Pair, Sample, box_columns
from fastload.sources.files import digest_of, images_below, inside, read_bytes, unlisted_images
from fastload.sources.listed import ListedSource, first_folder, split_beside, split_of

_ID = re.compile(r'"ID"\s*:\s*("(?:[^"\\]|\\.)*")')
PREFIX = "annotation_"
PERSON = Category(1, "person")


def find(root: Path) -> list[Dataset]:
    """Return a split for each .odgt file in `root` or its `annotations` folder."""
    files = [*sorted(root.glob("*.odgt")), *sorted(root.glob("annotations/*.odgt"))]
    return [
        split_of(root, split, partial(_source, path, [root / name for name in _image_folders(split)]))
        for path in files
        for split in [path.stem.removeprefix(PREFIX)]
    ]


def pair(given: Pair) -> Dataset:
    """Return the dataset of one .odgt file and one image folder."""
    load = partial(_source, given.annotations, [given.images])
    return split_beside(given.annotations, load, given.annotations.stem.removeprefix(PREFIX))


def _image_folders(split: str) -> tuple[str, ...]:
    return (split, f"CrowdHuman_{split}/Images", f"CrowdHuman_{split}", "Images", "images", f"images/{split}")


def _source(path: Path, folders: Sequence[Path]) -> ListedSource:
    """Full-body boxes. Ignored persons and regions without single persons (`mask`) are crowds."""
    content = read_bytes(path)
    lines = [line for line in content.decode("utf-8-sig", "surrogateescape").split("\n") if line.strip()]
    folder = first_folder(folders, path)
    files = {file.stem: file for file in images_below(folder)}
    images = [_parsed(path, number, line) for number, line in enumerate(lines, 1)]
    first, total = [], 1
    for image in images:
        first.append(total)
        total += len(image["gtboxes"])
    first_line = {str(images[i]["ID"]): i for i in reversed(range(len(images)))}

    def sample(i: int) -> Sample:
        name, objects = str(images[i]["ID"]), images[i]["gtboxes"]
        columns = box_columns([(_full_box(each), PERSON.id) for each in objects], first[i])
        crowd = [each.get("tag") != "person" or _is_ignored(each) for each in objects]
        located = files.get(name) or inside(folder, f"{name}.jpg")
        skip = "its ID points outside the image folder" if located is None else None
        skip = skip or (f"an earlier line has the same ID {name}" if first_line[name] != i else None)
        return Sample(i + 1, f"{name}.jpg", located or folder, {**columns, "crowd": crowd}, skip_reason=skip)

    def elsewhere() -> list[str]:
        texts = [read_bytes(each).decode("utf-8-sig", "surrogateescape") for each in path.parent.glob("*.odgt")]
        names = [str(json.loads(match[1])) for text in texts for match in _ID.finditer(text)]
        return [files[name].name for name in names if name in files]

    listed = [files[name] for name in first_line if name in files]
    problems = tuple(unlisted_images(listed, str(path), elsewhere))
    digest = digest_of(content)
    return ListedSource("crowdhuman", str(path), digest, len(images), sample, (PERSON,), problems=problems)


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        image: Any = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{path}, line {number} is not valid JSON: {error}. Download it again.") from error
    boxes = image.get("gtboxes") if isinstance(image, dict) and "ID" in image else None
    if not isinstance(boxes, list) or not all(isinstance(box, dict) for box in boxes):
        raise SourceError(f"{path}, line {number} is no image of CrowdHuman: it needs `ID` and `gtboxes`.")
    return {"ID": image["ID"], "gtboxes": boxes}


def _is_ignored(entry: dict[str, Any]) -> bool:
    extra = entry.get("extra")
    return isinstance(extra, dict) and str(extra.get("ignore")) == "1"


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e9


def _full_box(entry: dict[str, Any]) -> list[float]:
    box = entry.get("fbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_coordinate, box)):
        return [float("nan")] * 4
    x, y, width, height = box
    return [x, y, x + width, y + height]
