"""The losses: values and gradients against the plain formulas in float64."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.stock import stock_assign, stock_loss
from detector.loss.assign import assign
from detector.loss.fcos_loss import centerness, fcos_loss
from detector.loss.focal import sigmoid_focal_loss
from detector.model.grid import make_grid

STRIDES = (8, 16, 32)
SHAPES = ((12, 16), (6, 8), (3, 4))


def predictions(classes: int, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def level(channels: int, h: int, w: int) -> Tensor:
        x = torch.randn(2, channels, h, w, generator=generator, dtype=torch.float64).to(dtype)
        return x.contiguous(memory_format=torch.channels_last)

    logits = [(level(classes, h, w) * 3 - 2).requires_grad_() for h, w in SHAPES]
    boxes = [(level(4, h, w).abs() * 2).requires_grad_() for h, w in SHAPES]
    quality = [level(1, h, w).requires_grad_() for h, w in SHAPES]
    return logits, boxes, quality


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    boxes = [[10.3, 12, 50, 40], [11, 12, 30.7, 90], [60, 5, 120, 90], [70, 70, 70, 80]]
    boxes = torch.tensor([boxes, [[3, 3, 125, 93], *[[0.0] * 4] * 3]], dtype=dtype)
    return boxes, torch.tensor([[0, 3, 1, 2], [4, -1, -1, -1]])


def test_losses_and_gradients_equal_the_stock_formulas_in_float64():
    """One-hot focal loss, centerness-weighted GIoU and BCE, written the plain way, give the same to 1e-9."""
    grid = make_grid(STRIDES, SHAPES, torch.device("cpu"))
    boxes, labels = batch(torch.float64)
    ours, stock = predictions(5, torch.float64), predictions(5, torch.float64)
    losses = fcos_loss(*ours, assign(boxes, labels, labels >= 0, grid), "centerness")
    sum(losses.values()).backward()
    parts = stock_loss_float64(stock, stock_assign(boxes, labels, labels >= 0, grid))
    sum(parts).backward()
    torch.testing.assert_close(torch.stack(list(losses.values())), torch.stack(parts), rtol=1e-7, atol=0)
    for mine, theirs in zip(chain(*ours), chain(*stock), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-7, atol=1e-9)
    assert all(part[1].grad.abs().sum() > 0 for part in stock)


def stock_loss_float64(predicted, targets):
    """`stock_loss` with its conversions to float32 undone."""
    kept, Tensor.float = Tensor.float, lambda self: self
    try:
        return stock_loss(predicted, targets)
    finally:
        Tensor.float = kept


def test_iou_quality_learns_the_overlap_and_weights_no_box():
    """quality "iou": the box loss is a plain mean over positives, the quality's target is the detached IoU."""
    grid = make_grid(STRIDES, SHAPES, torch.device("cpu"))
    boxes, labels = batch(torch.float64)
    targets = assign(boxes, labels, labels >= 0, grid)
    logits, regression, quality = predictions(5, torch.float64)
    losses = fcos_loss(logits, regression, quality, targets, "iou")
    giou, match, count = 0.0, 0.0, 0
    for level in range(3):
        for b, c in targets.positive[:, level].nonzero().tolist():
            y, x = divmod(int(targets.point[b, level, c]), SHAPES[level][1])
            predicted, wanted = regression[level][b, :, y, x], targets.distances[b, level, c]
            area = lambda d: (d[0] + d[2]) * (d[1] + d[3])  # noqa: E731
            inter, hull = area(torch.minimum(predicted, wanted)), area(torch.maximum(predicted, wanted))
            union = area(predicted) + area(wanted) - inter
            giou += 1 - (inter / union - (hull - union) / hull)
            match += F.binary_cross_entropy_with_logits(quality[level][b, 0, y, x], (inter / union).detach())
            count += 1
    torch.testing.assert_close(losses["box"], giou / count)
    torch.testing.assert_close(losses["quality"], match / count)
    assert int(targets.positive.sum()) == count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_focal_loss_is_the_paper_s(dtype):
    """alpha_t (1 - p_t)^2 * -log p_t, summed, with its gradient, from logits of -60 to 60."""
    x = torch.linspace(-60, 60, 2 * 50 * 3, dtype=torch.float64).view(2, 50, 3).to(dtype).requires_grad_()
    point, label = torch.randint(50, (2, 20)), torch.randint(3, (2, 20))
    chosen = torch.zeros(2, 50, 3, dtype=torch.bool)
    positive = torch.zeros(2, 20, dtype=torch.bool)
    for b in range(2):
        for c in range(0, 20, 2):
            positive[b, c] = not chosen[b, point[b, c], label[b, c]]
            chosen[b, point[b, c], label[b, c]] = True
    loss = sigmoid_focal_loss(x, point, label, positive)
    loss.backward()
    exact = x.detach().double().requires_grad_()
    signed = torch.where(chosen, exact, -exact)
    alpha = torch.where(chosen, 0.25, 0.75).double()
    plain = (alpha * (-signed).sigmoid() ** 2 * -F.logsigmoid(signed)).sum()
    plain.backward()
    torch.testing.assert_close(loss.double(), plain, rtol=1e-6, atol=0)
    tolerance = {torch.float64: 1e-8, torch.float32: 4e-6, torch.bfloat16: 5e-3}[dtype]
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


def test_a_batch_without_boxes_has_a_finite_loss_and_gradient():
    """No positive: box and quality losses are 0, the classification loss is the negatives', gradients are finite."""
    grid = make_grid(STRIDES, SHAPES, torch.device("cpu"))
    ours = predictions(5, torch.float32)
    for count in (0, 3):
        boxes, labels = torch.zeros(2, count, 4), torch.full((2, count), -1)
        losses = fcos_loss(*ours, assign(boxes, labels, labels >= 0, grid), "centerness")
        sum(losses.values()).backward()
        assert losses["box"] == 0 and losses["quality"] == 0 and losses["classification"] > 0
        assert all(level.grad.isfinite().all() for level in chain(*ours))


def test_predicted_boxes_of_size_zero_are_finite():
    """All distances at the ReLU's zero, as an untrained head gives them: no NaN in value or gradient."""
    grid = make_grid(STRIDES, SHAPES, torch.device("cpu"))
    boxes, labels = batch(torch.float32)
    logits, regression, quality = predictions(5, torch.float32)
    zero = [torch.zeros_like(level).requires_grad_() for level in regression]
    losses = fcos_loss(logits, zero, quality, assign(boxes, labels, labels >= 0, grid), "centerness")
    sum(losses.values()).backward()
    assert losses["box"].isfinite() and losses["box"] > 0.9
    assert all(level.grad.isfinite().all() for level in zero)


def test_centerness_values():
    """1 in the middle, sqrt(1/3 * 1/9) off it."""
    distances = torch.tensor([[2.0, 5, 2, 5], [1, 1, 3, 9]])
    torch.testing.assert_close(centerness(distances), torch.tensor([1.0, (1 / 27) ** 0.5]))
