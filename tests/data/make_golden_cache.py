"""Makes tests/data/golden/cache.lmdb and its checksums: run it only when the format changes on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastload import Cache, FastLoader, RandomFlip, ScaleJitterCrop, Transform, _core
from fastload.cache.format.index import build_index
from fastload.cache.format.layout import Encoding
from fastload.cache.format.manifest import Manifest, describe_arrays
from fastload.cache.format.source_files import NO_FILE
from fastload.cache.write.checked_image import admit
from fastload.cache.write.fitting import scale_columns
from fastload.cache.write.ingest import encode, make_entry
from fastload.cache.write.resize import Reduction
from fastload.cache.write.writer import CacheWriter, Part
from fastload.plan.batch_plan import BatchPlan
from fastload.plan.image_index import ImageIndex
from fastload.sources.base import Category

DATA = Path(__file__).parent
NAMES = ("rgb", "s411", "gray_2x2", "scans_420")  # one for each encoding
GOLDEN = DATA / "golden" / "cache.lmdb"


def main() -> None:
    """Write one record of each encoding, the last of a picture made smaller, with 0 to 3 boxes."""
    records, entries = [], []
    for i, (name, encoding) in enumerate(zip(NAMES, Encoding, strict=True)):
        picture = admit((DATA / "jpeg" / f"{name}.jpg").read_bytes())
        stored = Reduction(short=12).apply(picture) if encoding == Encoding.PLANES else picture
        boxes = np.array([[k, 1, k + 2, 5] for k in range(i)], np.float32).reshape(i, 4)
        number = np.arange(i)
        columns = {
            "boxes": boxes,
            "label": number.astype(np.int32) % 2,
            "crowd": (number == 2).astype(np.uint8),
            "area": 8.5 - number,
            "annotation_id": 7 + number,
        }
        record, _ = encode(stored, encoding)
        columns = scale_columns(columns, picture.size, stored.size)
        records.append((2 * i, record))
        entries.append(make_entry(record, 100 + i, f"{name}.jpg", picture.size, columns))
    with CacheWriter.locked(GOLDEN.with_name("cache.lmdb.partial"), {"format": "golden"}) as unfinished:
        unfinished.commit(records, Part(8, build_index(entries), [], [NO_FILE] * 8))
        index = unfinished.index()
        categories = (Category(1, "person", "being"), Category(18, "dog"))
        source = {"format": "golden", "location": "tests/data/jpeg"}
        unfinished.finish(index, Manifest("dct", 4, 6, categories, source, describe_arrays(index)), GOLDEN)
    cache = Cache(GOLDEN)
    planes = [[f"{_core.xxh64(p.reshape(-1)):016x}" for p in decoded(cache, i)] for i in range(len(cache))]
    known = {"fingerprint": cache.fingerprint, "planes": planes, "boxes": cache.boxes.tolist(), "batches": batches()}
    GOLDEN.with_suffix(".json").write_text(json.dumps(known) + "\n")


class Quarters(Transform):
    """Each image and three random ones around a random point, each scaled to fit into the whole square."""

    spans_batches = True

    def __init__(self, size: int) -> None:
        self._size = np.array([size, size], np.int32)

    def __call__(self, plan: BatchPlan, rng: np.random.Generator, images: ImageIndex) -> None:
        count = len(plan.size)
        plan.join(images.plan(rng.integers(len(images), size=3 * count)))
        scale = (self._size / plan.size).min(1)
        plan.resize(np.maximum(np.floor(plan.size * scale[:, None] + 0.5), 1).astype(np.int32))
        into = np.tile(np.arange(count, dtype=np.int32), 4)
        point = np.rint(self._size * rng.uniform(0.25, 0.75, (count, 2))).astype(np.int32)[into]
        quadrant = np.repeat([[0, 0], [1, 0], [0, 1], [1, 1]], count, 0) == 1
        shown = np.minimum(plan.size, np.where(quadrant, self._size - point, point))
        plan.crop_to(np.concatenate([np.where(quadrant, 0, plan.size - shown), shown], 1))
        plan.compose(into, np.where(quadrant, point, point - shown), np.tile(self._size, (count, 1)))
        plan.min_visible = 0.1


def batches() -> list[dict[str, Any]]:
    """What a loader makes of the cache: checksums of images, and annotations, of each batch of three recipes."""
    recipes: list[list[Any]] = [[], [ScaleJitterCrop(40), RandomFlip()], [Quarters(48)]]
    names = ("boxes", "labels", "crowd", "area", "image_id", "offset", "flip", "size", "original_size")
    return [
        {"images": f"{_core.xxh64(images.permute(0, 2, 3, 1).numpy().reshape(-1)):016x}"}
        | {name: torch.nan_to_num(getattr(targets, name)).tolist() for name in names}
        for recipe in recipes
        for images, targets in FastLoader(
            GOLDEN, 2, transforms=recipe, scaled_decoding=False, generator=torch.Generator().manual_seed(0)
        )
    ]


def decoded(cache: Cache, index: int) -> list[np.ndarray]:
    """The planes of one image."""
    return _core.decode_record(cache.record_bytes(index))[0]


if __name__ == "__main__":
    main()
