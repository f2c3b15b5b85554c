"""Makes a COCO folder of coloured blocks, small enough to learn by heart in seconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {1: "red", 4: "green", 9: "blue"}  # ids with gaps, as COCO's
COLORS = {1: (220, 40, 40), 4: (40, 200, 60), 9: (50, 70, 230)}


def make_blocks(folder: Path, splits: dict[str, int], seed: int = 0, upright: bool = True) -> Path:
    """Pictures of one to three blocks; the last of a split has none, the second's are crowds. Every other picture is
    upright, or none is."""
    rng = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True)
    for start, (split, count) in enumerate(splits.items()):
        (folder / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            image_id = 1000 * (start + 1) + 7 * i
            size = (64, 96) if upright and i % 2 == 0 else (96, 64)
            pixels = rng.integers(90, 150, (size[1], size[0], 3)).astype(np.uint8)
            for _ in range(rng.integers(1, 4) if i < count - 1 else 0):
                category = int(rng.choice(list(CLASSES)))
                w, h = rng.integers(14, 40, 2).tolist()
                x, y = int(rng.integers(0, size[0] - w)), int(rng.integers(0, size[1] - h))
                pixels[y : y + h, x : x + w] = COLORS[category]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                     "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(i == 1)}
                )  # fmt: skip
            name = f"{image_id:012d}.jpg"
            Image.fromarray(pixels).save(folder / split / name, quality=95)
            images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        categories = [{"id": key, "name": name} for key, name in CLASSES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
