"""CenterNet2: proposals, sampling, cascade and losses against the plain per-image formulas."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.stock_center2 import stock_decode, stock_encode, stock_first_losses, stock_losses, stock_proposals
from detector.config import PRESETS
from detector.infer.postprocess import Settings, postprocess_rois
from detector.loss.rois import Objects, match, roi_losses, sample
from detector.model.cascade import BoxHead, clip, decode, encode
from detector.model.centernet2 import SCALES, CascadeSettings, CenterNet2Head, Proposed
from detector.model.detector import make_head
from detector.model.grid import grid_of
from fastload import roi_align
from tests.detector.test_centernet import CLASSES, crowd, packed
from tests.detector.waits import NoWaits

STRIDES = (8, 16, 32)
HEIGHT, WIDTH = 96, 128


def head_for(stages: int = 3, rois: int = 32, proposals: int = 40) -> CenterNet2Head:
    """A small head whose proposals and classes differ from box to box, as a trained one's do."""
    torch.manual_seed(stages)
    head = CenterNet2Head(CLASSES, STRIDES, 16, 16, 1, "gn", CascadeSettings(stages, 24, rois, proposals, proposals))
    with torch.no_grad():
        head.proposer.locate.weight.mul_(40)
        head.proposer.locate.bias[:4] = 2.0
        for stage in head.stages:
            stage.classify.weight.mul_(30)
            stage.locate.weight.mul_(300)
    return head


def pyramid(batch: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 16, height // stride, width // stride, generator=generator, requires_grad=True)
        for stride in STRIDES
    ]


def objects_of(images: list[list[tuple[float, ...]]], seed: int = 0) -> Objects:
    """A batch of these boxes with random labels, in padded arrays."""
    return Objects(*packed(images, seed, usable_share=1.1))


REGION = torch.tensor([[0.0, 0.0, WIDTH, HEIGHT], [16.0, 8.0, 112.0, 72.0]])
IMAGES = {
    "objects": [crowd(5, HEIGHT - 30, WIDTH - 30), crowd(9, 60, 90, 1)],
    "one image is empty": [[], crowd(3, 60, 90, 1)],
    "no objects": [[], []],
    "a thousand objects": [crowd(1000, HEIGHT, WIDTH), crowd(2, 60, 90)],
    "boxes under the stride": [[(40.0, 40.0, 41.5, 42.0)], [(60.5, 30.5, 61.0, 31.0)] * 2],
    "the whole canvas": [[(0.0, 0.0, WIDTH, HEIGHT)], [(16.0, 8.0, 112.0, 72.0)]],
    "two in one cell": [[(30.0, 30.0, 50.0, 50.0), (31.0, 31.0, 51.0, 51.0)], [(30.0, 30.0, 50.0, 50.0)] * 2],
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize(("stages", "rois"), [(3, 32), (1, 32), (2, 4096)])
def test_losses_and_gradients_are_the_stock_formulation(case, stages, rois, monkeypatch):
    """The same proposals, draws, matches, losses and gradients as image by image; more regions than there are too."""
    head, levels, objects = head_for(stages, rois).train(), pyramid(2), objects_of(IMAGES[case])
    output = head(levels, None, REGION)
    draws = torch.rand(2, head.propose(output.objects, REGION).boxes.shape[1] + objects.labels.shape[1])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws)
    losses = head.loss(output, *objects)
    sum(losses.values()).backward()
    ours = gradients(head, levels)

    head.zero_grad(), [level.grad.zero_() for level in levels]
    output = head(levels, None, REGION)
    found = head.propose(output.objects, REGION).labels >= 0
    by_image = [draws[i][torch.cat([found[i], objects.usable[i]])] for i in range(2)]
    truth = [(objects.boxes[i][objects.usable[i]], objects.labels[i][objects.usable[i]]) for i in range(2)]
    expected = stock_losses(head, output, truth, pool, by_image)
    first = head._first_losses(output.objects, objects.boxes, objects.usable)
    sum([*first.values(), *expected.values()]).backward()
    assert set(losses) == {"objectness", "proposal"} | set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(ours, gradients(head, levels), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_first_losses_are_the_stock_formulation():
    """Half of the objectness, which knows no classes, and the boxes' loss without CenterNet*'s weight of 2."""
    head, objects = head_for().train(), objects_of(IMAGES["objects"])
    with torch.no_grad():
        head.proposer.locate.weight.div_(40)  # probabilities far above 0.0001, where the stock formulation cuts
        output = head(pyramid(2), None, REGION)
    truth = [(objects.boxes[i][objects.usable[i]], objects.labels[i][objects.usable[i]]) for i in range(2)]
    expected = stock_first_losses(output, truth, grid_of(STRIDES, output.objects.logits))
    found = head._first_losses(output.objects, objects.boxes, objects.usable)
    torch.testing.assert_close(torch.stack(list(found.values())), torch.stack(expected), rtol=1e-4, atol=0)


def pool(levels: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """The features of each image's boxes, one image at a time."""
    features = []
    for i, box in enumerate(boxes):
        image = [level[i : i + 1] for level in levels]
        features.append(roi_align(image, box[None], torch.ones(1, len(box), dtype=torch.bool), STRIDES)[0])
    return torch.cat(features)


def gradients(head: CenterNet2Head, levels: list[Tensor]) -> list[Tensor]:
    return [x.grad.clone() for x in (*head.parameters(), *levels)]


def test_proposals_are_the_stock_formulation():
    """Boxes and probabilities, best first, in training and inference; none lies outside of its image."""
    for training in (True, False):
        head = head_for(proposals=60).train(training)
        output = Proposed(head.proposer(pyramid(2)), pyramid(2), REGION)
        found = head.propose(output.objects, REGION)
        grid = grid_of(STRIDES, output.objects.logits)
        for i, (boxes, scores) in enumerate(stock_proposals(output, grid, 60, training)):
            assert len(boxes) > 20 and (found.labels[i, len(boxes) :] == -1).all()
            torch.testing.assert_close(found.boxes[i, : len(boxes)], boxes)
            torch.testing.assert_close(found.scores[i, : len(boxes)], scores)
            assert (boxes[:, :2] >= REGION[i, :2]).all() and (boxes[:, 2:] <= REGION[i, 2:]).all()


edge, side = st.floats(0, 200, width=32), st.floats(4, 200, width=32)
boxes_of = st.lists(st.tuples(edge, edge, side, side), min_size=1, max_size=8).map(
    lambda found: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in found])
)


