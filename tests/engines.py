"""The engines by name, those left out that cannot run here, for tests that hold for all of them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from fastload.loader import ENGINES as REGISTERED


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # of the package it is in
        return False


needs_dali = pytest.mark.skipif(not _has_dali(), reason="NVIDIA DALI is not installed")
DALI = pytest.param("dali", marks=needs_dali)
ENGINES = ("native", DALI, "reference")
THREADED = ("native", DALI)


def open_engine(name: str, cache: Any, threads: int = 0) -> Any:
    """The engine `name` over `cache`."""
    module, kind = REGISTERED[name]
    return getattr(import_module(module), kind)(cache, threads)
