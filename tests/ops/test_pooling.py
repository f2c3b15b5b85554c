"""RoIAlign against its definition, point by point."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastload import roi_align
from fastload.ops import roi_align_torch

STRIDES = (8, 16, 32)


def by_definition(
    levels: list[Tensor], boxes: Tensor, valid: Tensor, strides: tuple[int, ...], size: int, samples: int
) -> Tensor:
    """RoIAlign in double precision, one point after the other."""
    batch, channels = levels[0].shape[:2]
    out = torch.zeros(batch, boxes.shape[1], channels, size, size, dtype=torch.float64)
    for b, p in valid.nonzero().tolist():
        box = boxes[b, p].tolist()
        if not all(abs(v) <= 2**24 for v in box) or box[2] <= box[0] or box[3] <= box[1]:
            continue
        area = (box[2] - box[0]) * (box[3] - box[1])
        finest, coarsest = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
        level = min(max(math.floor(4 + math.log2(math.sqrt(area) / 224 + 1e-8)), finest), coarsest) - finest
        features = levels[level][b].double()
        bins = [axis_by_definition(box[0], box[2], strides[level], features.shape[2], size, samples),
                axis_by_definition(box[1], box[3], strides[level], features.shape[1], size, samples)]  # fmt: skip
        for i in range(size):
            for j in range(size):
                for y in bins[1][i]:
                    for x in bins[0][j]:
                        if y is not None and x is not None:
                            out[b, p, :, i, j] += bilinear(features, y, x) / (len(bins[1][i]) * len(bins[0][j]))
    return out


def axis_by_definition(
    low: float, high: float, stride: int, cells: int, size: int, samples: int
) -> list[list[float | None]]:
    """The points of each bin along an axis; None where a point is outside."""
    start, extent = low / stride - 0.5, (high - low) / stride
    count = samples or math.ceil(extent / size)
    points = [
        [start + extent * (2 * (i * count + k) + 1) / (2 * size * count) for k in range(count)] for i in range(size)
    ]
    return [[max(x, 0.0) if -1 <= x <= cells else None for x in row] for row in points]


def bilinear(features: Tensor, y: float, x: float) -> Tensor:
    """The value (C) of features (C, h, w) at a point, with the last cell repeated."""
    height, width = features.shape[1:]
    rows, columns = [min(int(y) + k, height - 1) for k in (0, 1)], [min(int(x) + k, width - 1) for k in (0, 1)]
    down, across = y - int(y), x - int(x)
    top = features[:, rows[0], columns[0]] * (1 - across) + features[:, rows[0], columns[1]] * across
    bottom = features[:, rows[1], columns[0]] * (1 - across) + features[:, rows[1], columns[1]] * across
    return top * (1 - down) + bottom * down


def pyramid(batch: int, channels: int, seed: int = 0, shape: tuple[int, int] = (96, 160)) -> list[Tensor]:
    """Levels for a canvas of `shape`."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, shape[0] // s, shape[1] // s, generator=random) for s in STRIDES]


def random_boxes(batch: int, number: int, seed: int = 0) -> Tensor:
    """Boxes of all levels, some partly or wholly outside."""
    random = torch.Generator().manual_seed(seed)
    extent = torch.exp(torch.rand(batch, number, 2, generator=random) * 7)
    center = torch.rand(batch, number, 2, generator=random) * torch.tensor([260.0, 200.0]) - 50
    return torch.cat([center - extent / 2, center + extent / 2], -1)


@pytest.fixture(params=[roi_align, roi_align_torch], ids=["native", "torch"])
def pool(request):
    """Both versions."""
    return request.param


def test_published_numbers(pool):
    """The numbers of detectron2's own test, and its empty box."""
    features = torch.arange(25.0).view(1, 1, 5, 5).requires_grad_()
    boxes = torch.tensor([[[1.0, 1, 3, 3], [3, 4, 5, 4], [1.5, 1.5, 3.5, 3.5]]])
    pooled = pool([features], boxes, torch.ones(1, 3, dtype=torch.bool), (1,), size=4)
    expected = torch.tensor([[4.5, 5, 5.5, 6], [7, 7.5, 8, 8.5], [9.5, 10, 10.5, 11], [12, 12.5, 13, 13.5]])
    assert torch.equal(pooled[0, :, 0], torch.stack([expected, torch.zeros(4, 4), expected + 3]))
    pooled[0, 1].sum().backward()
    assert not features.grad.any()


