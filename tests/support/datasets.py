"""Small datasets on disk, for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 1, "name": "person", "supercategory": "person"},
]


def pixels(width: int, height: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """A smooth picture (H, W, channels) uint8 that is different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, channels), np.uint8).squeeze())
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, format: str = "JPEG", **options) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, format, **options)
    return stream.getvalue()


def jpeg(width: int = 64, height: int = 48, seed: int = 0, **options) -> bytes:
    """The bytes of a JPEG."""
    return encoded(pixels(width, height, seed), **{"quality": 90, "subsampling": 0, **options})


def write_coco(
    root: Path,
    files: dict[str, bytes],
    annotations: list[dict] | None = None,
    split: str = "train",
    sizes: dict[str, tuple[int, int]] | None = None,
) -> Path:
    """A COCO folder holding `files`; image ids are 10, 20, 30 ... Without `annotations` each gets one box."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    images = []
    for i, (name, data) in enumerate(files.items(), start=1):
        (root / split / name).write_bytes(data)
        width, height = (sizes or {}).get(name, (64, 48))
        images.append({"id": 10 * i, "file_name": name, "width": width, "height": height})
    if annotations is None:
        annotations = [box(i + 1, image["id"], [1, 2, 10 + i, 20]) for i, image in enumerate(images)]
    document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def box(id: int, image_id: int, bbox: list, category_id: int = 1, **more) -> dict:
    """A COCO annotation; `bbox` is x, y, w, h."""
    return {"id": id, "image_id": image_id, "bbox": bbox, "category_id": category_id, **more}


def many_jpegs(count: int) -> dict[str, bytes]:
    """`count` different small JPEGs by file name."""
    return {f"{i:05}.jpg": jpeg(seed=i) for i in range(count)}


def awkward_jpegs(count: int) -> dict[str, bytes]:
    """`many_jpegs`, every 17th of them broken or, in turn, a PNG under its name."""
    files = many_jpegs(count)
    for i in range(0, count, 17):
        files[f"{i:05}.jpg"] = (b"broken", encoded(pixels(64, 48, i), "PNG"))[i % 2]
    return files
