"""Draws predictions, alone or beside ground truth."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.checkpoint import Categories
from detector.data import Split, evaluation_batch
from detector.infer.coco import Results
from detector.preprocess import Preprocess
from fastload import Category, draw

SHOWN_IMAGES = 8  # each drawn twice, in four columns
SHOWN_SCORE = 0.5  # lower scores would clutter the image


def draw_predictions(path: Path, split: Split, results: Results, preprocess: Preprocess) -> None:
    """Draw some images of a split as a PNG, with annotations on the left and predictions on the right."""
    chosen = np.linspace(0, len(split.cache) - 1, min(SHOWN_IMAGES, len(split.cache))).round().astype(int)
    images, targets = evaluation_batch(split, chosen.tolist(), preprocess)
    shown = defaultdict(list)
    for result in results:
        if result["score"] >= SHOWN_SCORE:
            shown[result["image_id"]].append(result)
    drawn, objects, captions = [], [], []
    for i, target in enumerate(targets):
        drawn += [images[i], images[i]]
        predicted = as_target(shown[target["image_id"]])
        predicted["boxes"] = predicted["boxes"] * targets.scale[i].repeat(2) + targets.offset[i].repeat(2)
        objects += [target, predicted]
        captions += [f"image {target['image_id']}: annotated", "predicted"]
    draw(drawn, objects, split.cache.categories, captions).save(path)


def as_target(results: Results) -> dict[str, Any]:
    """Convert results of one image to boxes (n, 4) xyxy, labels (n) and scores (n)."""
    boxes = torch.tensor([result["bbox"] for result in results]).view(-1, 4)
    return {
        "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        "labels": torch.tensor([result["category_id"] for result in results], dtype=torch.int64),
        "scores": torch.tensor([result["score"] for result in results]),
    }


def draw_objects(image: Tensor, objects: list[dict[str, Any]], categories: Categories) -> Image.Image:
    """Draw boxes, classes and scores of objects on an image (3, H, W) uint8."""
    target: dict[str, Tensor] = {
        "boxes": torch.tensor([item["box"] for item in objects]).view(-1, 4),
        "labels": torch.tensor([item["category_id"] for item in objects], dtype=torch.int64),
        "scores": torch.tensor([item["score"] for item in objects]),
    }
    return draw([image], [target], [Category(key, name) for key, name in categories])
