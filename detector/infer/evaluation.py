"""Evaluation: detections on a whole split, and COCO's figures for them."""

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
from detector.model.detector import Detector
from detector.model.head import Output
from detector.preprocess import Preprocess

Report = Callable[[int, int], None]  # called with (images done, all images)


def settings_of(config: Config) -> Settings:
    """The inference settings of a configuration."""
    return Settings(config.score_threshold, config.candidates, config.nms_threshold, config.max_detections)


def detect(
    stream: PredictStream, category_ids: list[int], images: int = 0, report: Report | None = None
) -> tuple[Results, Timing]:
    """All detections of a stream over `images` images, in COCO's results format.

    Args:
        stream: the detections.
        category_ids: (K) the category of each label.
        images: the number of images, for `report`.
        report: called with (images done, `images`).
    """
    results: Results = []
    done = 0
    for detections in stream:
        results += to_results(detections, list(detections.image_ids), category_ids)
        done += len(detections.image_ids)
        if report:
            report(done, images)
    return results, stream.timing


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation over all processes; `timing` is that of this process."""

    metrics: CocoMetrics
    results: Results = field(repr=False)
    timing: Timing


def evaluate(
    model: Detector,
    split: Split,
    config: Config,
    preprocess: Preprocess,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 8,
    few_shapes: bool = False,
    report: Report | None = None,
    network: Callable[[Any, Any], Output] | None = None,
) -> Evaluation:
    """Evaluate a model on a split. Every process must call this, and each gets the figures.

    Args:
        model: the detector, in evaluation mode.
        split: the images to evaluate on.
        config: its `workers` and inference settings are used.
        preprocess: the preprocessing that the model was trained with.
        device, dtype: the device and number format to compute in.
        batch_size: images per batch of each process.
        few_shapes: use few canvas sizes, for a compiled model: see `canvas_sizes`.
        report: called with (images done, all images) of this process.
        network: runs in place of `model`, such as a compiled one. Default: `model`.

    Raises:
        DataError: the annotation file lacks images of the split.
    """
    loader = evaluation_loader(split, preprocess, batch_size, config.workers, device, dtype, few_shapes)
    stream = PredictStream(network or model, loader, model.decoder(settings_of(config)), device, dtype)
    category_ids = [category_id for category_id, _ in split.categories]
    detected, timing = detect(stream, category_ids, len(loader.dataset), report)  # type: ignore[arg-type]  # it has a length
    results = distributed.gather(detected)
    metrics = distributed.on_first_rank(lambda: evaluate_coco(split.annotations, results))
    return Evaluation(metrics, results, timing)
