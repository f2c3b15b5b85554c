"""Fitting a sample's boxes to the picture that was really found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastload.sources.source import Problem, Sample

ROUNDING = 0.5  # pixels by which a box may reach beyond its picture without being worth a word


@dataclass(frozen=True, slots=True)
class FittedBoxes:
    """The G boxes that stay, in pixels of the decoded picture and inside it."""

    boxes: NDArray[np.float32]  # (G, 4) x0, y0, x1, y1
    label: NDArray[np.int32]  # (G)
    crowd: NDArray[np.uint8]  # (G)
    area: NDArray[np.float32]  # (G)
    annotation_id: NDArray[np.int64]  # (G)


def fit_boxes(
    sample: Sample, size: tuple[int, int], orientation: int, label_of: dict[int, int]
) -> tuple[FittedBoxes, list[Problem]]:
    """The sample's boxes clipped to a picture of `size` (width, height); without those that have no area inside it,
    or a category that `label_of` does not know. What was dropped or clipped is told.

    `orientation` is the EXIF orientation that the picture was turned by. Boxes are taken to refer to the upright
    picture, unless the source states the size of the unturned one: then they are turned with it.
    """
    source = sample.boxes
    boxes = source.xyxy * np.tile(size, 2) if source.relative else source.xyxy
    if orientation != 1 and sample.size is not None and sample.size != size:
        boxes = turn_boxes(boxes, orientation, sample.size)
    clipped = np.clip(boxes, 0, np.tile(size, 2)).astype(np.float32)
    beyond = np.abs(clipped - boxes).max(1, initial=0)
    has_area: NDArray[np.bool_] = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)  # false for NaN
    known = np.isin(source.category_ids, list(label_of))
    problems = []
    for row in np.flatnonzero(~known | ~has_area | (beyond > ROUNDING)):
        kind, why = _verdict(boxes[row], bool(known[row]), bool(has_area[row]), size)
        what = f"annotation {source.ids[row]} {_shown(boxes[row])}"
        category = "" if known[row] else f" {source.category_ids[row]}"
        problems.append(Problem(sample.image_id, sample.name, kind, f"{what}: {why}{category}"))
    kept = known & has_area
    return _keep(sample, clipped, kept, label_of), problems


def turn_boxes(boxes: NDArray[np.float64], orientation: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes (G, 4) of a stored picture of `size` (width, height) as they lie once EXIF `orientation` is applied."""
    width, height = size
    x0, y0, x1, y1 = boxes.T
    turned = {
        1: (x0, y0, x1, y1),
        2: (width - x1, y0, width - x0, y1),
        3: (width - x1, height - y1, width - x0, height - y0),
        4: (x0, height - y1, x1, height - y0),
        5: (y0, x0, y1, x1),
        6: (height - y1, x0, height - y0, x1),
        7: (height - y1, width - x1, height - y0, width - x0),
        8: (y0, width - x1, y1, width - x0),
    }
    return np.stack(turned[orientation], 1)


def _verdict(box: NDArray[np.float64], known: bool, has_area: bool, size: tuple[int, int]) -> tuple[str, str]:
    if not known:
        return "box dropped", "unknown category"
    if not np.isfinite(box).all():
        return "box dropped", "not four numbers"
    if not np.all(box[2:] > box[:2]):
        return "box dropped", "no area"
    if not has_area:
        return "box dropped", f"outside the image of {size[0]} x {size[1]}"
    return "box clipped", f"partly outside the image of {size[0]} x {size[1]}"


def _shown(box: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{number:.6g}" for number in box) + "]"


def _keep(sample: Sample, boxes: NDArray[np.float32], kept: NDArray[np.bool_], label_of: dict[int, int]) -> FittedBoxes:
    source, boxes = sample.boxes, boxes[kept]
    area = source.area[kept]
    own_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return FittedBoxes(
        boxes=boxes,
        label=np.array([label_of[int(category)] for category in source.category_ids[kept]], np.int32),
        crowd=source.crowd[kept].astype(np.uint8),
        area=np.where(np.isnan(area), own_area, area).astype(np.float32),
        annotation_id=source.ids[kept],
    )