def test_pooling_commutes_with_halving():
    """An image halved with its box gives the same as the whole image."""
    columns = torch.arange(32.0).expand(1, 1, 32, 32)
    box, valid = torch.tensor([[[6.0, 8, 22, 24]]]), torch.ones(1, 1, dtype=torch.bool)
    halved = torch.nn.functional.avg_pool2d(columns, 2)
    pooled = roi_align([columns], box, valid, (1,), 4)
    assert torch.allclose(roi_align([halved], box / 2, valid, (1,), 4), pooled, atol=1e-5)


coordinate = st.one_of(
    st.integers(-24, 200).map(float),
    st.floats(-3000, 3000, width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 2.0**24, 1e-30, 0.0, 160.0, 96.0]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*[coordinate] * 4, st.booleans()), max_size=6), st.sampled_from([1, 2, 3, 7]),
       st.integers(1, 3), st.integers(1, 3))  # fmt: skip
def test_pooling_follows_its_definition(rows, size, samples, count):
    """Boxes partly outside, tiny, inverted, empty, huge or not numbers, on one to three levels: all agree."""
    levels = pyramid(1, 3)[:count]
    table = torch.tensor(rows, dtype=torch.float32).view(1, -1, 5)
    boxes, valid = table[..., :4], table[..., 4] > 0
    expected = by_definition(levels, boxes, valid, STRIDES[:count], size, samples)
    for pool in (roi_align, roi_align_torch):
        pooled = pool(levels, boxes, valid, STRIDES[:count], size, samples)
        assert pooled.shape == expected.shape and pooled.dtype == torch.float32
        torch.testing.assert_close(pooled.double(), expected, rtol=0, atol=1e-5)


def test_gradient_of_the_torch_version_is_that_of_finite_differences():
    """In double precision; invalid boxes have none."""
    levels = [level.double().requires_grad_() for level in pyramid(2, 1, shape=(32, 64))]
    boxes = random_boxes(2, 6) / 3
    valid = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) < 0.8
    assert torch.autograd.gradcheck(lambda *x: roi_align_torch(x, boxes, valid, STRIDES, 3), levels)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[coordinate] * 4), min_size=1, max_size=6), st.integers(1, 3))
def test_points_as_many_as_a_box_needs(rows, count):
    """samples=0: natively, long and thin boxes have other numbers of points along each axis."""
    levels = pyramid(1, 3)[:count]
    boxes = torch.tensor(rows, dtype=torch.float32)[None].clamp(-4000, 4000)
    valid = torch.ones(1, len(rows), dtype=torch.bool)
    expected = by_definition(levels, boxes, valid, STRIDES[:count], 3, 0)
    pooled = roi_align(levels, boxes, valid, STRIDES[:count], 3, 0)
    torch.testing.assert_close(pooled.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 8, 19, 64, 100, 200])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_native_gradients_are_those_of_torch(channels, samples):
    """Also of invalid boxes, boxes on no level, and levels with their channels last or not."""
    first = [level.requires_grad_() for level in pyramid(2, channels)]
    last = [x.detach().to(memory_format=torch.channels_last).requires_grad_() for x in first]
    boxes = random_boxes(2, 40)
    valid = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)) < 0.8
    weight = torch.randn(2, 40, channels, 7, 7, generator=torch.Generator().manual_seed(2))
    for levels in (first, last):
        native = torch.autograd.grad((roi_align(levels, boxes, valid, STRIDES, 7, samples) * weight).sum(), levels)
        expected = torch.autograd.grad(
            (roi_align_torch(levels, boxes, valid, STRIDES, 7, samples) * weight).sum(), levels
        )
        for ours, theirs in zip(native, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[coordinate] * 4), min_size=1, max_size=6), st.sampled_from([0, 1, 2, 5]))
