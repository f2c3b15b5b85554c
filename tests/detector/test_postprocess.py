"""Postprocess against the per-image loop."""

import pytest
import torch
from torch import Tensor

from benchmarks.stock import stock_postprocess
from detector.infer.postprocess import Detections, Settings, postprocess, to_original
from detector.model.grid import make_grid

STRIDES = (8, 16, 32)
SHAPES = ((16, 20), (8, 10), (4, 5))


def predicted(seed: int, classes: int = 7, batch: int = 3) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    level = lambda c, h, w: torch.randn(batch, c, h, w, generator=generator)  # noqa: E731
    logits = [level(classes, h, w) * 2 - 3 for h, w in SHAPES]
    return logits, [level(4, h, w).abs() * 3 for h, w in SHAPES], [level(1, h, w) for h, w in SHAPES]


@pytest.mark.parametrize("seed", range(4))
def test_postprocess_equals_the_per_image_loop(seed):
    """Same boxes, scores and classes, in the same order, as image by image and level by level."""
    grid = make_grid(STRIDES, SHAPES, torch.device("cpu"))
    region = torch.tensor([[0.0, 0, 160, 128], [10, 20, 130, 100], [0, 0, 1, 1]])
    batch = predicted(seed)
    ours = postprocess(*batch, grid, region, Settings())
    for i, (boxes, scores, labels) in enumerate(stock_postprocess(batch, grid, region)):
        count = int((ours.labels[i] >= 0).sum())
        assert count == len(boxes)
        assert torch.equal(ours.labels[i, :count], labels)
        torch.testing.assert_close(ours.scores[i, :count], scores)
        torch.testing.assert_close(ours.boxes[i, :count], boxes)
        assert (ours.labels[i, count:] == -1).all() and (ours.scores[i, count:] == 0).all()
    assert (ours.labels[0] >= 0).sum() > 20 and (ours.labels[2] >= 0).sum() == 0


def test_candidates_are_the_best_pairs_of_their_level():
    """With room for three candidates a level, the three best (point, class) pairs are taken, two at one point."""
    grid = make_grid((8,), ((1, 4),), torch.device("cpu"))
    logits = torch.tensor([[3.0, 2.9, -9], [1.0, 0, 0], [2.0, -1, -1], [0.5, 0.4, 0.3]]).T.reshape(1, 3, 1, 4)
    found = postprocess(
        [logits], [torch.ones(1, 4, 1, 4)], [torch.zeros(1, 1, 1, 4)], grid, torch.tensor([[0.0, 0, 32, 8]]),
        Settings(candidates=3),
    )  # fmt: skip
    assert found.labels[0, :4].tolist() == [0, 1, 0] or found.labels[0].tolist() == [0, 1, 0]
    assert found.boxes[0, :3].tolist() == [[0, 0, 12, 8], [0, 0, 12, 8], [12, 0, 28, 8]]


@pytest.mark.parametrize(("threshold", "share"), [(0.0, 1), (1.0, 0)])
def test_score_thresholds_of_nought_and_one_keep_everything_and_nothing(threshold, share):
    """Both ends of the range are what they say: with 0, each class at each point is a detection."""
    grid = make_grid(STRIDES, SHAPES, torch.device("cpu"))
    keep_all = Settings(score_threshold=threshold, candidates=10_000, iou_threshold=1.0, limit=10_000)
    found = postprocess(*predicted(3, batch=1), grid, torch.tensor([[0.0, 0, 160, 128]]), keep_all)
    assert int((found.labels >= 0).sum()) == share * 7 * sum(h * w for h, w in SHAPES)


def test_postprocess_of_bfloat16_predictions_is_finite_and_ordered():
    """Half-precision logits come out as float32 boxes and scores, best first."""
    grid = make_grid(STRIDES, SHAPES, torch.device("cpu"))
    batch = tuple([level.bfloat16() for level in part] for part in predicted(9))
    found = postprocess(*batch, grid, torch.tensor([[0.0, 0, 160, 128]] * 3), Settings())
    assert found.boxes.dtype == torch.float32 and (found.scores.diff(dim=1) <= 0).all()


def test_to_original_undoes_scale_and_offset_and_clips():
    """A box drawn on a resized, centred image comes back to its own pixels; beyond the image it is cut."""
    box = torch.tensor([[[20.0, 40, 120, 90], [0, 0, 500, 500], [9, 9, 9, 9]]])
    scale, offset, size = torch.tensor([[0.5, 0.25]]), torch.tensor([[10, 15]]), torch.tensor([[300, 400]])
    canvas = torch.cat([box[..., :2] * scale + offset, box[..., 2:] * scale + offset], -1)
    found = to_original(Detections(canvas, torch.ones(1, 3), torch.tensor([[1, 2, -1]])), scale, offset, size).cpu()
    assert found.boxes[0].tolist() == [[20, 40, 120, 90], [0, 0, 400, 300], [0, 0, 0, 0]]
    assert found.labels.tolist() == [[1, 2, -1]] and found.labels.dtype == torch.int64
