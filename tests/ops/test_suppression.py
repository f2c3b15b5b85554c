"""Non-maximum suppression against its definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload import nms
from fastload.ops import nms_torch, nms_torch_many


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
    assert torch.equal(native, nms_torch_many(boxes, scores, labels, threshold, limit, block=5, rounds=6))
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


def clusters(seed: int, images: int, number: int, spread: float) -> torch.Tensor:
    """Boxes (images, number, 4) of all sizes, near one of a few objects each. Sides and places differ by `spread`."""
    random = torch.Generator().manual_seed(seed)
    side = torch.exp(torch.rand(images, number // 8, 2, generator=random) * 4 + 2)
    center = torch.rand(images, number // 8, 2, generator=random) * 1000
    which = torch.randint(number // 8, (images, number, 1), generator=random).expand(-1, -1, 2)
    side, center = side.gather(1, which), center.gather(1, which)
    center = center + side * torch.randn(images, number, 2, generator=random) * spread
    side = side * torch.exp(torch.randn(images, number, 2, generator=random) * spread)
    return torch.cat([center - side / 2, center + side / 2], -1)


def one_by_one(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, threshold: float) -> list[int]:
    """`brute_force` for many boxes, with an array of what is left."""
    corners, scores, labels = boxes.double().numpy(), scores.numpy(), labels.numpy()
    left = np.array([i for i in np.lexsort([np.arange(len(scores)), -scores]) if scores[i] > -np.inf], int)
    kept = []
    with np.errstate(invalid="ignore", over="ignore"):
        while len(left):
            best, left = left[0], left[1:]
            kept.append(int(best))
            a, b = corners[best], corners[left]
            sides = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])
            overlap = sides.clip(0).prod(1)
            union = (a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(1) - overlap
            iou = np.divide(overlap, union, where=overlap > 0, out=np.zeros(len(b)))
            left = left[~((iou > threshold) & (labels[left] == labels[best]))]
    return kept


@pytest.mark.parametrize("threshold", [0.31, 0.6, 0.75, 0.9, 0.95, 1.0])
def test_thousands_of_kept_boxes(threshold):
    """Proposals in clusters: natively and in torch, each image has what suppression one by one leaves."""
    boxes = clusters(int(threshold * 100), 2, 3000, 0.1)
    scores = torch.rand(2, 3000, generator=torch.Generator().manual_seed(1)).round(decimals=3)
    labels = torch.zeros(2, 3000, dtype=torch.int64)
    native = nms(boxes, scores, labels, threshold, 2000)
    assert torch.equal(native, nms_torch_many(boxes, scores, labels, threshold, 2000))
    for i in range(2):
        expected = one_by_one(boxes[i], scores[i], labels[i], threshold)[:2000]
        assert native[i].tolist() == expected + [-1] * (2000 - len(expected))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.1, 0.4]), st.floats(0.301, 1))
def test_many_kept_boxes_of_every_kind(seed, spread, threshold):
    """With empty, inverted, infinite, huge, tiny, equal and missing boxes and three classes among them."""
    boxes = clusters(seed, 1, 400, spread)
    random = torch.Generator().manual_seed(seed)
    odd = torch.tensor([0, -0.0, math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-40, 1e6, 1e6 + 0.0625])
    drawn = odd[torch.randint(len(odd), boxes.shape, generator=random)]
    boxes = torch.where(torch.rand(boxes.shape, generator=random) < 0.02, drawn, boxes)
    boxes[:, 40:50] = boxes[:, :10]
    scores = (torch.rand(1, 400, generator=random) - 0.5).round(decimals=2)
    scores = torch.where(torch.rand(1, 400, generator=random) < 0.02, -math.inf, scores)
    labels = torch.randint(3, (1, 400), generator=random)
    expected = one_by_one(boxes[0], scores[0], labels[0], threshold)
    assert [i for i in nms(boxes, scores, labels, threshold, 400)[0].tolist() if i >= 0] == expected


def test_too_few_rounds_keep_too_much_and_no_less():
    """In a chain of 40 boxes of which each would suppress the next, every second one is kept, given enough rounds."""
    corner = torch.arange(40.0)[None, :, None] * torch.tensor([2.0, 0])
    boxes = torch.cat([corner, corner + 10], -1)
    scores, labels = torch.arange(40.0, 0, -1)[None], torch.zeros(1, 40, dtype=torch.int64)
    exact = nms(boxes, scores, labels, 0.6, 300)
    assert exact[0, :20].tolist() == list(range(0, 40, 2))
    assert torch.equal(nms_torch_many(boxes, scores, labels, 0.6, 300, rounds=40), exact)
    few = nms_torch_many(boxes, scores, labels, 0.6, 300)
    assert set(exact[0].tolist()) < set(few[0].tolist())


def test_images_are_suppressed_alike_by_any_number_of_threads():
    """A batch has what its images have alone."""
    boxes, labels = clusters(0, 5, 6000, 0.1), torch.zeros(5, 6000, dtype=torch.int64)
    scores = torch.rand(5, 6000, generator=torch.Generator().manual_seed(1))
    alone = [nms(boxes[i : i + 1], scores[i : i + 1], labels[i : i + 1], 0.8, 500) for i in range(5)]
    threads = torch.get_num_threads()
    for count in (1, 3, 8):
        torch.set_num_threads(count)
        try:
            assert torch.equal(nms(boxes, scores, labels, 0.8, 500), torch.cat(alone))
        finally:
            torch.set_num_threads(threads)


def test_nms_refuses_shapes_that_do_not_agree():
    """The native core checks what it is given before it reads it."""
    with pytest.raises(ValueError, match="boxes"):
        nms(torch.zeros(1, 5, 4), torch.zeros(1, 4), torch.zeros(1, 5, dtype=torch.int64), 0.5, 3)
