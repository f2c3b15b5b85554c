"""The GPU check: every part of it runs, on the CPU where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.detector.blocks import make_blocks

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_gpu_check_runs_from_end_to_end(tmp_path):
    """All parts are measured and written; an engine that is not installed is named; without a GPU it says so."""
    blocks = make_blocks(tmp_path / "coco", {"train": 6, "val": 3})
    small = "--batch-size 2 --size 32 --threads 1 --steps 2 --images 4 --rounds 1 --device cpu"
    with_absent = (
        "from fastload.engines.auto import ENGINES; ENGINES['absent'] = ('fastload.absent', 'Absent');"
        "import runpy, sys; sys.path.insert(0, 'benchmarks'); runpy.run_path('benchmarks/gpu.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", with_absent, blocks, *small.split(), "--json", tmp_path / "gpu.json"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "no GPU was measured" in done.stdout and "engine absent is skipped" in done.stdout
    assert set(found["engines"]) >= {"native", "reference"} and "absent" not in found["engines"]
    assert all(speed > 0 for speed in found["engines"].values())
    assert list(found["transfers"]) == ["transfer and normalise", "work", "one after the other", "side by side"]
    assert 0 <= found["training"]["idle_percent"] <= 100 and len(found["training step"]) == 2
    for batch_size in (1, 8):
        assert set(found["evaluation"][f"batch {batch_size}"]) == {"one stage after the other", "three streams"}
    assert "bottleneck: " in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path):
    """Asked for CUDA without a GPU, the check says what is wrong."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", tmp_path, "--device", "cuda"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "--device cuda cannot be used here" in done.stderr
    assert "Traceback" not in done.stderr
