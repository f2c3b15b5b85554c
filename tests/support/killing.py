"""Killing a process that writes, again and again, until one run gets to its end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Runs:
    """What became of the runs."""

    kills: int = 0
    starts: list[int] = field(default_factory=list)  # where each run that had work left took it up


def start(command: Sequence[Any]) -> subprocess.Popen:
    """A Python process with pipes for what it says."""
    return subprocess.Popen(
        [sys.executable, "-c", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_until_done(
    command: Sequence[Any], lines: tuple[int, int], seed: int, after_kill: Callable[[], None], most: int = 60
) -> Runs:
    """Start `command`, whose progress is a line with a number each, and kill -9 it after a random number of `lines`
    and up to 20 ms; until it ends by itself. A kill may also come when all is done but the exit."""
    rng, runs = random.Random(seed), Runs()
    for _ in range(most):
        process = start(command)
        for number in range(rng.randrange(*lines)):
            line = process.stdout.readline()
            if number == 0 and line.strip().isdigit():
                runs.starts.append(int(line))
            if not line:
                break
        else:
            time.sleep(rng.random() * 0.02)
            process.kill()
        _, errors = process.communicate()
        if process.returncode == 0:
            return runs
        assert process.returncode == -signal.SIGKILL, errors
        runs.kills += 1
        after_kill()
    raise AssertionError(f"not done after {most} runs")