@settings(max_examples=50, deadline=None)
@given(boxes_of, st.integers(0, 99), st.sampled_from(SCALES))
def test_differences_of_boxes_are_inverted(boxes, seed, scale):
    """encode as the plain formula, decode as its inverse."""
    targets = boxes.flip(0) + torch.rand(boxes.shape, generator=torch.Generator().manual_seed(seed)).sort().values
    differences = encode(boxes, targets, scale)
    torch.testing.assert_close(differences, stock_encode(boxes, targets, scale), rtol=1e-3, atol=1e-3)
    sides = targets[:, 2:] - targets[:, :2]
    if (sides < 60 * (boxes[:, 2:] - boxes[:, :2])).all():
        torch.testing.assert_close(decode(boxes, differences, scale), targets, rtol=1e-3, atol=0.05)
    torch.testing.assert_close(
        decode(boxes, differences, scale), stock_decode(boxes, differences, scale), rtol=1e-4, atol=1e-2
    )


def test_a_box_grows_62_times_at_most():
    """The limit of detectron2: the side of a box times 1000 / 16."""
    moved = decode(torch.tensor([[0.0, 0.0, 2.0, 4.0]]), torch.full((1, 4), 1e9) * torch.tensor([0, 0, 1, 1]), (10, 5))
    assert moved[0].tolist() == pytest.approx([1 - 62.5, 2 - 125, 1 + 62.5, 2 + 125])


