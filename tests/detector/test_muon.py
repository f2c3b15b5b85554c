"""Muon, beside torch's own for matrices and beside the singular value decomposition."""

import pytest
import torch
from torch import nn

from detector.config import Config
from detector.model.detector import Detector
from detector.train.muon import Muon, orthogonal
from detector.train.optim import make_optimizers


@pytest.mark.parametrize("shape", [(64, 576), (64, 40), (32, 32), (1, 9)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_their_directions(shape):
    """In the basis of its singular vectors the result is diagonal, between .5 and 1.3 where the matrix has rank."""
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    matrices[1] *= 1e-4
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    inner = left.mT @ orthogonal(matrices).double() @ right.mT
    values = inner.diagonal(dim1=1, dim2=2)
    assert ((values > 0.5) & (values < 1.3)).float().mean() > 0.95
    assert (values > 0).all() and (values < 1.3).all()
    torch.testing.assert_close(inner, torch.diag_embed(values), rtol=0, atol=1e-3)
    assert not orthogonal(torch.zeros(1, *shape)).any()


def test_steps_are_those_of_torch_on_matrices():
    """Twenty steps on random gradients end where torch.optim.Muon does, up to its bfloat16; in channels_last too."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(48, 16, 3, 3, generator=generator)
    conv = nn.Parameter(start.clone(memory_format=torch.channels_last))
    matrix = nn.Parameter(start.flatten(1).clone())
    ours = Muon([{"params": [conv, nn.Parameter(torch.ones(1, 1, 1, 1))], "weight_decay": 0.1}], lr=0.02)
    torchs = torch.optim.Muon([matrix], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(20):
        conv.grad = torch.randn(start.shape, generator=generator)
        matrix.grad = conv.grad.flatten(1)
        ours.step()
        torchs.step()
    moved = (matrix - start.flatten(1)).norm()
    assert (conv.flatten(1) - matrix).norm() < 0.02 * moved
    assert conv.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name, muons", [("sgd", 0), ("adamw", 0), ("muon", 11)])
def test_every_weight_that_is_trained_has_one_optimiser(name, muons):
    """No parameter is left out or taken twice; Muon has the convolutions of pyramid and towers, and no output."""
    config = Config(optimizer=name, depth=2)
    model = Detector.from_config(config, 8)
    optimizers = make_optimizers(model, config, torch.device("cpu"))
    taken = [[id(p) for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    assert sorted(key for keys in taken for key in keys) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = [names[key] for keys in taken[1:] for key in keys]
    assert len(by_muon) == muons
    assert all(name.endswith("weight") and ("fpn" in name or "tower" in name) for name in by_muon)
