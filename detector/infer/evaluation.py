"""Evaluation: detections of a whole split, and COCO's figures for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from detector import distributed
from detector.config import Config
from detector.data import Split, evaluation_loader
from detector.infer.coco import CocoMetrics, Results, evaluate_coco, to_results
from detector.infer.postprocess import Settings
from detector.infer.stream import PredictStream, Timing
from detector.model.fcos import Predictions
from detector.preprocess import Preprocess

Report = Callable[[int, int], None]  # is called with (images done, images in all)


def settings_of(config: Config) -> Settings:
    """The inference settings of a configuration."""
    return Settings(config.score_threshold, config.candidates, config.nms_threshold, config.max_detections)


def detect(
    stream: PredictStream, category_ids: list[int], images: int = 0, report: Report | None = None
) -> tuple[Results, Timing]:
    """All detections of a stream of `images` in COCO's results format. Label i is the category `category_ids[i]`."""
    results: Results = []
    done = 0
    for found in stream:
        results += to_results(found, list(found.image_ids), category_ids)
        done += len(found.image_ids)
        if report:
            report(done, images)
    return results, stream.timing


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, over all processes; the timing is this process's own."""

    metrics: CocoMetrics
    results: Results = field(repr=False)
    timing: Timing


def evaluate(
    model: Callable[[Any], Predictions],
    split: Split,
    config: Config,
    preprocess: Preprocess,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 8,
    few_shapes: bool = False,
    report: Report | None = None,
) -> Evaluation:
    """Evaluate a model on a split. Every process must take part; each gets the figures.

    Args:
        model: in evaluation mode.
        split: what to evaluate on.
        config: of which `strides`, `workers` and the settings of inference are used.
        preprocess: what was done to images in training.
        device, dtype: where and in what format to compute.
        batch_size: images at a time, of each process.
        few_shapes: for a compiled model: see `canvas_sizes`.
        report: is called with (images done, images in all) of this process.

    Raises:
        DataError: detections of images that are not annotated.
    """
    loader = evaluation_loader(split, preprocess, batch_size, config.workers, device, dtype, few_shapes)
    stream = PredictStream(model, loader, config.strides, settings_of(config), device, dtype)
    category_ids = [category_id for category_id, _ in split.categories]
    found, timing = detect(stream, category_ids, len(loader.dataset), report)  # type: ignore[arg-type]  # it has a length
    results = distributed.gather(found)
    metrics = distributed.on_first_rank(lambda: evaluate_coco(split.annotations, results))
    return Evaluation(metrics, results, timing)
