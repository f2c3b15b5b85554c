"""Checks of this machine: what fastload uses, what is missing, and how to install it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastload.errors import EngineError


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: what was checked.
        found: what was found. None: it is missing.
        fix: what to do if it is missing.
        needed: False if fastload works without it.
    """

    what: str
    found: str | None
    fix: str = ""
    needed: bool = True


def examine() -> list[Finding]:
    """Run all checks. A check that fails with an exception is reported as missing."""
    return [_safely(check) for check in (_python, _core, _turbojpeg, _simd, _torch, _gpu, _dali, _cores, _memory)]


def _safely(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a broken installation can raise anything
        return Finding(check.__name__.strip("_"), None, f"it fails with: {' '.join(str(error).split())}")


def _python() -> Finding:
    return Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _core() -> Finding:
    from fastload import _core

    return Finding("native core", _core.__file__)


def _turbojpeg() -> Finding:
    from fastload import _core

    try:
        return Finding("libjpeg-turbo", _core.turbojpeg_path())
    except RuntimeError as error:
        return Finding("libjpeg-turbo", None, str(error))


def _simd() -> Finding:
    from fastload import _core

    return Finding("vector instructions", _core.simd_level())


def _torch() -> Finding:
    return Finding("torch", _version("torch"), "pip install torch")


def _gpu() -> Finding:
    if not Path("/proc/driver/nvidia").exists() and sys.platform == "linux":
        return Finding("GPU", None, "no NVIDIA driver is loaded: batches stay in the CPU's memory", needed=False)
    import torch  # takes two seconds, so only if there may be a GPU

    if not torch.cuda.is_available():
        return Finding("GPU", None, "torch finds none: install a CUDA build of torch (pytorch.org)", needed=False)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPU", ", ".join(names), needed=False)


def _dali() -> Finding:
    from fastload.engines.dali.pipeline import dali_version, import_dali

    try:
        import_dali()
    except EngineError as error:
        return Finding("NVIDIA DALI", None, f'{error}. Only engine="dali" needs it', needed=False)
    return Finding("NVIDIA DALI", dali_version(), needed=False)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("CPU cores", f"{usable} usable of {os.cpu_count()}")


def _memory() -> Finding:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(name) * page / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return Finding("memory", f"{total:.1f} GiB, {free:.1f} GiB of it free")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
