"""COCO's metrics: the published figures, both backends, and awkward input."""

import json
from pathlib import Path

import pytest
import torch

from detector.errors import DataError
from detector.infer.coco import coco_metrics, evaluate_coco, to_results
from detector.infer.postprocess import Detections

EXAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "cocoeval"
TRUTH, RESULTS = EXAMPLE / "instances_val2014_100.json", EXAMPLE / "instances_val2014_fakebbox100_results.json"
needs_example = pytest.mark.skipif(
    not TRUTH.exists(), reason="the COCO API's example is not at ../shared/data/cocoeval"
)


@needs_example
@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_the_coco_api_s_example_gives_its_figures(backend):
    """AP .505, AP50 .697, AP75 .573, from either backend."""
    figures = evaluate_coco(TRUTH, RESULTS, backend).figures
    assert [round(figures[name], 3) for name in ("AP", "AP50", "AP75")] == [0.505, 0.697, 0.573]


@needs_example
def test_figures_are_those_pycocotools_prints():
    """All 12, and hotcoco's equal to pycocotools' to the last digit; per-class AP averages to AP."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(TRUTH))
    oracle = COCOeval(truth, truth.loadRes(str(RESULTS)), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    ours, fast = evaluate_coco(TRUTH, RESULTS, "pycocotools"), evaluate_coco(TRUTH, RESULTS, "hotcoco")
    assert list(ours.figures.values()) == oracle.stats.tolist()
    assert fast == ours
    assert sum(ours.per_class.values()) / len(ours.per_class) == pytest.approx(ours.figures["AP"])
    assert coco_metrics(str(TRUTH), json.loads(RESULTS.read_text())) == ours.figures


def truth() -> dict:
    """Two classes, one without boxes; an image without boxes; no area, no iscrowd, no id."""
    return {
        "images": [{"id": 5}, {"id": 6}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": [{"image_id": 5, "category_id": 3, "bbox": [10, 10, 40, 50]}],
    }


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_no_detections_and_perfect_detections(backend):
    """0 and 1; what cannot be measured is -1 and not averaged."""
    nothing = evaluate_coco(truth(), [], backend)
    assert nothing.figures["AP"] == 0 and nothing.figures["APs"] == -1 and nothing.per_class == {"cat": 0}
    hit = [{"image_id": 5, "category_id": 3, "bbox": [10, 10, 40, 50], "score": 0.9}]
    perfect = evaluate_coco(truth(), hit, backend)
    assert [perfect.figures["AP"], perfect.figures["APm"], perfect.per_class["cat"]] == pytest.approx([1, 1, 1])


def test_detections_of_unknown_images_are_refused():
    """A results file of another dataset is not silently scored as 0."""
    with pytest.raises(DataError, match="image 7"):
        coco_metrics(truth(), [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1.0}])
    with pytest.raises(DataError, match="nowhere"):
        coco_metrics("nowhere.json", [])


def test_results_are_in_coco_s_format():
    """Original ids of image and class, x, y, width, height; places without a detection are left out."""
    found = Detections(
        torch.tensor([[[1.0, 2, 11, 22], [0, 0, 0, 0]], [[5, 5, 6, 7], [0, 0, 0, 0]]]),
        torch.tensor([[0.5, 0], [0.25, 0]]),
        torch.tensor([[1, -1], [0, -1]]),
    )
    assert to_results(found, [70, 80], [3, 8]) == [
        {"image_id": 70, "category_id": 8, "bbox": [1, 2, 10, 20], "score": 0.5},
        {"image_id": 80, "category_id": 3, "bbox": [5, 5, 1, 2], "score": 0.25},
    ]
