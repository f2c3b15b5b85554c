"""What the detector's tests share: a small dataset and a small configuration."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detector.config import PRESETS, Config
from tests.detector.blocks import make_blocks


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small are faster on one thread, and the same on any machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 pictures to train on, 7 to evaluate on."""
    return make_blocks(tmp_path_factory.mktemp("blocks") / "coco", {"train": 21, "val": 7})


@pytest.fixture
def tiny(blocks: Path, tmp_path: Path) -> Config:
    """Two epochs of three steps of the smallest network that has all of the parts."""
    return replace(
        PRESETS["fcos_tiny"],
        data=blocks,
        out=tmp_path / "run",
        weights="none",
        frozen_stages=0,
        frozen_norm=False,
        channels=16,
        width=16,
        depth=1,
        sizes=(64, 96),
        max_size=128,
        test_size=64,
        test_max_size=128,
        batch_size=8,
        epochs=2,
        eval_every=1,
        log_every=2,
        warmup=2,
        workers=1,
        device="cpu",
        precision="fp32",
    )
