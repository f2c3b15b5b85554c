"""The feature pyramid (Lin et al. 2017) with RetinaNet's extra levels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate


class FPN(nn.Module):
    """C3 to C5 -> P3 to P5, or to P7: P6 is a stride-2 convolution of P5, P7 one of relu(P6)."""

    def __init__(self, in_channels: tuple[int, ...], channels: int, levels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        extra = levels - len(in_channels)
        self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(extra))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.get_parameter("bias"))

    def forward(self, features: list[Tensor], masks: list[Tensor] | None = None) -> list[Tensor]:
        """The pyramid of a backbone's features. There is no norm here that could use `masks`."""
        laterals = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + interpolate(laterals[i], scale_factor=2.0, mode="nearest")
        pyramid = [output(lateral) for output, lateral in zip(self.output, laterals, strict=True)]
        for i, extra in enumerate(self.extra):
            pyramid.append(extra(pyramid[-1] if i == 0 else pyramid[-1].relu()))
        return pyramid
