"""The device and the number format to compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from detector.config import Config
from detector.errors import ConfigError

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto`: a CUDA GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def pick_format(config: Config, device: torch.device) -> torch.dtype:
    """The format of convolutions; the losses are always float32."""
    if config.precision != "auto":
        return FORMATS[config.precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    # Without AMX's matrix units a CPU gains nothing from bf16: conversions cost what the products save.
    has_matrix_units = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_matrix_units else torch.float32


def pick_layout(config: Config, device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """The memory format to train in: channels_last, which matrix units and depthwise convolutions want.

    With AVX2 alone the dense float32 convolutions of a ResNet train some 5 % faster in oneDNN's own layout, which it
    gives to contiguous tensors; EfficientNet's train twice as fast in channels_last there, too.
    """
    is_dense = config.backbone.startswith("resnet") and dtype == torch.float32
    is_avx2 = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if is_dense and is_avx2 else torch.channels_last


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Where convolutions run in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
