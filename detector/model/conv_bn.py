"""A convolution and its batch norm, computed as one convolution if the norm is frozen."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # plain and synchronised


def conv_bn(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """norm(conv(x)), for a convolution without bias.

    A frozen batch norm multiplies and adds constants. Folding them into the convolution's weights saves a pass over the
    result and one over its gradient; the gradients of all weights stay the same.
    """
    if isinstance(norm, _BatchNorm) and conv.training and not norm.training:
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        return conv._conv_forward(x, conv.weight * scale.view(-1, 1, 1, 1), bias)
    y: Tensor = norm(conv(x))
    return y


class ConvBN(nn.Sequential):
    """A convolution without bias, its batch norm, and optionally an activation."""

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, *activation = self
        assert isinstance(conv, nn.Conv2d)
        x = conv_bn(conv, norm, x)
        return activation[0](x) if activation else x
