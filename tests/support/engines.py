"""The engines by name, those left out that cannot run here, for tests that hold for all of them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastload.engines.auto import ENGINES as REGISTERED
from fastload.engines.base import Engine
from fastload.pixel_format import PixelFormat
from fastload.plan.batch_plan import BatchPlan


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # of the package it is in
        return False


needs_dali = pytest.mark.skipif(not _has_dali(), reason="NVIDIA DALI is not installed")
DALI = pytest.param("dali", marks=needs_dali)
ENGINES = ("native", DALI, "reference")
THREADED = ("native", DALI)


def open_engine(name: str, cache: Any, threads: int = 0, pixels: PixelFormat | None = None) -> Any:
    """The engine `name` over `cache`."""
    module, kind = REGISTERED[name]
    return getattr(import_module(module), kind)(cache, threads, pixels=pixels)


def submit(engine: Engine, plan: BatchPlan) -> Any:
    """The ticket of a plan of one batch."""
    return engine.submit(plan, [len(plan.size)])


def finish(engine: Engine, ticket: Any) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """The canvases (B, H, W, 3) of such a plan, and what failed."""
    failures = engine.wait(ticket, 0)
    images = engine.images(ticket, 0)
    assert images is not None
    return images.permute(0, 2, 3, 1).numpy(), failures


def execute(engine: Engine, plan: BatchPlan) -> NDArray[np.uint8]:
    """The canvases (B, H, W, 3) of a plan of one batch, all of whose images decode."""
    canvases, failures = finish(engine, submit(engine, plan))
    assert failures == {}
    return canvases
