"""Finding COCO files and their image folders in the layouts that datasets and annotation tools have."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections import Counter
from functools import partial
from pathlib import Path

from fastload.sources.base import Dataset, Extras, Pair
from fastload.sources.coco import CocoSource, file_name
from fastload.sources.files import CACHE_FOLDER, images_below
from fastload.sources.listed import split_beside

SIGNS = "*.json or annotations/*.json with `images` and `categories`"
MANY = 64  # files or folders: of a folder that has more, none is searched
HEAD = 1 << 20  # bytes at either end of a file that are looked at
_NAME = re.compile(r'"(file_name|coco_url)"\s*:\s*("(?:[^"\\]|\\.)*")')


def coco_files(root: Path, keypoints: bool = False) -> list[Path]:
    """Return the COCO files of the dataset in a folder.

    Files of COCO's own names are taken if there are any, so that captions stay apart. Other files are found by their
    content: in `annotations` and in the folder itself, or else in its subfolders, where Roboflow has them.
    """
    for task in ("person_keypoints", "instances") if keypoints else ("instances",):
        if found := sorted((root / "annotations").glob(f"{task}_*.json")):
            return found
    subfolders = [path for path in sorted(root.glob("*/")) if path.name != CACHE_FOLDER and path.name[0] != "."]
    for folders in ([root / "annotations", root], subfolders if len(subfolders) <= MANY else []):
        if found := [path for folder in folders for path in _json_files(folder) if _is_coco(path)]:
            return found
    return []


def find(root: Path, extras: Extras) -> list[Dataset]:
    """Return the splits of the COCO dataset in a folder.

    Args:
        root: the folder.
        extras: what to read besides boxes.
    """
    files = coco_files(root, extras.keypoints)
    in_folder = Counter(path.parent for path in files)
    splits = [_split(path, root, in_folder[path.parent]) for path in files]
    datasets = []
    for path, split in zip(files, splits, strict=True):
        name = f"{path.parent.name}-{split}" if splits.count(split) > 1 else split
        candidates = _image_folders(root, path)
        images = _with_images(path, candidates, alone=len(files) == 1)
        if images is not None:
            load = partial(CocoSource, path, images, *extras)
            datasets.append(Dataset(name, root / CACHE_FOLDER / f"{name}.lmdb", load))
            continue
        searched = ", ".join(map(str, candidates))
        missing = f"{path} has no image folder: looked for {searched}. Use --annotations with --images."
        datasets.append(Dataset(name, root, partial(CocoSource, path, candidates[0], *extras), missing))
    return datasets


def pair(given: Pair) -> Dataset:
    """Return the dataset of one COCO file and one image folder."""
    load = partial(CocoSource, given.annotations, given.images, *given.extras)
    return split_beside(given.annotations, load, given.annotations.stem.removeprefix("instances_"))


def _split(path: Path, root: Path, files: int) -> str:
    """Return the split of a file in a folder of so many `files`."""
    own_folder = path.parent not in (root, root / "annotations") and files == 1
    return path.parent.name if own_folder else path.stem.removeprefix("instances_")


def _image_folders(root: Path, path: Path) -> list[Path]:
    """Return the folders that may hold the images of a file, the likeliest first, the largest last."""
    home = path.parent
    if home not in (root, root / "annotations"):
        return [home / "images", home / "data", home]
    stem = path.stem.removeprefix("instances_")
    names = dict.fromkeys([stem, stem.rpartition("_")[2]])  # of person_keypoints_val2017, val2017
    folders = [folder / name for name in names for folder in (root, root / "images", home)]
    return [*dict.fromkeys(folders), root / "images", root / "data", root]


def _with_images(path: Path, candidates: list[Path], alone: bool) -> Path | None:
    """Return the first folder of the split's name, or else the folder in which the first images are.

    The last candidate, which may hold the images of other files too, is taken without them if the file is alone.
    """
    *own, images, data, whole = candidates
    names = _first_names(path)
    existing = [folder for folder in (*own, images, data) if folder.is_dir()]
    exact = [each for each in (images, data, whole) if any(os.path.isfile(each / name) for name in names)]
    in_order = [*(folder for folder in existing if folder in own), *exact, *existing]
    return next(iter(in_order), whole if alone and images_below(whole) else None)


def _first_names(path: Path) -> list[str]:
    with open(path, "rb") as stream:
        text = stream.read(HEAD).decode("utf-8-sig", "replace")
    found: dict[str, list[str]] = {"file_name": [], "coco_url": []}
    for key, value in _NAME.findall(text):
        try:
            found[key].append(file_name({key: json.loads(value)}))
        except ValueError:
            continue
    return [name for name in (found["file_name"] or found["coco_url"])[:4] if name and "\0" not in name]


def _json_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(".json") and name[0] != "."]
    return [folder / name for name in names] if len(names) <= MANY else []  # many: one an image, as labelme writes them


def _is_coco(path: Path) -> bool:
    """Return whether a file is a JSON object with `images` and `categories`, but not of panoptic segments."""
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            ends = content[:HEAD], content[-HEAD:]
            return (
                ends[0].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
                and not any(b'"segments_info"' in end for end in ends)
                and content.rfind(b'"categories"') >= 0
                and content.find(b'"images"') >= 0
            )
    except (OSError, ValueError):
        return False
