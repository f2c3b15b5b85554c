"""COCO's detection metrics, computed by hotcoco if it is installed, else by pycocotools, with the same result."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError, DataError
from detector.infer.postprocess import Detections

Annotations = Path | str | dict[str, Any]
Results = list[dict[str, Any]]

# Name: (precision or recall, IoU threshold or None for all, area, detections per image), in the COCO API's order.
FIGURES = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "APs": ("precision", None, "small", 100),
    "APm": ("precision", None, "medium", 100),
    "APl": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "ARs": ("recall", None, "small", 100),
    "ARm": ("recall", None, "medium", 100),
    "ARl": ("recall", None, "large", 100),
}
IOUS = np.linspace(0.5, 0.95, 10)
AREAS = ("all", "small", "medium", "large")
LIMITS = (1, 10, 100)


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's 12 figures by name, and AP of each class with ground truth. A figure without ground truth is -1."""

    figures: dict[str, float]
    per_class: dict[str, float]


def evaluate_coco(annotations: Annotations, detections: Path | str | Results, backend: str = "auto") -> CocoMetrics:
    """Evaluate boxes with COCO's metrics.

    Args:
        annotations: a COCO annotation file, or its content.
        detections: a file or list in COCO's results format: image_id, category_id, bbox (x, y, w, h), score.
        backend: "hotcoco", "pycocotools", or "auto", the first that is installed.

    Raises:
        DataError: a file cannot be read, or detections belong to images that are not annotated.
        ConfigError: the backend is not installed.
    """
    truth = annotations if isinstance(annotations, dict) else _read_json(annotations)
    results = detections if isinstance(detections, list) else _read_json(detections)
    annotated = {image["id"] for image in truth["images"]}
    if unknown := sorted({result["image_id"] for result in results} - annotated):
        raise DataError(
            f"There are detections for {len(unknown)} images that are not annotated, such as image {unknown[0]}. "
            "Use the annotation file of the images that they were made on."
        )
    scores = _accumulate(_with_defaults(truth), results, backend)
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    by_class = {c["name"]: _mean(scores["precision"][:, :, k, 0, -1]) for k, c in enumerate(categories)}
    return CocoMetrics(
        figures={name: _figure(scores, *which) for name, which in FIGURES.items()},
        per_class={name: value for name, value in by_class.items() if value > -1},
    )


def coco_metrics(annotations: Annotations, detections: Path | str | Results) -> dict[str, float]:
    """COCO's 12 figures by name: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl."""
    return evaluate_coco(annotations, detections).figures


def to_results(detections: Detections, image_ids: list[int], category_ids: list[int]) -> Results:
    """Detections in pixels of the original images -> COCO's results format."""
    boxes, scores, labels = (part.tolist() for part in (detections.boxes, detections.scores, detections.labels))
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(score, 6),
        }
        for i, image_id in enumerate(image_ids)
        for (x0, y0, x1, y1), score, label in zip(boxes[i], scores[i], labels[i], strict=True)
        if label >= 0
    ]


def _read_json(path: Path | str) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {error}") from error


def _with_defaults(truth: dict[str, Any]) -> dict[str, Any]:
    """Annotations with the fields that the COCO API needs, which some files lack."""
    filled = []
    for i, annotation in enumerate(truth["annotations"]):
        width, height = annotation["bbox"][2:]
        filled.append({"id": i + 1, "iscrowd": 0, "area": width * height, **annotation})
    return {**truth, "annotations": filled}


def _accumulate(truth: dict[str, Any], results: Results, backend: str) -> dict[str, NDArray[np.float64]]:
    """The COCO API's arrays: precision (IoU, recall, class, area, limit) and recall (IoU, class, area, limit)."""
    api, evaluator = _backend(backend)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        expected = _as_coco(api, truth)
        if results:
            detected = expected.loadRes([dict(result) for result in results])  # loadRes changes its argument
        else:
            detected = _as_coco(api, {**truth, "annotations": []})
        evaluation = evaluator(expected, detected, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return {name: np.asarray(evaluation.eval[name]) for name in ("precision", "recall")}


def _backend(name: str) -> tuple[Any, Any]:
    if name in ("auto", "hotcoco"):
        try:
            import hotcoco

            return hotcoco.COCO, hotcoco.COCOeval
        except ImportError:
            if name == "hotcoco":
                raise ConfigError("hotcoco is not installed: pip install 'fastload-vision[eval]'") from None
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ConfigError("COCO's metrics need pycocotools: pip install 'fastload-vision[detector]'") from None
    return COCO, COCOeval


def _as_coco(api: Any, dataset: dict[str, Any]) -> Any:
    coco = api()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _figure(scores: dict[str, NDArray[np.float64]], kind: str, iou: float | None, area: str, limit: int) -> float:
    values = scores[kind][..., AREAS.index(area), LIMITS.index(limit)]
    return _mean(values if iou is None else values[np.isclose(IOUS, iou)])


def _mean(values: NDArray[np.float64]) -> float:
    """The mean over classes with ground truth; the others are marked -1."""
    measured = values[values > -1]
    return float(measured.mean()) if len(measured) else -1.0
