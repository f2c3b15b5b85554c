"""Norms: statistics of each level, of all processes together, and without padding."""

import threading

import pytest
import torch
from torch import Tensor, nn

from detector import distributed
from detector.model.norm import LevelNorms
from tests.detector.networks import fcos_head, small

SHAPES = ((8, 12), (4, 6), (2, 3))


def features(batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 16, *shape, generator=generator) * 3**i + i for i, shape in enumerate(SHAPES)]


def randomised(norm: str) -> LevelNorms:
    torch.manual_seed(1)
    norms = LevelNorms(norm, 16, 3)
    for parameter in norms.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norms.train()


def learn(norms: LevelNorms, levels: list[Tensor], masks=None) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of inputs and weights for a loss that uses every output."""
    levels = [x.clone().requires_grad_() for x in levels]
    out = norms(levels, masks)
    sum((y.square() * torch.linspace(0.5, 1, y[0].numel()).view_as(y[0])).sum() for y in out).backward()
    return [y.detach() for y in out], [x.grad for x in (*levels, *norms.parameters())]


class Ranks:
    """Two processes as threads, which count and carry out all-reduces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: dict[int, Tensor] = {}
        self.calls, self.barrier = 0, threading.Barrier(2, timeout=20)
        self.rank = threading.local()
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed, "sum_over_ranks", self.sum)

    def sum(self, values: Tensor) -> Tensor:
        self.values[self.rank.number] = values
        self.calls += self.rank.number == 0
        self.barrier.wait()
        total = self.values[0] + self.values[1]
        self.barrier.wait()
        return total

    def run(self, work) -> list:
        found = [None, None]

        def one(number: int) -> None:
            self.rank.number = number
            found[number] = work(number)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_processes_share_the_statistics_of_all_levels_in_one_all_reduce(monkeypatch):
    """Two processes with 3 and 1 images compute the outputs, gradients and statistics of one with 4, with one
    all-reduce forward and one backward."""
    whole = features(4)
    single = randomised("bn")
    expected, gradients = learn(single, whole)
    ranks = Ranks(monkeypatch)
    norms = [randomised("bn"), randomised("bn")]
    parts = [[x[:3] for x in whole], [x[3:] for x in whole]]
    (out0, grads0), (out1, grads1) = ranks.run(lambda rank: learn(norms[rank], parts[rank]))
    assert ranks.calls == 2
    for i in range(3):
        torch.testing.assert_close(torch.cat([out0[i], out1[i]]), expected[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.cat([grads0[i], grads1[i]]), gradients[i], rtol=1e-3, atol=1e-4)
    for mine, other, both in zip(grads0[3:], grads1[3:], gradients[3:], strict=True):
        torch.testing.assert_close(mine + other, both, rtol=1e-4, atol=1e-3)
    for norm in norms:
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(value, single.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_statistics_do_not_cancel_far_from_nought():
    """Values around 1,000 with a spread of 1, once the running mean is near, are normalised to 1e-3."""
    norms = randomised("bn")
    masks = [torch.ones(2, 1, *shape) for shape in SHAPES]
    levels = [x / x.std() + 1000 for x in features(2)]
    for norm in norms:
        norm.running_mean.fill_(999.0)
    out, _ = learn(norms, levels, masks)
    expected, _ = learn(randomised("bn"), [x.double().float() for x in levels])
    for ours, plain in zip(out, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_padding_is_left_out_of_the_statistics(norm):
    """With masks, what lies in the padding changes nothing in the image, whose outputs are those without padding."""
    levels = features(2)
    alone, _ = learn(randomised(norm), levels)
    padded = [nn.functional.pad(x, (2, 3, 1, 4), value=7.0) for x in levels]
    masks = [nn.functional.pad(torch.ones(2, 1, *shape), (2, 3, 1, 4)) for shape in SHAPES]
    norms = randomised(norm)
    out, _ = learn(norms, padded, masks)
    for ours, plain in zip(out, alone, strict=True):
        torch.testing.assert_close(ours[..., 1:-4, 2:-3], plain, rtol=1e-4, atol=1e-5)
    everything = [torch.ones_like(mask) for mask in masks]
    for ours, plain in zip(learn(norms, padded, everything)[0], learn(norms, padded)[0], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_frozen_norms_are_not_trained():
    """They keep statistics, scale and bias, in training mode too."""
    model = small("frozen", neck="bifpn").train()
    norms = [module for module in model.head.modules() if isinstance(module, nn.BatchNorm2d)]
    norms += [module for module in model.fpn.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 20
    before = [value.clone() for norm in norms for value in norm.state_dict().values()]
    out = model(torch.zeros(1, 3, 64, 64))
    sum(level.sum() for part in out for level in part).backward()
    assert all(weight.grad is None for norm in norms for weight in norm.parameters())
    assert all(map(torch.equal, before, [value for norm in norms for value in norm.state_dict().values()]))


@pytest.mark.parametrize("neck", ["fpn", "bifpn"])
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_a_detector_with_masked_norms_uses_the_region_of_images(norm, neck):
    """Training with a region differs from training without one; a region of the whole canvas does not."""
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    def scores(masked, region):
        torch.manual_seed(0)
        model = small(norm, neck=neck, masked_norm=masked).train()
        return model(x, region).logits[0]

    whole, part = torch.tensor([[0.0, 0, 96, 64]] * 2), torch.tensor([[0.0, 0, 40, 64], [10, 0, 20, 5]])
    plain = scores(False, part)
    assert torch.equal(plain, scores(True, None))
    torch.testing.assert_close(plain, scores(True, whole), rtol=1e-3, atol=1e-4)
    assert (plain - scores(True, part)).abs().max() > 1e-3 and scores(True, part).isfinite().all()


def test_padding_does_not_reach_the_interior_with_masked_group_norm():
    """A head's outputs farther from the padding than its receptive field are the same whether the canvas is 64 or 92
    cells wide, which plain group norm cannot do."""
    torch.manual_seed(0)
    head = fcos_head(3, 16, 4, "gn", 1).eval()
    for conv in head.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight)
    feature, padding = torch.randn(1, 16, 48, 64), (12, 16, 4, 8)
    mask = nn.functional.pad(torch.ones(1, 1, 48, 64), padding)
    with torch.no_grad():
        tight = head([feature], [torch.ones(1, 1, 48, 64)]).logits[0]
        wide = head([nn.functional.pad(feature, padding)], [mask]).logits[0][..., 4:-8, 12:-16]
        plain = head([nn.functional.pad(feature, padding)]).logits[0][..., 4:-8, 12:-16]
    interior = (..., slice(8, -8), slice(8, -8))
    # The borders differ, and enter the statistics: of the image only, not of the padding.
    assert (tight - wide)[interior].abs().max() < 0.3 * (tight - plain)[interior].abs().max()
