"""Muon: gradient steps in which all directions of a weight matrix count alike.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with the scale of Liu et al. 2025, "Muon
is Scalable for LLM Training". torch.optim.Muon takes matrices only, which convolutions' weights are not, and multiplies
them in bfloat16, which is slow on most CPUs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ADAM_RMS = 0.2  # the usual size of AdamW's steps in units of the learning rate, so that one rate serves both
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # takes singular values from above .001 to between about .7 and 1.2 in so many


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for the weights of convolutions (out, in, h, w).

    A convolution counts as the matrix (out, in * h * w). Learning rate and weight decay mean what they mean in AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            kept = 1 - group["lr"] * group["weight_decay"]
            for same in alike.values():
                steps = orthogonal(torch.stack([self._direction(weight).flatten(1) for weight in same]))
                scale = -group["lr"] * ADAM_RMS * max(steps.shape[1:]) ** 0.5
                for weight, step in zip(same, steps, strict=True):
                    weight.mul_(kept).add_(step.view(weight.shape), alpha=scale)

    def _direction(self, weight: Tensor) -> Tensor:
        """Where the gradient's running average will be after one more step of the same gradient."""
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
