"""The list of problems beside a cache: `X.problems.jsonl`, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastload.sources.base import Problem


def problems_path(cache: Path) -> Path:
    """Where the problems met while building the cache at `cache` are listed."""
    return cache.with_suffix(".problems.jsonl")


def write_problems(problems: Sequence[Problem], cache: Path) -> None:
    """List problems beside the cache; without any, remove the list of an older build."""
    target = problems_path(cache)
    if not problems:
        target.unlink(missing_ok=True)
        return
    lines = [json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
    scratch = target.with_name(target.name + ".partial")
    with open(scratch, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(lines)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(scratch, target)


def read_problems(cache: Path) -> list[Problem]:
    """What was met while the cache at `cache` was built."""
    target = problems_path(cache)
    if not target.exists():
        return []
    return [Problem(**json.loads(line)) for line in target.read_text("utf-8").splitlines()]
