"""The soak program: a short run of it is flat, and a leak does not escape it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # its programs import one another by name
from soak import GROWTH, Sample, Soak, complaints, sample

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_a_short_soak_is_flat(small_cache) -> None:
    """A few seconds of loaders misused at random: nothing grows, and the program says so."""
    command = [sys.executable, ROOT / "benchmarks/soak.py", small_cache, "--minutes", "0.15", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Flat: nothing grew" in done.stdout and "lives of loaders" in done.stdout


@pytest.mark.slow
def test_ten_minutes_are_flat(small_cache) -> None:
    """The same for ten minutes."""
    command = [sys.executable, ROOT / "benchmarks/soak.py", small_cache, "--minutes", "10"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("late", "complaint"),
    [
        (Sample(100 << 20, 9, 4), None),
        (Sample((100 << 20) + GROWTH, 9, 4), None),
        (Sample((100 << 20) + 2 * GROWTH, 9, 4), "memory grew by 32.0 MB"),
        (Sample(100 << 20, 10, 4), "files grew by 1"),
        (Sample(100 << 20, 9, 5), "threads grew by 1"),
    ],
)
def test_whatever_grows_is_named(late: Sample, complaint: str | None) -> None:
    """The last quarter of a run is held against the second; the first may grow as it likes."""
    samples = [Sample(0, 0, 0)] * 25 + [Sample(100 << 20, 9, 4)] * 50 + [late] * 25
    assert complaints(samples) == ([complaint] if complaint else [])


@pytest.fixture
def soak(small_cache) -> Iterator[Soak]:
    soak = Soak(small_cache, 0)
    yield soak
    if soak.slow is not None:
        soak.slow.close()


def test_a_leak_is_found(soak, small_cache) -> None:
    """A file left open in some lives makes the run a failure."""
    leaked = []
    soak.endings = {"left_early": lambda: leaked.append(small_cache.open("rb"))}
    samples = []
    for _ in range(8):  # counted, not timed: collecting a large heap may take as long as a short run
        soak.live()
        samples.append(sample())
    assert any("files grew" in complaint for complaint in complaints(samples))
    for file in leaked:
        file.close()


def test_batches_that_differ_are_found(soak) -> None:
    """A loader that gives other batches than an undisturbed one stops the run."""
    soak._loader()
    with pytest.raises(RuntimeError, match="not what they should be"):
        soak._same([1, 2], [1, 3])
