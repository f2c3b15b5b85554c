"""The bidirectional feature pyramid (Tan et al. 2020, "EfficientDet") with fast normalized fusion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.model.norm import ConvNorm, LevelNorms, Norm

EPSILON = 1e-4  # keeps the fusion finite if all weights of a node are 0


class BiFPN(nn.Module):
    """C3 to C5 -> P3 to P5, or to P7: `repeats` cells, each with a path from coarse to fine and one back.

    P6 is a max-pooled projection of C5, P7 a max-pooled P6. Each side of a coarser level is half of the finer one's,
    rounded up.

    Args:
        in_channels: of C3, C4 and C5.
        channels: of the pyramid.
        levels: number of levels, at least 3.
        repeats: number of cells.
        norm: of all convolutions.
        separable: make each 3 x 3 convolution of a depthwise and a 1 x 1 convolution.
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        channels: int,
        levels: int,
        repeats: int = 3,
        norm: Norm = "bn",
        separable: bool = True,
    ) -> None:
        super().__init__()
        self.levels = levels
        # Each use of a feature in the first cell has a projection of its own.
        self.top_down = nn.ModuleList(_convolution(c, channels, norm) for c in in_channels)
        self.bottom_up = nn.ModuleList(_convolution(c, channels, norm) for c in in_channels[1:])
        self.extra = _convolution(in_channels[-1], channels, norm) if levels > len(in_channels) else None
        self.cells = nn.ModuleList(Cell(channels, levels, norm, separable) for _ in range(repeats))

    def forward(self, features: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
        """The pyramid of a backbone's features. See `LevelNorms.forward` for `masks`."""

        def project(block: nn.Module, level: int) -> Tensor:
            return block([features[level]], masks and [masks[level]])[0]

        down = [project(block, level) for level, block in enumerate(self.top_down)]
        up = [down[0], *(project(block, level) for level, block in enumerate(self.bottom_up, 1))]
        if self.extra is not None:
            coarse = [_pool(project(self.extra, len(features) - 1))]
            while len(features) + len(coarse) < self.levels:
                coarse.append(_pool(coarse[-1]))
            down, up = down + coarse, up + coarse
        for cell in self.cells:
            down = up = cell(down, up, masks)
        return down


class Cell(nn.Module):
    """One path from the coarsest to the finest level and one back, along which each level fuses what it gets."""

    def __init__(self, channels: int, levels: int, norm: Norm, separable: bool) -> None:
        super().__init__()
        self.top_down = nn.ModuleList(Node(2, channels, norm, separable) for _ in range(levels - 1))
        self.bottom_up = nn.ModuleList(
            Node(3 if level < levels - 2 else 2, channels, norm, separable) for level in range(levels - 1)
        )

    def forward(self, down: list[Tensor], up: list[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        """The cell's outputs from its inputs on each level, `down` for the first path and `up` for the way back."""
        top, middle = len(down) - 1, list(down)
        for level in range(top - 1, -1, -1):
            size = middle[level].shape[-2:]
            coarse = F.interpolate(middle[level + 1], size=size, mode="nearest")
            middle[level] = self.top_down[level]([middle[level], coarse], masks and masks[level])
        out = middle[:1]
        for level in range(1, top + 1):
            inputs = [up[level], middle[level]] if level < top else [up[level]]
            out.append(self.bottom_up[level - 1]([*inputs, _pool(out[-1])], masks and masks[level]))
        return out


class Node(nn.Module):
    """A weighted mean of feature maps, swish, 3 x 3 convolution and norm."""

    def __init__(self, inputs: int, channels: int, norm: Norm, separable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))
        self.block = _convolution(channels, channels, norm, 3, separable)

    def forward(self, inputs: list[Tensor], mask: Tensor | None) -> Tensor:
        weight = self.weight.relu()
        shares = (weight / (weight.sum() + EPSILON)).to(inputs[0].dtype).unbind()
        mean = inputs[0] * shares[0]
        for x, share in zip(inputs[1:], shares[1:], strict=True):
            mean = torch.addcmul(mean, x, share)
        return self.block([F.silu(mean)], None if mask is None else [mask])[0]


def _convolution(before: int, after: int, norm: Norm, size: int = 1, separable: bool = False) -> ConvNorm:
    """A convolution and its norm, without activation."""
    bias = norm == "none"
    conv: nn.Module = nn.Conv2d(before, after, size, padding=size // 2, bias=bias)
    if separable:
        depthwise = nn.Conv2d(before, before, size, padding=size // 2, groups=before, bias=False)
        conv = nn.Sequential(depthwise, nn.Conv2d(before, after, 1, bias=bias))
    return ConvNorm(conv, LevelNorms(norm, after, 1), relu=False)


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, 1)
