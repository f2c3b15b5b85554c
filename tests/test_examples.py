"""The examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_swapping_the_loader_shows_the_same_images_and_boxes(sample_set: Path) -> None:
    """The same loop over the dataset and over its cache sees the same numbers of images and boxes."""
    command = [sys.executable, ROOT / "examples/swap_dataloader.py", sample_set]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, timeout=200)
    assert run.returncode == 0, run.stderr
    dataset, cache = re.findall(r"(\d+) images with (\d+) boxes", run.stdout)
    assert dataset == cache and int(cache[1]) > 0
