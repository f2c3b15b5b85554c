"""The examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.class_cache import LEVELS
from tests.support.datasets import encoded

ROOT = Path(__file__).parents[1]


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Four classes of one gray each, in `train` and `val`."""
    for split, count in (("train", 24), ("val", 6)):
        for k, level in enumerate(LEVELS.tolist()):
            folder = tmp_path / "set" / split / f"class{k}"
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(encoded(np.full((40 + i, 60 - i, 3), level, np.uint8)))
    return tmp_path / "set"


def example(name: str, *arguments: str | Path, launcher: tuple[str, ...] = ()) -> str:
    """The output of an example."""
    script = [] if "-c" in launcher else [ROOT / "examples" / name]
    command = [sys.executable, *launcher, *script, *arguments]
    environment = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}",
        "OMP_NUM_THREADS": "1",
        "PATH": os.environ["PATH"],
    }
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=200)
    assert run.returncode == 0, run.stderr
    return run.stdout


SMALL = ("--width", "4", "--batch-size", "8", "--first-size", "32", "--size", "64", "--workers", "1", "--lr", "3")


# Ends the training where it would write its fifth checkpoint: in the second epoch of 12 steps, after the tenth.
STOPPED = """
import torch, train_imagenet
save, calls = torch.save, []
def stop(*arguments):
    calls.append(arguments)
    return save(*arguments) if len(calls) < 5 else exit()
torch.save = stop
train_imagenet.main()
"""


def without_speed(output: str) -> list[str]:
    """The lines of epochs; that of a slow build comes before them."""
    return [line.rpartition(",")[0] for line in output.splitlines() if line.startswith("epoch")]


def test_training_on_class_folders_learns_and_resumes(class_folders: Path, tmp_path: Path) -> None:
    """Classes of different grays are told apart; a run that was cut short ends with the figures of a whole one."""
    whole = without_speed(example("train_imagenet.py", class_folders, *SMALL, "--epochs", "3", "--out", tmp_path / "a"))
    assert len(whole) == 3 and float(re.findall(r"top-1 ([\d.]+)%", whole[-1])[0]) >= 50
    cut = [class_folders, *SMALL, "--epochs", "3", "--out", tmp_path / "b", "--save-every", "5"]
    assert without_speed(example("train_imagenet.py", *cut, launcher=("-c", STOPPED))) == whole[:1]
    resumed = without_speed(example("train_imagenet.py", *cut, "--resume"))
    assert resumed[1:] == whole[2:] and resumed[0].partition("top-1")[2] == whole[1].partition("top-1")[2]


@pytest.mark.long
def test_training_on_two_processes_with_mixing(class_folders: Path, tmp_path: Path) -> None:
    """torchrun shares the epoch; soft labels and averaged weights; caches instead of a folder."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    arguments = [*SMALL, "--epochs", "2", "--mixup", "0.2", "--cutmix", "1", "--ema", "0.9", "--out", tmp_path / "run"]
    lines = example("train_imagenet.py", class_folders, *arguments, launcher=launcher).splitlines()
    assert len(lines) == 2 and "top-1" in lines[1]
    caches = [class_folders / "fastload" / f"{split}.lmdb" for split in ("train", "val")]
    (line,) = example("train_imagenet.py", *caches, *arguments[:-6], "--epochs", "1").splitlines()
    assert line.startswith("epoch 0: loss")


def test_swapping_the_loader_shows_the_same_images_and_boxes(sample_set: Path) -> None:
    """The same loop over the dataset and over its cache sees the same numbers of images and boxes."""
    command = [sys.executable, ROOT / "examples/swap_dataloader.py", sample_set]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, timeout=200)
    assert run.returncode == 0, run.stderr
    dataset, cache = re.findall(r"(\d+) images with (\d+) boxes", run.stdout)
    assert dataset == cache and int(cache[1]) > 0
