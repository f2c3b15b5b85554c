"""Target assignment: GT-centric candidates against the definition, point by point."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.stock import stock_assign
from detector.loss.assign import Assignment, assign
from detector.model.grid import Grid, make_grid

P3_P7 = (8, 16, 32, 64, 128)
CPU = torch.device("cpu")


def grid_for(height: int, width: int, strides: tuple[int, ...] = P3_P7) -> Grid:
    shapes = tuple((-(-height // stride), -(-width // stride)) for stride in strides)
    return make_grid(strides, shapes, CPU)


def dense(result: Assignment, image: int, grid: Grid) -> list[tuple[int, tuple[float, ...], int] | None]:
    """One entry a point: label, distances, box; None is background. A point assigned twice is an error."""
    points: list[tuple[int, tuple[float, ...], int] | None] = [None] * grid.size
    for level, start in enumerate(grid.starts.tolist()):
        for c in result.positive[image, level].nonzero()[:, 0].tolist():
            point = start + int(result.point[image, level, c])
            assert points[point] is None
            box, label = int(result.box[image, level, c]), int(result.label[image, level, c])
            points[point] = (label, tuple(result.distances[image, level, c].tolist()), box)
    return points


def by_definition(boxes: Tensor, labels: Tensor, usable: Tensor, grid: Grid) -> list[tuple[int, int] | None]:
    """(label, box) of every point, from the paper's sentences and plain float arithmetic."""
    answer: list[tuple[int, int] | None] = []
    spans = [tuple(reach) for reach, n in zip(grid.reach.tolist(), grid.counts, strict=True) for _ in range(n)]
    strides = grid.point_strides.tolist()
    for (x, y), stride, (shortest, longest) in zip(grid.points.tolist(), strides, spans, strict=True):
        best = None
        for g, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            sides = (x - x0, y - y0, x1 - x, y1 - y)
            central = abs(x - cx) < 1.5 * stride and abs(y - cy) < 1.5 * stride
            if usable[g] and min(sides) > 0 and central and shortest <= max(sides) <= longest:
                area = (x1 - x0) * (y1 - y0)
                if best is None or area < best[0]:
                    best = (area, int(labels[g]), g)
        answer.append(best and best[1:])
    return answer


# Eighths of a pixel: every sum and product below is exact in float32, so ties are true ties.
edge = st.integers(-40, 8 * 140).map(lambda n: n / 8)
box = st.tuples(edge, edge, edge, edge).map(lambda b: (*map(min, b[:2], b[2:]), *map(max, b[:2], b[2:])))
image = st.lists(box, max_size=7).flatmap(lambda boxes: st.just(boxes + boxes[:2]))  # duplicates tie in area


@settings(max_examples=60, deadline=None)
@given(st.lists(image, min_size=1, max_size=3), st.sampled_from([P3_P7, (8, 16, 32)]), st.integers(0, 99))
def test_assignment_is_the_definition(images, strides, seed):
    """Random boxes, empty images, duplicates, ties, borders, crowds: every point gets what the definition says."""
    generator = torch.Generator().manual_seed(seed)
    grid = grid_for(96, 128, strides)
    count = max(len(boxes) for boxes in images)
    boxes, labels = torch.zeros(len(images), count, 4), torch.full((len(images), count), -1)
    for i, found in enumerate(images):
        if found:
            boxes[i, : len(found)] = torch.tensor(found)
            labels[i, : len(found)] = torch.randint(5, (len(found),), generator=generator)
    usable = (labels >= 0) & (torch.rand(labels.shape, generator=generator) < 0.9)
    result = assign(boxes, labels, usable, grid)
    for i in range(len(images)):
        assigned = [entry and (entry[0], entry[2]) for entry in dense(result, i, grid)]
        assert assigned == by_definition(boxes[i], labels[i], usable[i], grid)


def random_batch(batch: int, most: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of all sizes with arbitrary float coordinates; some slots are padding."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp(torch.rand(batch, most, 2, generator=generator) * 5 + 1.5)
    corner = torch.rand(batch, most, 2, generator=generator) * torch.tensor([width, height]) - size / 2
    boxes = torch.cat([corner, corner + size], -1)
    labels = torch.randint(80, (batch, most), generator=generator)
    usable = torch.rand(batch, most, generator=generator) < 0.8
    return boxes, labels.masked_fill(~usable, -1), usable


@pytest.mark.parametrize("seed", range(3))
def test_assignment_equals_the_stock_loop_bit_for_bit(seed):
    """On arbitrary floats the labels, the boxes and the regression targets are the stock formulation's own bits."""
    boxes, labels, usable = random_batch(4, 45, 480, 640, seed)
    grid = grid_for(480, 640)
    result = assign(boxes, labels, usable, grid)
    for i, (label, distances, index) in enumerate(stock_assign(boxes, labels, usable, grid)):
        ours = dense(result, i, grid)
        assert [entry[0] if entry else -1 for entry in ours] == label.tolist()
        positive = (label >= 0).nonzero()[:, 0].tolist()
        assert len(positive) > 50
        assert [ours[p][1] for p in positive] == [tuple(row) for row in distances[positive].tolist()]
        assert [ours[p][2] for p in positive] == index[positive].tolist()


def test_a_thousand_boxes_and_no_boxes():
    """Crowded images and empty batches take the same path."""
    grid = grid_for(512, 512)
    boxes, labels, usable = random_batch(2, 1000, 512, 512, 7)
    usable[1] = False
    result = assign(boxes, labels, usable, grid)
    assert dense(result, 0, grid).count(None) < grid.size
    assert not result.positive[1].any()
    none = assign(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool), grid)
    assert none.positive.shape == (2, 5, 0)


def test_boxes_without_area_or_off_the_canvas_are_never_positive():
    """Zero width, zero height, a point, inverted, outside: no point learns them, and nothing becomes NaN."""
    boxes = torch.tensor([[[9.0, 9, 9, 50], [9, 9, 50, 9], [12, 12, 12, 12], [60, 60, 20, 20], [900, 900, 950, 990]]])
    labels = torch.zeros(1, 5, dtype=torch.int64)
    result = assign(boxes, labels, labels == 0, grid_for(256, 256))
    assert not result.positive.any()
    assert (result.distances == 1).all()


def test_a_grid_first_made_in_inference_mode_serves_training():
    """The cached points are ordinary tensors whatever mode they were first asked for in."""
    with torch.inference_mode():
        grid = make_grid((8, 16, 32), ((3, 5), (2, 3), (1, 2)), CPU)
    assert not grid.points.is_inference()
    assert make_grid((8, 16, 32), ((3, 5), (2, 3), (1, 2)), CPU) is grid
    assert grid.points[:6].tolist() == [[4, 4], [12, 4], [20, 4], [28, 4], [36, 4], [4, 12]]
