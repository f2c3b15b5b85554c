"""Training that is killed: resumed from its last checkpoint it ends with the very weights of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from detector import checkpoint
from detector.config import Config
from detector.train import train
from tests.detector.test_train import environment, options, same

TRAIN = """
import sys
import torch
from detector.train import loop
from detector.cli import parse_config
torch.set_num_threads(1)
loop.SAVE_SECONDS = 0
save = loop.TrainingRun.save
def save_and_tell(run):
    save(run)
    print("saved", run.trainer.step, flush=True)
loop.TrainingRun.save = save_and_tell
loop.train(parse_config(sys.argv[1:]))
print("trained", flush=True)
"""


def run_until_killed(config: Config, saves: int, pause: float) -> bool:
    """Train, and kill -9 `pause` seconds after so many checkpoints. True: it ended first."""
    command = [sys.executable, "-c", TRAIN, str(config.data), *options(config)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = 0
    for line in process.stdout:
        lines += line.startswith("saved")
        if lines == saves:
            time.sleep(pause)
            os.kill(process.pid, signal.SIGKILL)
            break
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors[-3000:]
    return process.returncode == 0


def kill_and_resume(tiny: Config, tmp_path, kills: int) -> None:
    """Kill a training run again and again in mid-epoch, then let it end; compare with one that was left alone."""
    tiny = replace(tiny, log_every=1)
    alone = replace(tiny, out=tmp_path / "alone")
    train(alone)
    killed, rng = replace(tiny, out=tmp_path / "killed"), random.Random(4)
    for kill in range(kills):
        if run_until_killed(replace(killed, resume=kill > 0), saves=1 + kill % 2, pause=rng.uniform(0, 0.2)):
            break
    assert checkpoint.load(killed.out / "last.pt")["step"] >= 1
    train(replace(killed, resume=True))
    for name in ("last.pt", "best.pt"):
        one, two = (checkpoint.load(config.out / name) for config in (alone, killed))
        assert same(one, two), name


@pytest.mark.long
def test_killed_in_mid_epoch_it_resumes_to_the_same_weights(tiny, tmp_path):
    """kill -9 after a checkpoint in mid-epoch, then --resume: the same checkpoints, bit for bit."""
    kill_and_resume(replace(tiny, eval_every=2), tmp_path, kills=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_again_and_again_it_resumes_to_the_same_weights(tiny, tmp_path):
    """The same with up to 20 kills, over six epochs."""
    kill_and_resume(replace(tiny, epochs=6), tmp_path, kills=20)
