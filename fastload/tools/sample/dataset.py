"""Writes the sample set as a COCO folder, atomically."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastload.cache.progress import OnProgress, no_progress
from fastload.errors import SourceError
from fastload.tools.sample.outline import Points, polygons, run_lengths, signed_area
from fastload.tools.sample.scene import Kind, Scene, Thing, make_scene
from fastload.tools.sample.shapes import SHAPES

VERSION = 1  # of the images: increased when the same seed gives other images
JPEG = {"quality": 96, "subsampling": "4:4:4"}
CATEGORY_IDS = (1, 2, 3, 5, 6, 8, 11, 13)  # with gaps, as COCO's have
LEAST_SHARE = 0.2  # an object with a smaller visible share of its area is not annotated
LEAST_AREA = 20.0  # square pixels: an object with a smaller visible area is not annotated


@dataclass(frozen=True)
class _ImageSpec:
    """The number, id and split of one image."""

    number: int  # the position in the set; the image depends on it and on the seed only
    image_id: int
    split: str

    @property
    def name(self) -> str:
        return f"{self.image_id:012d}.jpg"


def make_sample(folder: str | Path, images: int = 300, seed: int = 0, progress: OnProgress | None = None) -> Path:
    """Generate a small dataset in COCO's layout: annotations/instances_{train,val}.json, train/ and val/.

    Four fifths of the images are `train`. The same arguments with the same versions of NumPy and Pillow give the same
    bytes. A folder that already holds this set is not changed. The folder is written atomically. Several processes draw
    the images, so scripts must call this function below `if __name__ == "__main__":`.

        folder = make_sample("sample/", images=100)

    Args:
        folder: the folder to create.
        images: number of images, at least 2.
        seed: seed of the images.
        progress: called with (images done, images in total).

    Returns:
        The absolute path of the folder.

    Raises:
        SourceError: `folder` holds something else or cannot be replaced, or `images` is less than 2.
    """
    folder = Path(folder).resolve()
    if images < 2:
        raise SourceError(f"{folder}: a sample set needs at least 2 images, one of each split, not {images}")
    info = {"description": "fastload sample set", "version": VERSION, "images": images, "seed": seed}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _check_same(folder, info)
        return folder
    if folder == Path.cwd():
        raise SourceError(f"{folder} is the current folder, which cannot be replaced: name a new folder")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, info, progress or no_progress)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _check_same(folder: Path, info: dict[str, Any]) -> None:
    """Check that `folder` holds the sample set that `info` describes, with all its images. SourceError if not."""
    for split in ("train", "val"):
        try:
            found = json.loads((folder / "annotations" / f"instances_{split}.json").read_bytes())
            made, names = found["info"], [image["file_name"] for image in found["images"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise SourceError(f"{folder} is not empty and not a sample set: choose another folder") from None
        if made != info:
            raise SourceError(f"{folder} holds another sample set, {made}: remove it or choose another folder")
        missing = [name for name in names if not (folder / split / name).is_file()]
        if missing:
            raise SourceError(
                f"{folder / split}: {len(missing)} images are missing, such as {missing[0]}: remove {folder}"
            )


def _write(folder: Path, info: dict[str, Any], progress: OnProgress) -> None:
    plan = _plan(info["images"], info["seed"])
    for name in ("annotations", "train", "val"):
        (folder / name).mkdir()
    sets: dict[str, dict[str, Any]] = {
        split: {"info": info, "licenses": [], "images": [], "annotations": [], "categories": _categories()}
        for split in ("train", "val")
    }
    pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"))
    try:
        for done, (spec, size, annotations) in enumerate(pool.map(partial(_make, folder, info["seed"]), plan), 1):
            coco = sets[spec.split]
            entry = {"id": spec.image_id, "file_name": spec.name, "width": size[0], "height": size[1]}
            coco["images"].append(entry)
            for annotation in annotations:
                number = len(coco["annotations"]) + 1
                coco["annotations"].append({"id": number, "image_id": spec.image_id, **annotation})
            progress(done, len(plan))
    finally:
        pool.shutdown(cancel_futures=True)
    for split, coco in sets.items():
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))


def _plan(images: int, seed: int) -> list[_ImageSpec]:
    """Choose image ids with gaps, like those of COCO. The last fifth is `val`."""
    ids = np.sort(np.random.Generator(np.random.Philox(key=seed)).choice(600_000, images, replace=False) + 1)
    train = images - max(1, images // 5)
    return [_ImageSpec(n, int(ids[n]), "train" if n < train else "val") for n in range(images)]


def _categories() -> list[dict[str, Any]]:
    return [
        {"id": number, "name": shape.name, "supercategory": shape.supercategory}
        for number, shape in zip(CATEGORY_IDS, SHAPES, strict=True)
    ]


def _kind(number: int) -> Kind:
    """One image in 32 is empty, one in 16 is crowded, one in 8 has a heap."""
    if number % 32 == 10:
        return Kind.EMPTY
    return {3: Kind.CROWDED, 5: Kind.HEAP, 13: Kind.HEAP}.get(number % 16, Kind.USUAL)


def _make(folder: Path, seed: int, spec: _ImageSpec) -> tuple[_ImageSpec, tuple[int, int], list[dict[str, Any]]]:
    """Draw and write an image. Returns its spec, its width and height, and its annotations without ids."""
    rng = np.random.Generator(np.random.Philox(key=[seed, spec.number + 1]))
    scene = make_scene(rng, _kind(spec.number))
    image = Image.fromarray(scene.pixels)
    image.save(folder / spec.split / spec.name, "JPEG", **JPEG)
    objects = [found for thing in scene.things if not thing.heap and (found := _annotation(thing))]
    return spec, image.size, objects + _crowd(scene)


def _annotation(thing: Thing) -> dict[str, Any] | None:
    """Return the COCO annotation of the visible part of an object, or None if that is too small."""
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
    """Return the crowd annotation of the scene's heap, if it has one."""
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
    """Return the bounding box of points as x, y, width, height."""
    low, high = points.min(0), points.max(0)
    return [round(float(value), 2) for value in (*low, *(high - low))]
