"""CenterNet*: assignment, heatmap and losses against the plain per-image formulas, and the values of new weights."""

import math
import tracemalloc
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.stock_center import ImageTargets, box_loss, stock_losses, stock_more_positives, stock_targets
from detector.loss.center_assign import RANGES, CenterAssignment, assign_centers, more_positives
from detector.loss.center_loss import center_loss
from detector.loss.heatmap import Spots, cells_around, heatmap, maps_of_classes
from detector.model.centernet import CenterNetHead
from detector.model.grid import Grid, make_grid
from tests.detector.networks import P3_P7
from tests.detector.waits import NoWaits

CPU = torch.device("cpu")
CLASSES = 3
Boxes = tuple[Tensor, Tensor, Tensor]  # boxes, labels, usable


def grid_for(height: int, width: int, strides: tuple[int, ...] = P3_P7) -> Grid:
    return make_grid(strides, tuple((-(-height // stride), -(-width // stride)) for stride in strides), CPU)


def packed(images: list[list[tuple[float, ...]]], seed: int = 0, usable_share: float = 0.9) -> Boxes:
    """A batch of these boxes with random labels; some are not usable."""
    generator = torch.Generator().manual_seed(seed)
    count = max(map(len, images))
    boxes, labels = torch.zeros(len(images), count, 4), torch.full((len(images), count), -1)
    for i, found in enumerate(images):
        if found:
            boxes[i, : len(found)] = torch.tensor(found)
            labels[i, : len(found)] = torch.randint(CLASSES, (len(found),), generator=generator)
    return boxes, labels, (labels >= 0) & (torch.rand(labels.shape, generator=generator) < usable_share)


def dense(spots: list[Spots], batch: int, grid: Grid) -> Tensor:
    """The heatmap (B, N, K) of its spots."""
    levels = []
    for level, count in zip(spots, grid.counts, strict=True):
        heat = torch.zeros(batch, count, CLASSES)
        if level.index.ndim == 1:
            heat.view(-1)[level.index] = level.height
        else:
            heat.scatter_add_(2, level.index.expand(-1, count, -1), level.height)
        levels.append(heat)
    return torch.cat(levels, 1)


def check(boxes: Boxes, grid: Grid) -> None:
    """Compare everything but the losses with the reference."""
    ranges = RANGES[len(grid.counts)]
    ours, expected = assign_centers(*boxes, grid), stock_targets(*boxes, grid, ranges, CLASSES)
    heat = torch.stack([target.heatmap for target in expected])
    for way in (cells_around, maps_of_classes):
        torch.testing.assert_close(dense(way(*boxes, grid, CLASSES), len(heat), grid), heat, rtol=1e-5, atol=2e-4)
    for i, target in enumerate(expected):
        points = ours.point[i] + grid.starts[:, None]
        located = points[ours.located[i]]
        assert sorted(located.tolist()) == target.located.nonzero()[:, 0].tolist()
        assert torch.equal(ours.distances[i][ours.located[i]], target.distances[located])
        assert positives(ours, ours.center, i, grid) == sorted(target.positives)


def positives(ours: CenterAssignment, chosen: Tensor, image: int, grid: Grid) -> list[tuple[int, int]]:
    """The (point, class) of the candidates that are chosen, with repetitions."""
    point, label = ours.point[image] + grid.starts[:, None], ours.label[image]
    return sorted(zip(point[chosen[image]].tolist(), label[chosen[image]].tolist(), strict=True))


# Eighths of a pixel: centers and squared distances are exact in float32, so ties are true ties.
edge, side = st.integers(0, 8 * 128).map(lambda n: n / 8), st.integers(1, 8 * 130).map(lambda n: n / 8)
box = st.tuples(edge, edge, side, side).map(lambda b: (b[0], b[1], min(b[0] + b[2], 128), min(b[1] + b[3], 96)))
real = box.filter(lambda b: b[0] < b[2] and b[1] < b[3])
images = st.lists(st.lists(real, max_size=7).map(lambda boxes: boxes + boxes[:2]), min_size=1, max_size=3)
levels = st.sampled_from([P3_P7, (8, 16, 32), (8, 16, 32, 64)])


@settings(max_examples=60, deadline=None)
@given(images, levels, st.integers(0, 99))
def test_assignment_and_heatmap_are_the_definition(found, strides, seed):
    """Random boxes, empty images, duplicates, ties, borders, crowds; both ways to make the heatmap."""
    check(packed(found, seed), grid_for(96, 128, strides))


WHOLE, TINY = (0.0, 0.0, 128.0, 96.0), (40.0, 40.0, 41.5, 42.0)
CASES = {
    "no objects": [[], []],
    "the whole canvas": [[WHOLE], [WHOLE, TINY]],
    "smaller than a cell": [[TINY], [(3.5, 3.5, 4.5, 4.5), (0.0, 0.0, 0.125, 0.125)]],
    "two in one cell": [[(30.0, 30.0, 50.0, 50.0), (31.0, 31.0, 51.0, 51.0)], [TINY, TINY]],
    "on the borders of cells": [[(8.0, 8.0, 24.0, 24.0), (0.0, 0.0, 32.0, 32.0)], [(64.0, 32.0, 128.0, 96.0)]],
}


@pytest.mark.parametrize("case", CASES)
def test_cases_that_are_easy_to_get_wrong(case):
    """No objects, the whole canvas, less than a cell, two in a cell, centers on borders of cells."""
    check(packed(CASES[case], usable_share=1.1), grid_for(96, 128))


def crowd(count: int, height: int, width: int, seed: int = 0) -> list[tuple[float, ...]]:
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp(torch.rand(count, 2, generator=generator) * 5 + 0.5)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    limit = torch.tensor([width, height] * 2, dtype=torch.float32)
    return [tuple(row) for row in torch.minimum(torch.cat([corner, corner + size], 1), limit).tolist()]


@pytest.mark.parametrize("most", [2**20, 1000])
def test_a_thousand_objects(most, monkeypatch):
    """Crowded images are assigned as the definition says, however many cells are worked on together."""
    monkeypatch.setattr("detector.loss.heatmap.MOST_CELLS", most)
    check(packed([crowd(1000, 256, 320), crowd(40, 256, 320, 1)]), grid_for(256, 320))


@pytest.mark.parametrize("strides", [P3_P7, (8, 16, 32)])
def test_ranges_include_both_ends_and_overlap(strides):
    """A half diagonal at the end of a range belongs to the level, and to the next one where ranges overlap."""
    grid = grid_for(2560, 2560, strides)
    for low, high in RANGES[len(strides)]:
        for half in (low, high):
            if 0 < half < math.inf:
                w, h = 2 * half * 0.6, 2 * half * 0.8
                boxes = packed([[(4.0, 4.0, 4 + w, 4 + h)]], usable_share=1.1)
                found = assign_centers(*boxes, grid).center[0].any(1)
                exact = torch.tensor([w, h]).square().sum().sqrt() / 2
                assert found.tolist() == [bool(a <= exact <= b) for a, b in RANGES[len(strides)]]
    middle = assign_centers(*packed([[(0.0, 0.0, 84.0, 112.0)]], usable_share=1.1), grid).center[0].any(1)
    assert middle.tolist()[:2] == [len(strides) == 5, True]  # half a diagonal of 70


def predictions(batch: int, grid: Grid, seed: int, spread: float = 2.0) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and distances, as leaves in float64."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for channels in (CLASSES, 4):
        for _, height, width in grid.levels:
            x = torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)
            x = x * spread - 2 if channels == CLASSES else (x * 0.3 + 1.5).clamp(min=0)
            made.append(x.contiguous(memory_format=torch.channels_last).requires_grad_())
    count = len(grid.levels)
    return made[:count], made[count:]


def taught(boxes: list[Tensor], targets: list[ImageTargets], grid: Grid) -> None:
    """Make predicted boxes good for some cells around some objects, on all levels, so that they become positives."""
    with torch.no_grad():
        for level, ((stride, *_), box) in enumerate(zip(grid.levels, boxes, strict=True)):
            points = grid.points.split(grid.counts)[level]
            for i, target in enumerate(targets):
                for g, (x0, y0, x1, y1) in enumerate(target.boxes.tolist()):
                    x, y = points[:, 0].double(), points[:, 1].double()
                    sides = torch.stack([x - x0, y - y0, x1 - x, y1 - y]) / stride
                    good = (sides.amin(0) >= 0) & (torch.arange(len(points)) % 5 <= 1 + g % 3)
                    view = box[i].flatten(1)
                    view[:, good] = sides[:, good] * (1 + 0.02 * (torch.arange(int(good.sum())) % 7 - 3))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("more", "ignored"), [(False, 0.0), (True, 0.0), (True, 0.85)])
@pytest.mark.parametrize("way", [cells_around, maps_of_classes])
def test_losses_and_gradients_equal_the_plain_formulas(way, more, ignored, layout):
    """Dense heatmaps, one-hot positives and clamped probabilities in float64 give the same values and gradients."""
    grid = grid_for(96, 128)
    boxes, labels, usable = packed([crowd(9, 96, 128, 3), [WHOLE, TINY], []], usable_share=1.1)
    boxes = boxes.double()
    expected = stock_targets(boxes, labels, usable, grid, RANGES[5], CLASSES)
    ours, plain = predictions(3, grid, 5), predictions(3, grid, 5)
    for _, regression in (ours, plain):
        taught(regression, expected, grid)
    ours = tuple([x.detach().contiguous(memory_format=layout).requires_grad_() for x in part] for part in ours)
    targets = assign_centers(boxes, labels, usable, grid)
    losses = center_loss(*ours, targets, way(boxes, labels, usable, grid, CLASSES), more, ignored)
    sum(losses.values()).backward()
    parts = stock_losses(*plain, expected, grid, RANGES[5], more, ignored)
    sum(parts).backward()
    torch.testing.assert_close(torch.stack(list(losses.values())), torch.stack(parts), rtol=1e-5, atol=0)
    for mine, theirs in zip(chain(*ours), chain(*plain), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(images, levels, st.integers(0, 99))
def test_more_positives_are_the_definition(found, strides, seed):
    """Cells with a low box loss, on any level, fewer than nine an object; strictly below both thresholds."""
    grid = grid_for(96, 128, strides)
    boxes, labels, usable = packed(found, seed)
    boxes = boxes.double()
    ranges = RANGES[len(strides)]
    expected = stock_targets(boxes, labels, usable, grid, ranges, CLASSES)
    _, regression = predictions(len(boxes), grid, seed)
    taught(regression, expected, grid)
    targets = assign_centers(boxes, labels, usable, grid)
    flat = torch.cat([level.detach().permute(0, 2, 3, 1).flatten(1, 2) for level in regression], 1)
    point = targets.point + grid.starts[:, None]
    rows = torch.arange(len(boxes))[:, None, None]
    loss = box_loss(flat[rows, point].view(-1, 4), targets.distances.view(-1, 4)).view(point.shape)
    chosen = more_positives(loss, targets)
    assert (chosen.view(len(boxes), len(strides), -1, 9).sum((1, 3)) <= 8).all()
    for i, target in enumerate(expected):
        assert positives(targets, chosen, i, grid) == sorted(stock_more_positives(flat[i], target, grid, ranges))


def test_more_positives_by_hand():
    """Centers count as 0, the ninth smallest loss is excluded, and so is a loss of 0.2; a center outside is none."""
    grid = grid_for(128, 128)
    targets = assign_centers(*packed([[(40.0, 40.0, 80.0, 80.0), TINY]], usable_share=1.1), grid)
    loss = torch.full((1, 5, 18), 0.3)
    loss[0, 1, :9] = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.9, 0.05, 0.06, 0.07, 0.08])
    loss[0, 2, :9] = 0.2
    found = more_positives(loss, targets)[0].view(5, 2, 9)
    assert found[0, 0].nonzero()[:, 0].tolist() == [4]  # its own level: the center
    inside = targets.inside[0, 1, :9] & (torch.arange(9) != 4)
    assert found[1, 0].sum() == min(int(inside.sum()), 7) and not found[2].any()
    assert not found[:, 1].any()  # the point of its cell lies outside the tiny box
    assert targets.center[0].view(5, 2, 9)[0, 1, 4]


def test_new_weights_have_the_published_start_values():
    """p = .01: 1.1284 a positive, 7.54e-7 a cell and class, 1.351 an image of 800 x 1344; boxes of 16 strides."""
    torch.manual_seed(0)
    head = CenterNetHead(80, P3_P7, 16, 16, 1, "gn").eval()
    grid = grid_for(800, 1344)
    with torch.no_grad():
        out = head([torch.zeros(1, 16, h, w) for _, h, w in grid.levels])
        none = torch.zeros(1, 0, dtype=torch.int64)
        empty = head.loss(out, torch.zeros(1, 0, 4), none, none == 0)
        one = torch.tensor([[[301.0, 301, 341, 341]]])
        label = torch.zeros(1, 1, dtype=torch.int64)
        losses = head.loss(out, one, label, label == 0)
    assert all(level.shape[1] == 0 for level in out.quality) and len(out.quality) == 5
    assert all((level == 8).all() for level in out.boxes)
    assert out.logits[0][0, 0, 0, 0].sigmoid() == pytest.approx(0.01, rel=1e-5)
    assert float(empty["classification"]) == pytest.approx(1.351, abs=5e-4) and empty["box"] == 0
    assert float(empty["classification"]) / (80 * grid.size) == pytest.approx(7.54e-7, rel=1e-3)
    assert float(losses["classification"]) == pytest.approx(1.1284 + 1.351, abs=2e-3)


def test_the_radius_of_the_heatmap():
    """r = .1571 sqrt(area), at least 4 pixels; a box of 25 pixels leaves exp(-4) beside its center on P3."""
    grid = grid_for(128, 128)
    heat = dense(heatmap(*packed([[(51.5, 51.5, 68.5, 68.5)]], usable_share=1.1), grid, CLASSES), 1, grid)
    assert heat[0, :256].amax(1).view(16, 16)[7, 6:9].tolist() == pytest.approx([math.exp(-4), 1, math.exp(-4)])
    assert (heat.amax(2) == 1).sum() == 5  # one peak a level


def test_targets_of_a_large_batch_need_little_memory():
    """16 images of 800 x 1344 with 45 objects: less than 20 MB at any time, where a dense heatmap has 115 MB."""
    grid = grid_for(800, 1344)
    boxes, labels, usable = packed([crowd(45, 267, 448, seed) for seed in range(16)])
    boxes = boxes * 3
    tracemalloc.start()
    spots = heatmap(boxes, labels, usable, grid, 80)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tensors = [*vars(assign_centers(boxes, labels, usable, grid)).values()]
    tensors += [part for level in spots for part in vars(level).values()]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert sum(len(level.index) for level in spots) > 50_000
    assert held < 10e6 and most < 20e6


@pytest.mark.parametrize("way", [cells_around, maps_of_classes])
def test_a_step_never_waits_for_the_device(way, monkeypatch):
    """No .item(), nonzero or boolean index in the loss and its gradient, whatever the objects."""
    monkeypatch.setattr("detector.model.centernet.heatmap", way)
    grid = grid_for(96, 128)
    head = CenterNetHead(CLASSES, P3_P7, 16, 16, 1, "gn", ignore_high=0.85)
    for found in (*CASES.values(), [crowd(50, 96, 128)]):
        boxes = packed(found)
        pyramid = [torch.randn(len(found), 16, h, w) for _, h, w in grid.levels]
        with NoWaits():
            losses = head.loss(head(pyramid), *boxes)
            sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in head.parameters())
        assert all(value.isfinite() for value in losses.values())
    for wait in (lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 0]):
        with pytest.raises(AssertionError, match="makes the host wait"), NoWaits():
            wait(torch.ones(3))
