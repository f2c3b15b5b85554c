"""Annotations and images that are given apart: what each format takes, and which format annotations have."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from fastload.errors import SourceError
from fastload.sources import classes as labeled
from fastload.sources import coco_layouts, crowdhuman, folder, open_images, voc, webdataset, yolo
from fastload.sources.advice import PYTHON, describe, unlike_annotations
from fastload.sources.base import Dataset, Extras, Pair
from fastload.sources.detect import Format, check_extras, format_named

Kind = Literal["file", "folder", "file or folder"]
_HEAD = 1 << 16  # bytes at the beginning of a file that are looked at


class Pairing(NamedTuple):
    """What a format takes.

    Args:
        pair: returns the dataset.
        sign: its annotations, for messages.
        annotations: what they are. Default: images need none.
        images: whether the images are given apart.
        classes: whether a file of class names may be given.
    """

    pair: Callable[[Pair], Dataset]
    sign: str
    annotations: Kind | None = "file"
    images: bool = True
    classes: bool = True


PAIRINGS = {
    Format.COCO: Pairing(coco_layouts.pair, "a JSON file with `images` and `categories`", classes=False),
    Format.VOC: Pairing(voc.pair, "a folder of .xml files", "folder"),
    Format.YOLO: Pairing(yolo.pair, "a folder of .txt files", "folder"),
    Format.OPEN_IMAGES: Pairing(open_images.pair, "a CSV file with ImageID, LabelName, XMin, ..."),
    Format.CROWDHUMAN: Pairing(crowdhuman.pair, "an .odgt file with `ID` and `gtboxes`", classes=False),
    Format.WEBDATASET: Pairing(webdataset.pair, "a .tar file or a folder of them", "file or folder", images=False),
    Format.CSV: Pairing(labeled.pair_csv, "a CSV file with path and label"),
    Format.CLASSES: Pairing(labeled.pair_folders, "a folder for each class", annotations=None),
    Format.FOLDER: Pairing(folder.pair, "image files", annotations=None, classes=False),
}


def paired_dataset(
    annotations: Path | None,
    images: Path | None,
    format: Format | str | None = None,
    classes: Path | None = None,
    columns: Sequence[str] = (),
    masks: bool = False,
    keypoints: bool = False,
) -> Dataset:
    """Return the dataset of annotations and images that are given apart.

        dataset = paired_dataset(Path("voc/annots"), Path("photos"))
        build_cache(dataset.load(), dataset.cache)

    Args:
        annotations: the file or folder of annotations; None for the formats "classes" and "folder".
        images: the image folder; None for "webdataset".
        format: a `Format` or its value. Default: detected by the content of `annotations`.
        classes: a file of class names, one a line in order; for "yolo" also its YAML file; for "open-images" its CSV
            file of descriptions. Default: as `annotations` state them, or a file beside them.
        columns: extra columns to read (see `Request`).
        masks: whether to read the polygons and masks of objects of a COCO dataset.
        keypoints: whether to read the keypoints of objects of a COCO dataset.

    Raises:
        SourceError: a path does not exist or is not what the format takes, or the format is not recognized.
    """
    for option, path in (("--annotations", annotations), ("--images", images), ("--classes", classes)):
        if path is not None and not path.exists():
            raise SourceError(f"{option} {path} does not exist: check the path.")
    extras = Extras(columns, masks, keypoints)
    if format is not None:
        format = format_named(format)
    elif annotations is not None:
        format = format_of(annotations) or _unrecognized(annotations)
    else:
        raise SourceError(
            f"{images} is given without annotations: add --annotations FILE|DIR, or --format folder for images without "
            "boxes, or --format classes for a folder of images for each class."
        )
    takes = PAIRINGS[format]
    _check_option(format, "annotations", annotations, takes.annotations, takes.sign)
    _check_option(format, "images", images, "folder" if takes.images else None, "the image folder")
    _check_option(format, "classes", classes, "file" if takes.classes else None, "class names", optional=True)
    home = annotations or images
    assert home is not None
    check_extras(format, home, extras)
    return takes.pair(Pair(home, images or home, classes, extras))


def format_of(annotations: Path) -> Format | None:
    """Return the format of a file or a folder of annotations by its content, or None if it is none that is known."""
    if annotations.is_dir():
        signs = {
            Format.VOC: voc.has_xml(annotations),
            Format.WEBDATASET: next(annotations.glob("*.tar"), None) is not None,
            Format.YOLO: next(annotations.rglob("*.txt"), None) is not None,
        }
        return next((format for format, found in signs.items() if found), None)
    with suppress(OSError):
        with open(annotations, "rb") as stream:
            head = stream.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
        if head.startswith((b"{", b"[")):
            return Format.CROWDHUMAN if b'"gtboxes"' in head else Format.COCO
        if tarfile.is_tarfile(annotations):
            return Format.WEBDATASET
        tables = {Format.OPEN_IMAGES: open_images.is_boxes, Format.CSV: labeled.is_csv}
        return next((format for format, matches in tables.items() if matches(annotations)), None)
    return None


def _unrecognized(annotations: Path) -> Format:
    if why := unlike_annotations(annotations):
        raise SourceError(why)
    signs = ", ".join(f"{takes.sign} ({format.value})" for format, takes in PAIRINGS.items() if takes.annotations)
    where = f"in {annotations}, which holds {describe(annotations)}" if annotations.is_dir() else f"in {annotations}"
    raise SourceError(
        f"no annotations recognized {where}: looked for {signs}. Choose one with --format, or in Python {PYTHON}."
    )


def _check_option(
    format: Format, option: str, path: Path | None, wanted: Kind | None, sign: str, optional: bool = False
) -> None:
    """Raise a SourceError if an option is given where the format has none, is missing, or is no file or no folder."""
    if path is None:
        if wanted and not optional:
            raise SourceError(f"{format.value} needs {sign}: add --{option} {_placeholder(wanted)}.")
    elif wanted is None:
        raise SourceError(f"{format.value} takes no --{option}: leave it out.")
    elif (wanted == "file" and path.is_dir()) or (wanted == "folder" and not path.is_dir()):
        found = f"a folder, which holds {describe(path)}" if path.is_dir() else "a file"
        raise SourceError(f"--{option} {path} is {found}: {format.value} needs {sign} there ({_placeholder(wanted)}).")


def _placeholder(kind: Kind) -> str:
    return {"file": "FILE", "folder": "DIR", "file or folder": "FILE|DIR"}[kind]
