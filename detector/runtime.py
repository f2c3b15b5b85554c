"""The device, number format and memory that a process computes with, and signals that stop it."""

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
INT_MAX = 2**31 - 1


def pick_device(name: str) -> torch.device:
    """The device of this name; `auto` is a CUDA GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def pick_dtype(config: Config, device: torch.device) -> torch.dtype:
    """The number format of convolutions; the losses are always float32."""
    if config.precision != "auto":
        return DTYPES[config.precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    # Without instructions for bf16 a CPU gains nothing: conversions cost as much as the products save.
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # which old versions of torch lack
    return torch.bfloat16 if device.type == "cpu" and has_bf16() else torch.float32


def pick_memory_format(config: Config, device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """The memory format to train in: channels_last, the fastest for matrix units and depthwise convolutions.

    On AVX2 without AVX-512, the dense float32 convolutions of a ResNet train about 5 % faster in oneDNN's own layout,
    which it uses for contiguous tensors. EfficientNet trains twice as fast in channels_last there too.
    """
    is_dense = config.backbone.startswith("resnet") and dtype == torch.float32
    is_avx2 = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if is_dense and is_avx2 else torch.channels_last


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context in which convolutions run in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for the next allocation. Has an effect with glibc only.

    A training step on a CPU makes hundreds of tensors of many megabytes. By default glibc maps and unmaps each of them,
    and the kernel clears its pages again every time: a tenth of a step, on a virtual machine up to half. For a thread
    other than the main one, such as the network's in a PredictStream, it is half the time, since its arena holds 64 MB
    at most.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, INT_MAX)
        mallopt(M_ARENA_MAX, 1)


class StopRequest:
    """A signal handler; True after a signal has come."""

    def __init__(self) -> None:
        self.received = False

    def __bool__(self) -> bool:
        return self.received

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C stops at once
        self.received = True


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A context in which SIGINT and SIGTERM only set the `StopRequest`. It is never set outside of the main thread."""
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
