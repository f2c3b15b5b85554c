"""The norms of layers that all levels of a pyramid share."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # plain and synchronised

from detector import distributed

Norm = Literal["gn", "bn", "frozen", "none"]
GROUP = 8  # channels of a group of group norm: 32 groups of 256 channels


class LevelNorms(nn.ModuleList):
    """The norm of one layer, applied to its output on every level.

    Batch norm has statistics, scale and bias for each level, because the levels' statistics differ; group norm needs
    only one scale and bias. In training, several processes share the statistics of a batch norm: those of all levels
    are summed in one all-reduce.

    Args:
        norm: "gn", "bn", "frozen" (batch norms that keep their statistics, scales and biases) or "none".
        width: channels.
        levels: number of levels.
    """

    def __init__(self, norm: Norm, width: int, levels: int) -> None:
        if norm in ("bn", "frozen"):
            super().__init__(nn.BatchNorm2d(width) for _ in range(levels))
            self.requires_grad_(norm == "bn")
        else:
            super().__init__([nn.GroupNorm(width // GROUP, width) if norm == "gn" else nn.Identity()])

    def forward(self, levels: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
        """Normalize levels (B, C, h, w).

        Args:
            levels: the layer's output on each level.
            masks: per level (B, 1, h, w) float, 1 where a cell counts in the statistics, else 0. Default: all count.
        """
        first = self[0]
        if isinstance(first, _BatchNorm) and first.training and (masks or distributed.world_size() > 1):
            return _batch_norm(cast("list[_BatchNorm]", list(self)), levels, masks)
        if isinstance(first, nn.GroupNorm) and masks:
            return [_group_norm(first, x, mask) for x, mask in zip(levels, masks, strict=True)]
        norms = list(self) if len(self) > 1 else [first] * len(levels)
        return [norm(x) for norm, x in zip(norms, levels, strict=True)]


def _batch_norm(norms: list[_BatchNorm], levels: list[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
    """Batch norm in training, with the statistics of all processes and of the cells that count."""
    sums = []
    for i, (norm, x) in enumerate(zip(norms, levels, strict=True)):
        apart = x.float() - _channels(norm.running_mean)  # or the variance would cancel
        weight = masks[i] if masks else torch.ones_like(apart[:, :1])
        part = apart * weight
        sums.append(torch.cat([part.sum((0, 2, 3)), (part * apart).sum((0, 2, 3)), weight.sum().view(1)]))
    sums = list(distributed.sum_with_gradient(torch.stack(sums)))
    out = []
    for norm, x, level_sums in zip(norms, levels, sums, strict=True):
        count = level_sums[-1].clamp(min=1)
        shift, square = (level_sums[:-1] / count).chunk(2)
        mean, var = cast(Tensor, norm.running_mean) + shift, (square - shift.square()).clamp(min=0)
        _update(norm, mean.detach(), var.detach(), level_sums[-1].detach())
        scale = norm.weight * (var + norm.eps).rsqrt()
        out.append((x * _channels(scale) + _channels(norm.bias - mean * scale)).to(x.dtype))
    return out


@torch.no_grad()
def _update(norm: _BatchNorm, mean: Tensor, var: Tensor, count: Tensor) -> None:
    """Average statistics of `count` values into a norm's own; without values they stay as they are."""
    assert norm.momentum is not None and norm.num_batches_tracked is not None
    share = norm.momentum * (count > 1)
    norm.running_mean = cast(Tensor, norm.running_mean).lerp_(mean, share)
    norm.running_var = cast(Tensor, norm.running_var).lerp_(var * count / (count - 1).clamp(min=1), share)
    norm.num_batches_tracked += 1


def _group_norm(norm: nn.GroupNorm, x: Tensor, mask: Tensor) -> Tensor:
    """Group norm with the statistics of the cells that count."""
    groups = x.float().unflatten(1, (norm.num_groups, -1))
    weight = mask[:, :, None] / (mask.sum((1, 2, 3)).view(-1, 1, 1, 1, 1) * groups.shape[2])
    mean = (groups * weight).sum((2, 3, 4), keepdim=True)
    var = ((groups - mean).square() * weight).sum((2, 3, 4), keepdim=True)
    normal = ((groups - mean) * (var + norm.eps).rsqrt()).flatten(1, 2)
    return (normal * _channels(norm.weight) + _channels(norm.bias)).to(x.dtype)


def _channels(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.view(-1, 1, 1)


class ConvNorm(nn.Module):
    """A convolution, its norm and optionally a ReLU. All levels share the convolution."""

    def __init__(self, conv: nn.Module, norms: LevelNorms, relu: bool = True) -> None:
        super().__init__()
        self.conv, self.norms, self.relu = conv, norms, relu

    def forward(self, levels: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
        levels = self.norms([self.conv(x) for x in levels], masks)
        return [x.relu_() for x in levels] if self.relu else levels
