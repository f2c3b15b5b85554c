"""Detections on images of one's own, drawn and as JSON.

python -m detector.predict runs/fcos/best.pt photo.jpg holiday/

Images are read as `fastload build-cache --exif-rotate` reads them and preprocessed as the checkpoint says, by the code
that evaluates: the detections on an image are those of `detector.evaluate` on a cache of it, in batches of the same
images. In batches of 1, the default here, they do not depend on the other images.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from detector import checkpoint
from detector.checkpoint import Categories
from detector.command_line import Positional, parse, tell_errors
from detector.errors import DataError
from detector.evaluate import settings_of
from detector.memory import keep_freed_memory
from detector.postprocess import Detections
from detector.precision import pick_device, pick_format
from detector.preprocess import Overrides, Preprocess
from detector.stream import PredictStream
from fastload import IMAGE_SUFFIXES, Batch
from fastload.cache.index import Entry
from fastload.cache.memory import MemoryCache, read_images
from fastload.cache.record import HEADER_SIZE
from fastload.contact_sheet import draw
from fastload.sources.source import Category

AHEAD = 16  # images that are read, at least, before the first of them goes to the network


@dataclass(frozen=True)
class Options(Overrides):
    """Draws what a checkpoint detects on images, and writes it as JSON."""

    checkpoint: Positional[Path]
    """Such as runs/fcos/best.pt."""
    images: Positional[tuple[Path, ...]]
    """Images, or folders of images."""
    out: Path = Path("predictions")
    """The folder for the drawn images and predictions.json."""
    score: float = 0.3
    """Detections below are left out."""
    batch_size: int = 1
    """Images at a time. Those of a batch share a canvas, so that detections may differ a little between batch sizes."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    workers: int = 2
    """Threads that read and decode images."""


def run(options: Options, console: Console) -> None:
    """Predict as the command line asks."""
    keep_freed_memory()
    paths = find_images(options.images)
    device = pick_device(options.device)
    trained = checkpoint.load_model(options.checkpoint)
    config = replace(
        trained.config,
        workers=options.workers,
        batch_size=options.batch_size,
        precision=options.precision or trained.config.precision,
    )
    model = trained.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    options.out.mkdir(parents=True, exist_ok=True)
    dtype = pick_format(config, device)
    files = Files(
        paths, options.preprocess(trained.preprocess), config.batch_size, config.workers, device=device, dtype=dtype
    )
    found = {}
    for detections in PredictStream(model, files, config.strides, settings_of(config), device, dtype):
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


@dataclass(eq=False)
class Files:
    """Image files as batches, in order, for a `PredictStream`; `image_id` is a file's position in `paths`.

    Files are read while earlier ones are with the network; few are held at a time. `skipped` says of each file that
    cannot be read why, as soon as its turn has come.
    """

    paths: Sequence[Path]
    preprocess: Preprocess
    batch_size: int
    workers: int
    device: torch.device
    dtype: torch.dtype
    skipped: list[str] = field(default_factory=list, init=False)
    _records: dict[int, bytes] = field(default_factory=dict, init=False)

    def __iter__(self) -> Iterator[Batch]:
        sound, size = self._sound(), self.batch_size
        while images := list(islice(sound, size * -(-AHEAD // size))):
            self._records.update({entry.image_id: record for record, entry in images})
            yield from self.preprocess.loader(MemoryCache(images), size, self.workers, self.device, self.dtype)

    def take(self, number: int) -> Image.Image:
        """The upright image of a file, at its own size, once its batch has come; it can be taken once."""
        return Image.open(io.BytesIO(self._records.pop(number)[HEADER_SIZE:])).convert("RGB")

    def _sound(self) -> Iterator[tuple[bytes, Entry]]:
        for outcome in read_images(self.paths, workers=max(self.workers, 1)):
            if outcome.record is not None and outcome.entry is not None:
                yield outcome.record, outcome.entry
            else:
                self.skipped += [f"{problem.file} was skipped: {problem.reason}" for problem in outcome.problems]


def as_objects(detections: Detections, i: int, categories: Categories, score: float) -> list[dict[str, Any]]:
    """What is detected on image `i` of a batch with at least `score`: one dict an object, with category, category_id,
    score, and box as [x0, y0, x1, y1] in pixels."""
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


def draw_objects(image: Image.Image, objects: list[dict[str, Any]], categories: Categories) -> Image.Image:
    """The image with its objects' boxes, classes and scores."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    note: dict[str, Tensor] = {
        "boxes": torch.tensor([item["box"] for item in objects]).view(-1, 4),
        "labels": torch.tensor([item["category_id"] for item in objects], dtype=torch.int64),
        "scores": torch.tensor([item["score"] for item in objects]),
    }
    return draw([pixels], [note], [Category(key, name) for key, name in categories])


def find_images(paths: tuple[Path, ...]) -> list[Path]:
    """The image files that `paths` name or contain."""
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
