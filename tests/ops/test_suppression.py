"""Non-maximum suppression against its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload import nms
from fastload.ops import nms_torch


def brute_force(boxes: list, scores: list, labels: list, threshold: float, limit: int) -> list[int]:
    """Greedy NMS as its definition reads."""

    def iou(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
        return inter / union if union else 0.0

    left = sorted((i for i in range(len(boxes)) if scores[i] > -math.inf), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    while left and len(kept) < limit:
        best, *left = left
        kept.append(best)
        left = [i for i in left if labels[i] != labels[best] or iou(boxes[i], boxes[best]) <= threshold]
    return kept


edge = st.integers(0, 12)  # a coarse raster: overlaps of exactly 1/2 and equal scores are common
row = st.tuples(edge, edge, edge, edge, st.sampled_from([0.5, 0.25, 0.125, 1.0, -math.inf]), st.integers(0, 2))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 12).flatmap(lambda n: st.lists(st.lists(row, min_size=n, max_size=n), min_size=1, max_size=3)),
       st.sampled_from([0.0, 0.5, 0.6, 1.0]), st.integers(1, 14))  # fmt: skip
def test_nms_is_exact_and_the_same_natively_and_in_torch(images, threshold, limit):
    """Ties in score, overlaps at the threshold itself, empty boxes, missing boxes, limits: all three agree."""
    table = torch.tensor(images, dtype=torch.float64).view(len(images), -1, 6)
    corner, size = table[..., :2], table[..., 2:4]
    boxes = torch.cat([corner, corner + size], -1).float()
    scores, labels = table[..., 4].float(), table[..., 5].long()
    native = nms(boxes, scores, labels, threshold, limit)
    assert torch.equal(native, nms_torch(boxes, scores, labels, threshold, limit))
    for i, kept in enumerate(native.tolist()):
        found = [k for k in kept if k >= 0]
        assert found == brute_force(boxes[i].tolist(), scores[i].tolist(), labels[i].tolist(), threshold, limit)
        assert kept[len(found) :] == [-1] * (len(kept) - len(found))


def test_nms_on_thousands_of_boxes_far_apart_in_class():
    """5,000 boxes of 1,000 classes at coordinates where a class offset would round: both versions agree."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 5000, 2, generator=generator) * 1000 + 1e6
    boxes = torch.cat([corner, corner + 1 + torch.rand(2, 5000, 2, generator=generator) * 300], -1)
    scores = torch.rand(2, 5000, generator=generator)
    labels = torch.randint(1000, (2, 5000), generator=generator)
    native = nms(boxes, scores, labels, 0.3, 300)
    assert torch.equal(native, nms_torch(boxes, scores, labels, 0.3, 300))
    assert native[0].tolist() == brute_force(boxes[0].tolist(), scores[0].tolist(), labels[0].tolist(), 0.3, 300)


def test_nms_refuses_shapes_that_do_not_agree():
    """The native core checks what it is given before it reads it."""
    with pytest.raises(ValueError, match="boxes"):
        nms(torch.zeros(1, 5, 4), torch.zeros(1, 4), torch.zeros(1, 5, dtype=torch.int64), 0.5, 3)
