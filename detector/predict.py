"""Detections on pictures of one's own, drawn and as JSON.

python -m detector.predict runs/fcos/best.pt photo.jpg holiday/
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from torch import Tensor

from detector import checkpoint
from detector.checkpoint import Categories
from detector.command_line import Positional, parse, tell_errors
from detector.config import Config
from detector.errors import DataError
from detector.evaluate import settings_of
from detector.fcos import SIZE_DIVISOR
from detector.memory import keep_freed_memory
from detector.postprocess import Detections
from detector.precision import pick_device, pick_format
from detector.stream import PredictStream
from fastload import CenterAlign
from fastload.cache.picture import eight_bits
from fastload.contact_sheet import draw
from fastload.sources.source import Category

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Options:
    """Draws what a checkpoint detects on pictures, and writes it as JSON."""

    checkpoint: Positional[Path]
    """Such as runs/fcos/best.pt."""
    images: Positional[tuple[Path, ...]]
    """Pictures, or folders of pictures."""
    out: Path = Path("predictions")
    """The folder for the drawn pictures and predictions.json."""
    score: float = 0.3
    """Detections below are left out."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""


def run(options: Options, console: Console) -> None:
    """Predict as the command line asks."""
    keep_freed_memory()
    pictures = find_pictures(options.images)
    device = pick_device(options.device)
    model, config, categories = checkpoint.load_model(options.checkpoint)
    config = replace(config, score_threshold=options.score)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    options.out.mkdir(parents=True, exist_ok=True)
    opened: deque[tuple[Path, Image.Image]] = deque()
    unreadable: list[DataError] = []
    batches, dtype = _batches(pictures, config, opened, unreadable), pick_format(config, device)
    found = {}
    for detections in PredictStream(model, batches, config.strides, settings_of(config), device, dtype):
        path, image = opened.popleft()
        objects = [item for item in as_objects(detections, categories) if item["score"] >= options.score]
        found[str(path)] = objects
        drawing = options.out / f"{len(found):04d}-{path.stem}.png"
        draw_objects(image, objects, categories).save(drawing)
        console.print(f"{path}: {len(objects)} objects -> {drawing}", soft_wrap=True, markup=False, highlight=False)
    (options.out / "predictions.json").write_text(json.dumps(found, indent=2) + "\n")
    if unreadable:
        raise DataError("\n".join(map(str, unreadable)))


@dataclass(frozen=True)
class Placement:
    """Where pictures lie on their canvas: what a stream needs of targets. See `fastload.batch.Targets`."""

    offset: Tensor  # (B, 2)
    size: Tensor  # (B, 2)
    scale: Tensor  # (B, 2)
    original_size: Tensor  # (B, 2)
    image_id: Tensor  # (B)

    def to(self, device: torch.device) -> Placement:
        moved = {name: value.to(device) for name, value in vars(self).items() if name != "image_id"}
        return replace(self, **moved)


def _batches(
    pictures: list[Path], config: Config, opened: deque[tuple[Path, Image.Image]], unreadable: list[DataError]
) -> Iterator[tuple[Tensor, Placement]]:
    """Each picture as a batch of 1. What was read is left in `opened`, and why it was not in `unreadable`."""
    for i, path in enumerate(pictures):
        try:
            image = read_picture(path)
        except DataError as error:
            unreadable.append(error)
            continue
        opened.append((path, image))
        yield as_batch(image, i, config)


def as_batch(image: Image.Image, number: int, config: Config) -> tuple[Tensor, Placement]:
    """A picture at the test size on a canvas of its own: uint8 (1, 3, H, W), and where it lies there."""
    short, long = sorted(image.size)
    factor = min(config.test_size / short, config.test_max_size / long)
    width, height = (max(round(edge * factor), 1) for edge in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    batch, (target,) = CenterAlign(divisor=SIZE_DIVISOR)([(resized, {})])
    size, original = torch.tensor([[width, height]]), torch.tensor([image.size])
    placement = Placement(
        offset=target["offset"][None].float(),
        size=size.flip(1),
        scale=size / original,
        original_size=original.flip(1),
        image_id=torch.tensor([number]),
    )
    return batch.contiguous(memory_format=torch.channels_last), placement


def as_objects(detections: Detections, categories: Categories) -> list[dict[str, Any]]:
    """One dict an object: category, category_id, score, and box as [x0, y0, x1, y1] in pixels."""
    boxes, scores, labels = (part[0].tolist() for part in (detections.boxes, detections.scores, detections.labels))
    return [
        {
            "category": categories[label][1],
            "category_id": categories[label][0],
            "score": round(score, 4),
            "box": [round(edge, 2) for edge in box],
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
        if label >= 0
    ]


def draw_objects(image: Image.Image, objects: list[dict[str, Any]], categories: Categories) -> Image.Image:
    """The picture with its objects' boxes, classes and scores."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    note: dict[str, Tensor] = {
        "boxes": torch.tensor([item["box"] for item in objects]).view(-1, 4),
        "labels": torch.tensor([item["category_id"] for item in objects], dtype=torch.int64),
        "scores": torch.tensor([item["score"] for item in objects]),
    }
    return draw([pixels], [note], [Category(key, name) for key, name in categories])


def find_pictures(paths: tuple[Path, ...]) -> list[Path]:
    """The pictures that `paths` name or contain."""
    pictures = []
    for path in paths:
        if path.is_dir():
            pictures += sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        elif path.is_file():
            pictures.append(path)
        else:
            raise DataError(f"There is no picture or folder {path}.")
    if not pictures:
        raise DataError(f"No pictures ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths)) or 'nothing'}.")
    return pictures


def read_picture(path: Path) -> Image.Image:
    """A picture in RGB, upright as its EXIF data says. DataError names a file that is none."""
    try:
        with Image.open(path) as image:
            return eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them trip over
        raise DataError(f"{path} is not a picture that can be read: {error}") from error


if __name__ == "__main__":
    tell_errors(lambda: run(parse(Options), Console()))
