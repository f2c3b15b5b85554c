"""The benchmark of masks: all loaders in interleaved rounds, and what masks cost beyond boxes."""

from __future__ import annotations

import json

from tests.benchmarks.test_benchmark import run
from tests.support.datasets import box, jpeg, write_coco


def test_masks_beyond_boxes(tmp_path):
    """Images whose objects all have polygons or run lengths are measured, the others skipped."""
    square = [[5, 5, 40, 5, 40, 30, 5, 30]]
    crowd = {"size": [48, 64], "counts": [100, 50, 48 * 64 - 150]}
    annotations = [
        box(1, 10, [5, 5, 35, 25], segmentation=square),
        box(2, 10, [2, 0, 3, 48], segmentation=crowd, iscrowd=1),
        box(3, 20, [5, 5, 35, 25]),
    ]
    coco = write_coco(tmp_path / "coco", {"a.jpg": jpeg(), "b.jpg": jpeg(seed=1)}, annotations)
    small = ("--rounds", "1", "--images", "4", "--stock-images", "2", "--batch-size", "2", "--threads", "1")
    done = run("masks.py", coco, "--split", "train", *small, "--json", tmp_path / "m.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "m.json").read_text())
    assert result["data"] == {"images": 1, "objects_per_image": 2}
    loaders = result["loaders"]
    assert loaders["boxes"]["ms_beyond_boxes"] == 0 and loaders["masks, unpacked"]["images_per_second"] > 0
    assert loaders["DataLoader, pycocotools"]["cpu_ms"] > 0
