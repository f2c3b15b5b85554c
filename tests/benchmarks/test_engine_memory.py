"""Memory: a program that runs epochs with each engine and fails when memory grows."""

from __future__ import annotations

import sys

import pytest

from fastload.engines.auto import ENGINES
from tests.benchmarks.test_benchmark import run, scripts  # noqa: F401  # a fixture
from tests.support.engines import needs_dali


@pytest.mark.long
@needs_dali
def test_memory_is_flat_with_every_engine(sample_set):
    """Some epochs with each, the fifth left half-way, end with a table and without growth."""
    done = run("engine_memory.py", sample_set / "val", "--epochs", "6", "--images", "9", "--short", "64")
    assert done.returncode == 0, done.stderr
    assert all(engine in done.stdout for engine in ENGINES) and "6 epochs of 9 images" in done.stdout


def test_a_leak_is_an_error(scripts, sample_set, monkeypatch):  # noqa: F811
    """Memory that grows from epoch to epoch ends the program with the engine's name; a jump at the start does not."""
    import engine_memory

    monkeypatch.setattr(sys, "argv", ["engine_memory.py", str(sample_set / "val"), "--engines", "native", "reference"])
    held = {"native": [100.0 + 2 * i for i in range(30)], "reference": [20.0] + [180.0] * 29}
    monkeypatch.setattr(engine_memory, "epochs", lambda cache, engine, options: held[engine])
    with pytest.raises(SystemExit, match=r"^native: memory grows"):
        engine_memory.main()
