"""Detects objects on image files; draws them and writes them as JSON.

python -m detector.predict runs/fcos/best.pt photo.jpg holiday/

Images are read as by `fastload build-cache --exif-rotate` and preprocessed as in training. The detections equal those
of `detector.evaluate` on a cache of the images, if batches hold the same images. In batches of 1, the default here,
they do not depend on other images.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from detector import checkpoint
from detector.checkpoint import Categories
from detector.cli import Positional, parse, tell_errors
from detector.errors import DataError
from detector.infer.drawing import draw_objects
from detector.infer.evaluation import settings_of
from detector.infer.files import ImageFiles
from detector.infer.postprocess import Detections
from detector.infer.stream import PredictStream
from detector.preprocess import Overrides
from detector.runtime import keep_freed_memory, pick_device, pick_dtype
from fastload import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Options(Overrides):
    """Detect objects on images with a checkpoint; draw the detections and write them as JSON."""

    checkpoint: Positional[Path]
    """Checkpoint file, such as runs/fcos/best.pt."""
    images: Positional[tuple[Path, ...]]
    """Image files, or folders of images."""
    out: Path = Path("predictions")
    """Output folder for the drawn images and predictions.json."""
    score: float = 0.3
    """Minimum score of the detections that are drawn and written."""
    batch_size: int = 1
    """Images per batch. A batch is padded to one size, so detections may differ slightly between batch sizes."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, ..."""
    workers: int = 2
    """Number of threads that read and decode images."""


def run(options: Options, console: Console) -> None:
    """Detect objects on images, and write drawings and predictions.json to the folder `options.out`."""
    keep_freed_memory()
    paths = find_images(options.images)
    device = pick_device(options.device)
    trained = checkpoint.load_model(options.checkpoint)
    config = options.config(trained.config, options.batch_size, options.workers)
    model = trained.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    options.out.mkdir(parents=True, exist_ok=True)
    dtype = pick_dtype(config, device)
    files = ImageFiles(
        paths, options.preprocess(trained.preprocess), config.batch_size, config.workers, device=device, dtype=dtype
    )
    found = {}
    for detections in PredictStream(model, files, model.decoder(settings_of(config)), device, dtype):
        for i, number in enumerate(detections.image_ids):
            path, image = paths[number], files.take(number)
            objects = as_objects(detections, i, trained.categories, options.score)
            found[str(path)] = objects
            drawing = options.out / f"{len(found):04d}-{path.stem}.png"
            draw_objects(image, objects, trained.categories).save(drawing)
            console.print(f"{path}: {len(objects)} objects -> {drawing}", soft_wrap=True, markup=False, highlight=False)
    (options.out / "predictions.json").write_text(json.dumps(found, indent=2) + "\n")
    if files.skipped:
        raise DataError("\n".join(files.skipped))


def as_objects(detections: Detections, i: int, categories: Categories, score: float) -> list[dict[str, Any]]:
    """The detections on image `i` of a batch with at least `score`.

    Returns:
        A dict per object: category, category_id, score, and box as [x0, y0, x1, y1] in pixels.
    """
    boxes, scores, labels = (part[i].tolist() for part in (detections.boxes, detections.scores, detections.labels))
    return [
        {
            "category": categories[label][1],
            "category_id": categories[label][0],
            "score": round(value, 4),
            "box": [round(edge, 2) for edge in box],
        }
        for box, value, label in zip(boxes, scores, labels, strict=True)
        if label >= 0 and value >= score
    ]


def find_images(paths: tuple[Path, ...]) -> list[Path]:
    """The image files among `paths`, and those in the folders among them."""
    images = []
    for path in paths:
        if path.is_dir():
            images += sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            images.append(path)
        else:
            raise DataError(f"There is no image or folder {path}.")
    if not images:
        raise DataError(
            f"No images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {', '.join(map(str, paths)) or 'nothing'}."
        )
    return images


if __name__ == "__main__":
    tell_errors(lambda: run(parse(Options), Console()))
