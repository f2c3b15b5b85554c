"""What a process computes with: its device, its number format, its memory; and how it is asked to stop."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

import torch

from detector.config import Config
from detector.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # as in glibc's malloc.h
MOST = 2**31 - 1


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


def pick_dtype(config: Config, device: torch.device) -> torch.dtype:
    """The format of convolutions; the losses are always float32."""
    if config.precision != "auto":
        return DTYPES[config.precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    # Without AMX's matrix units a CPU gains nothing from bf16: conversions cost what the products save.
    has_matrix_units = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_matrix_units else torch.float32


def pick_memory_format(config: Config, device: torch.device, dtype: torch.dtype) -> torch.memory_format:
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


def keep_freed_memory() -> None:
    """Have this process keep what it frees, where the C library is glibc; elsewhere nothing happens.

    A step on a CPU makes hundreds of tensors of many megabytes. By default each is mapped and unmapped alone, and the
    kernel clears its pages every time they are touched first: a tenth of a step. A thread of its own, such as the
    network's in a PredictStream, would take them from an arena of 64 MB at most and map what is larger: half its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, MOST)
        mallopt(M_ARENA_MAX, 1)


class StopRequest:
    """True once somebody has asked."""

    def __init__(self) -> None:
        self.made = False

    def __bool__(self) -> bool:
        return self.made

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.made = True


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, the signals only set the `StopRequest`. Outside of the main thread it is never set."""
    stop = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, stop) for number in numbers]
    except ValueError:  # not the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
