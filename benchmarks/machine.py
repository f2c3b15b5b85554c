"""Describes the machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from fastload import _core


def machine() -> dict[str, str]:
    """The properties of this machine that a loader's speed depends on."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "vector instructions": _core.simd_level(),
        "libjpeg-turbo": _core.turbojpeg_path(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name
