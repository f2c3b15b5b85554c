"""Writes the sample set: a COCO folder, complete or not there at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastload.errors import SourceError
from fastload.tools.sample.outline import Points, polygons, run_lengths, signed_area
from fastload.tools.sample.scene import Kind, Scene, Thing, make_scene
from fastload.tools.sample.shapes import SHAPES

VERSION = 1  # of the pictures: raised when the same seed draws something else
JPEG = {"quality": 96, "subsampling": "4:4:4"}
CATEGORY_IDS = (1, 2, 3, 5, 6, 8, 11, 13)  # with gaps, as COCO's have
LEAST_SHARE = 0.2  # of a thing: where less can be seen, it is not annotated
LEAST_AREA = 20.0  # in pixels, likewise
Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all)


@dataclass(frozen=True)
class _Picture:
    """One line of the plan: which picture goes where."""

    number: int  # counts all pictures: with the seed, all that the picture depends on
    image_id: int
    split: str

    @property
    def name(self) -> str:
        return f"{self.image_id:012d}.jpg"


def make_sample(folder: str | Path, images: int = 300, seed: int = 0, progress: Progress | None = None) -> Path:
    """Draw a small dataset to try things on, in COCO's layout: annotations/instances_{train,val}.json, train/, val/.

    Four fifths are `train`. The same arguments, NumPy and Pillow give the same bytes. A folder that already holds this
    very set is left as it is. The set appears whole or not at all. It is drawn by several processes, so a script calls
    this below `if __name__ == "__main__":`.

        folder = make_sample("sample/", images=100)

    Args:
        folder: where to make it.
        images: how many, at least 2.
        seed: another seed gives other images.
        progress: is called with (images done, images in all).

    Returns:
        The folder's absolute path.

    Raises:
        SourceError: `folder` holds anything else.
    """
    folder = Path(folder).resolve()
    if images < 2:
        raise SourceError("a sample set has at least 2 images: one to train on, one to test on")
    info = {"description": "fastload sample set", "version": VERSION, "images": images, "seed": seed}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _check_same(folder, info)
        return folder
    if folder == Path.cwd():
        raise SourceError(f"{folder} is the folder you are in and cannot be replaced: name one to be made")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, info, progress or (lambda done, total: None))
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _check_same(folder: Path, info: dict[str, Any]) -> None:
    """Raise unless `folder` holds the sample set that `info` describes, with all its pictures."""
    for split in ("train", "val"):
        try:
            found = json.loads((folder / "annotations" / f"instances_{split}.json").read_bytes())
            made, names = found["info"], [image["file_name"] for image in found["images"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise SourceError(f"{folder} is not empty and holds no sample set: choose another folder") from None
        if made != info:
            raise SourceError(f"{folder} holds another sample set, {made}: remove it or choose another folder")
        missing = [name for name in names if not (folder / split / name).is_file()]
        if missing:
            raise SourceError(
                f"{folder / split}: {len(missing)} pictures are gone, {missing[0]} the first: remove {folder}"
            )


def _write(folder: Path, info: dict[str, Any], progress: Progress) -> None:
    plan = _plan(info["images"], info["seed"])
    for name in ("annotations", "train", "val"):
        (folder / name).mkdir()
    sets: dict[str, dict[str, Any]] = {
        split: {"info": info, "licenses": [], "images": [], "annotations": [], "categories": _categories()}
        for split in ("train", "val")
    }
    pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"))
    try:
        for done, (picture, size, found) in enumerate(pool.map(partial(_make, folder, info["seed"]), plan), 1):
            coco = sets[picture.split]
            entry = {"id": picture.image_id, "file_name": picture.name, "width": size[0], "height": size[1]}
            coco["images"].append(entry)
            for annotation in found:
                number = len(coco["annotations"]) + 1
                coco["annotations"].append({"id": number, "image_id": picture.image_id, **annotation})
            progress(done, len(plan))
    finally:
        pool.shutdown(cancel_futures=True)
    for split, coco in sets.items():
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))


def _plan(images: int, seed: int) -> list[_Picture]:
    """Ids are scattered, as COCO's are; the last fifth is `val`."""
    ids = np.sort(np.random.Generator(np.random.Philox(key=seed)).choice(600_000, images, replace=False) + 1)
    train = images - max(1, images // 5)
    return [_Picture(n, int(ids[n]), "train" if n < train else "val") for n in range(images)]


def _categories() -> list[dict[str, Any]]:
    return [
        {"id": number, "name": shape.name, "supercategory": shape.supercategory}
        for number, shape in zip(CATEGORY_IDS, SHAPES, strict=True)
    ]


def _kind(number: int) -> Kind:
    """One picture in 32 is empty, one in 16 is crowded, one in 8 has a heap."""
    if number % 32 == 10:
        return Kind.EMPTY
    return {3: Kind.CROWDED, 5: Kind.HEAP, 13: Kind.HEAP}.get(number % 16, Kind.USUAL)


def _make(folder: Path, seed: int, picture: _Picture) -> tuple[_Picture, tuple[int, int], list[dict[str, Any]]]:
    """Draw a picture and write its JPEG; returns it with its width and height and its annotations without ids."""
    rng = np.random.Generator(np.random.Philox(key=[seed, picture.number + 1]))
    scene = make_scene(rng, _kind(picture.number))
    image = Image.fromarray(scene.pixels)
    image.save(folder / picture.split / picture.name, "JPEG", **JPEG)
    things = [found for thing in scene.things if not thing.heap and (found := _annotation(thing))]
    return picture, image.size, things + _crowd(scene)


def _annotation(thing: Thing) -> dict[str, Any] | None:
    """COCO's annotation of what can be seen of a thing; None when that is too little."""
    assert thing.visible is not None
    corner = np.array(thing.window[:2], float)
    pieces = [piece + corner for piece in polygons(thing.visible)]
    if not pieces or thing.visible.sum() < max(LEAST_AREA, LEAST_SHARE * abs(signed_area(thing.points))):
        return None
    return {
        "category_id": CATEGORY_IDS[thing.label],
        "bbox": _box(np.concatenate(pieces)),
        "area": round(sum(signed_area(piece) for piece in pieces), 4),
        "iscrowd": 0,
        "segmentation": [piece.round(2).ravel().tolist() for piece in pieces],
    }


def _crowd(scene: Scene) -> list[dict[str, Any]]:
    """The crowd region of the picture's heap, if it has one."""
    heap = [thing for thing in scene.things if thing.heap]
    cover = np.zeros(scene.pixels.shape[:2], np.float32)
    for thing in heap:
        x0, y0, x1, y1 = thing.window
        assert thing.visible is not None
        cover[y0:y1, x0:x1] += thing.visible
    rows, cols = np.nonzero(cover > 0.5)
    if not len(rows):
        return []
    return [
        {
            "category_id": CATEGORY_IDS[heap[0].label],
            "bbox": _box(np.array([(cols.min(), rows.min()), (cols.max() + 1, rows.max() + 1)], float)),
            "area": len(rows),
            "iscrowd": 1,
            "segmentation": run_lengths(cover > 0.5),
        }
    ]


def _box(points: Points) -> list[float]:
    """COCO's x, y, width, height around points."""
    low, high = points.min(0), points.max(0)
    return [round(float(value), 2) for value in (*low, *(high - low))]