def test_the_sampler_by_its_rules():
    """A quarter lies on objects at most, others fill up, objects are candidates, each is as likely as another."""
    objects = objects_of([[(10.0, 10.0, 50.0, 50.0)]])
    on = torch.tensor([[10.0, 10.0, 50.0, 50.0 - i / 10] for i in range(40)])
    off = torch.tensor([[60.0, 60.0, 70.0 + i, 90.0] for i in range(60)])
    proposals, valid = torch.cat([on, off])[None], torch.ones(1, 100, dtype=torch.bool)
    valid[0, 99] = False
    torch.manual_seed(0)
    counts = torch.zeros(101)
    for _ in range(400):
        rois = sample(proposals, valid, objects, 32, 0.6, CLASSES)
        on_object = rois.labels[0] < CLASSES
        assert rois.boxes.shape == (1, 32, 4) and rois.valid.all() and on_object.sum() == 8
        assert (rois.targets[0][on_object] == objects.boxes[0]).all()
        everything = torch.cat([proposals, objects.boxes], 1)[0]
        chosen = (rois.boxes[0][:, None] == everything).all(2)
        counts += chosen.any(0)
    assert counts[99] == 0 and counts[100] > 0
    for part, expected in ((counts[1:40], 400 * 8 / 41), (counts[40:99], 400 * 24 / 59)):
        assert (part - expected).abs().max() < 5 * math.sqrt(expected)
    few = sample(proposals[:, 60:], valid[:, 60:], objects_of([[]]), 64, 0.6, CLASSES)
    assert few.valid.sum() == 39 and (few.labels[few.valid] == CLASSES).all()


def test_only_usable_objects_are_matched():
    """Crowds, padding and boxes below the threshold become background; the best of several objects wins."""
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 14.0], [50.0, 50.0, 60.0, 60.0]]])
    objects = Objects(
        torch.tensor([[[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 15.0], [50.0, 50.0, 60.0, 60.0]]]),
        torch.tensor([[0, 1, 2]]),
        torch.tensor([[True, True, False]]),
    )
    found = match(boxes, torch.ones(1, 3, dtype=torch.bool), objects, 0.8, CLASSES)
    assert found.labels.tolist() == [[0, 1, CLASSES]]
    assert match(boxes, torch.ones(1, 3, dtype=torch.bool), objects, 0.95, CLASSES).labels.tolist() == [[CLASSES] * 3]