def test_the_gradient_is_the_transpose(rows, samples):
    """<pool(f), g> = <f, gradient(g)> for whatever boxes."""
    levels = [level.requires_grad_() for level in pyramid(1, 3)]
    boxes, valid = torch.tensor(rows, dtype=torch.float32)[None], torch.ones(1, len(rows), dtype=torch.bool)
    pooled = roi_align(levels, boxes, valid, STRIDES, 3, samples)
    weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad((pooled * weight).sum(), levels)
    there = sum((a.double() * b).sum() for a, b in zip(levels, gradients, strict=True))
    torch.testing.assert_close(there, (pooled.double() * weight).sum(), rtol=1e-5, atol=1e-4)


def test_any_number_of_threads_gives_the_same_bits():
    """Values and gradients, for batches that are larger and smaller than the number of threads."""
    threads = torch.get_num_threads()
    for batch in (1, 3):
        levels = [level.requires_grad_() for level in pyramid(batch, 130)]
        boxes, valid = random_boxes(batch, 60), torch.ones(batch, 60, dtype=torch.bool)
        results = []
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            try:
                pooled = roi_align(levels, boxes, valid, STRIDES)
                results.append([pooled, *torch.autograd.grad((pooled**2).sum(), levels)])
            finally:
                torch.set_num_threads(threads)
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_pooled_in_float32_and_returned_as_they_came(pool, dtype):
    """The result is the rounded result of the same levels in float32; gradients have the type of the levels."""
    levels = [level.to(dtype).requires_grad_() for level in pyramid(2, 5)]
    boxes, valid = random_boxes(2, 20), torch.ones(2, 20, dtype=torch.bool)
    pooled = pool(levels, boxes, valid, STRIDES)
    assert torch.equal(pooled, pool([x.detach().float() for x in levels], boxes, valid, STRIDES).to(dtype))
    pooled.sum().backward()
    assert all(level.grad.dtype == dtype and level.grad.isfinite().all() for level in levels)


def test_nothing_to_pool(pool):
    """No boxes, or no images."""
    for batch, number in ((2, 0), (0, 3)):
        levels = [level.requires_grad_() for level in pyramid(batch, 4)]
        pooled = pool(levels, torch.zeros(batch, number, 4), torch.zeros(batch, number, dtype=torch.bool), STRIDES)
        assert pooled.shape == (batch, number, 4, 7, 7)
        pooled.sum().backward()


def test_rows_for_a_linear_layer_are_not_copied(pool):
    """Channels are last in memory."""
    pooled = pool(pyramid(2, 8), random_boxes(2, 5), torch.ones(2, 5, dtype=torch.bool), STRIDES)
    assert pooled.permute(0, 1, 3, 4, 2).is_contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": (8, 16)}, "3 levels have 2 strides"),
        ({"strides": (8, 16, 64)}, "twice"),
        ({"strides": (6, 12, 24)}, "powers of two"),
        ({"levels": []}, "0 levels"),
        ({"levels": [torch.zeros(2, 3, 4)] * 3}, "levels are"),
        ({"levels": [torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 4, 5), torch.zeros(2, 3, 4, 5)]}, "levels are"),
        ({"levels": [torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5).half(), torch.zeros(2, 3, 4, 5)]}, "dtype"),
        ({"boxes": torch.zeros(1, 5, 4)}, "boxes are"),
        ({"boxes": torch.zeros(2, 5, 5)}, "boxes are"),
        ({"valid": torch.ones(2, 4, dtype=torch.bool)}, "valid is"),
        ({"size": 0}, "size is 0"),
        ({"samples": -1}, "samples is -1"),
    ],
)
def test_arguments_that_do_not_agree_are_refused(pool, change, message):
    """The error names what is wrong."""
    arguments = {"levels": pyramid(2, 3), "boxes": torch.zeros(2, 5, 4), "valid": torch.ones(2, 5, dtype=torch.bool)}
    with pytest.raises(ValueError, match=message):
        pool(**{**arguments, "strides": STRIDES, **change})
