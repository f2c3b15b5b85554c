"""Muon: an optimizer whose steps have the same size in all directions of a weight matrix.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with the scale of Liu et al. 2025, "Muon
is Scalable for LLM Training". torch.optim.Muon accepts matrices only, not the weights of convolutions, and multiplies
in bfloat16, which is slow on most CPUs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ADAM_RMS = 0.2  # the usual size of AdamW's steps in units of the learning rate, so that both can share a rate
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # brings singular values above .001 to about .7 to 1.2 in `ITERATIONS`


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for the weights of convolutions (out, in, h, w).

    A convolution is treated as a matrix (out, in * h * w). Learning rate and weight decay are as in AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            decay = 1 - group["lr"] * group["weight_decay"]
            for weights in by_shape.values():
                steps = orthogonal(torch.stack([self._direction(weight).flatten(1) for weight in weights]))
                scale = -group["lr"] * ADAM_RMS * max(steps.shape[1:]) ** 0.5
                for weight, step in zip(weights, steps, strict=True):
                    weight.mul_(decay).add_(step.view(weight.shape), alpha=scale)

    def _direction(self, weight: Tensor) -> Tensor:
        """Nesterov momentum: the running average of the gradient after one more step of the same gradient."""
        if weight not in self.state:
            self.state[weight] = {"average": torch.zeros_like(weight)}
        average, gradient = self.state[weight]["average"], weight.grad
        assert gradient is not None
        average.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with their singular values brought near 1, by a Newton-Schulz iteration."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    a, b, c = QUINTIC
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x