def test_new_weights_have_the_published_start_values():
    """Classes start alike and boxes do not move: ln(K + 1) a stage; objectness as CenterNet*'s, weighted by a half."""
    torch.manual_seed(0)
    head = CenterNet2Head(80, STRIDES, 16, 16, 1, "gn", CascadeSettings(3, 32, 64, 100, 50)).train()
    output = head([torch.zeros(1, 16, HEIGHT // s, WIDTH // s) for s in STRIDES])
    assert all((level == 8).all() for level in output.objects.boxes) and output.region.tolist() == [[0, 0, 128, 96]]
    losses = head.loss(output, torch.tensor([[[20.0, 20, 60, 60]]]), torch.tensor([[7]]), torch.tensor([[True]]))
    for stage in (1, 2, 3):
        assert losses[f"classification_{stage}"].item() == pytest.approx(math.log(81), rel=1e-3)
    cells = sum(HEIGHT * WIDTH // s**2 for s in STRIDES)
    assert losses["objectness"].item() == pytest.approx(0.5 * 1.1284 + 0.5 * cells * 7.54e-7, rel=1e-2)


def test_scores_are_the_mean_of_the_stages_and_the_root_of_the_first():
    """s_c^(1/2) p^(1/4), boxes of the last stage cut to the image, nothing in empty places."""
    head = head_for().eval()
    levels = pyramid(2)
    with torch.no_grad():
        output = head(levels, None, REGION)
        proposals = head.propose(head.proposer(levels), REGION)
        boxes, probability = proposals.boxes, []
        for stage, scale in zip(head.stages, SCALES, strict=True):
            logits, differences = stage(pool(levels, list(boxes)).unflatten(0, boxes.shape[:2]))
            probability.append(logits.softmax(-1)[..., :CLASSES])
            boxes = clip(decode(boxes, differences, scale), REGION)
    expected = (sum(probability) / 3 * proposals.scores[..., None].sqrt()).sqrt()
    found = proposals.labels >= 0
    torch.testing.assert_close(output.boxes[found], boxes[found])
    torch.testing.assert_close(output.scores[found], expected[found])
    assert (output.scores[~found] == 0).all()


def test_the_canvas_does_not_change_a_prediction():
    """The same image at other places of larger canvases: the same proposals, and the same scores of boxes that do not
    touch its edge, where interpolation reaches half a cell into the padding."""
    head = head_for(stages=2).eval()
    head.proposer.box_tower = torch.nn.ModuleList()  # whose padding would count: see test_model for norms
    levels, found = pyramid(1), []
    for left, top, right, bottom in ((0, 0, 0, 0), (32, 0, 64, 32), (64, 96, 32, 0)):
        sides = [[side // stride for side in (left, right, top, bottom)] for stride in STRIDES]
        padded = [torch.nn.functional.pad(level, side) for level, side in zip(levels, sides, strict=True)]
        with torch.no_grad():
            output = head(padded, None, REGION[:1] + torch.tensor([left, top, left, top]))
        found.append((output.boxes[0] - torch.tensor([left, top, left, top]), output.scores[0]))
    (boxes, scores), *others = found
    inner = ((boxes[:, :2] > 8) & (boxes[:, 2:] < REGION[0, 2:] - 8)).all(1)
    assert inner.sum() > 5
    for other_boxes, other_scores in others:
        torch.testing.assert_close(other_boxes[inner], boxes[inner], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(other_scores[inner], scores[inner], rtol=1e-4, atol=1e-5)


def test_the_last_suppression_by_hand():
    """Pairs of one box and several classes, the threshold, an empty box, and the overlap within a class."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30], [5, 5, 5, 9]]])
    scores = torch.tensor([[[0.9, 0.3], [0.8, 0.05], [0.04, 0.6], [0.99, 0.99]]])
    found = postprocess_rois(boxes, scores, Settings(0.05, 100, 0.7, 10))
    assert found.labels[0, :4].tolist() == [0, 1, 1, -1]
    assert found.scores[0, :3].tolist() == pytest.approx([0.9, 0.6, 0.3])
    few = postprocess_rois(boxes[:, :3], scores[:, :3], Settings(0.05, 2, 0.7, 10))
    assert few.scores[0, :2].tolist() == pytest.approx([0.9, 0.0])


def test_a_step_does_not_wait_for_the_device(monkeypatch):
    """Sampling, matching and the losses of the second stage have static shapes."""
    objects = objects_of(IMAGES["objects"])
    boxes = torch.rand(2, 50, 2) * 60
    proposals = torch.cat([boxes, boxes + 5 + 40 * torch.rand(2, 50, 2)], 2)
    stage = BoxHead(4, 8, CLASSES)
    with NoWaits():
        rois = sample(proposals, proposals[..., 0] > 10, objects, 32, 0.6, CLASSES)
        rois = match(clip(rois.boxes, REGION), rois.valid, objects, 0.7, CLASSES)
        losses = roi_losses(*stage(torch.randn(2, 32, 4, 7, 7)), rois, SCALES[0])
        sum(losses).backward()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_losses_of_strange_boxes_are_finite(seed):
    """Empty, inverted and far boxes among proposals leave losses and gradients finite."""
    generator = torch.Generator().manual_seed(seed)
    proposals = torch.randn(1, 30, 4, generator=generator) * 10 ** torch.randint(0, 6, (1, 30, 1), generator=generator)
    rois = sample(proposals, torch.ones(1, 30, dtype=torch.bool), objects_of([crowd(3, 90, 90)]), 40, 0.6, CLASSES)
    logits, differences = torch.randn(1, 33, CLASSES + 1).requires_grad_(), torch.randn(1, 33, 4).requires_grad_()
    losses = roi_losses(logits, differences, rois, (10.0, 5.0))
    sum(losses).backward()
    assert all(x.isfinite().all() for x in (*losses, logits.grad, differences.grad))


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("centernet2")])
def test_presets(name):
    """Real-time and tiny presets have small box heads; R50's are the published ones, of 14 M weights each."""
    head = make_head(PRESETS[name], 80)
    assert isinstance(head, CenterNet2Head) and len(head.stages) == 3
    size = sum(p.numel() for p in head.stages[0].parameters())
    assert (13.9e6 < size < 14.1e6) if name.endswith("r50") else size < 2e6
    small = make_head(replace(PRESETS[name], cascade_stages=1, cascade_width=64), 80)
    assert len(small.stages) == 1 and small.stages[0].hidden[0].out_features == 64
