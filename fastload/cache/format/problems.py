"""The problems file of a cache: `X.problems.jsonl`, one JSON object per line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastload.sources.base import Problem


def problems_path(cache: Path) -> Path:
    """Return the path of the problems file of the cache at `cache`."""
    return cache.with_suffix(".problems.jsonl")


def write_problems(problems: Sequence[Problem], cache: Path) -> None:
    """Write the problems file of a cache, or remove an earlier one if there are no problems."""
    target = problems_path(cache)
    if not problems:
        target.unlink(missing_ok=True)
        return
    lines = [json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
    unfinished = target.with_name(target.name + ".partial")
    with open(unfinished, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(lines)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, target)


def read_problems(cache: Path) -> list[Problem]:
    """Return the problems that were found when the cache at `cache` was built."""
    target = problems_path(cache)
    if not target.exists():
        return []
    with open(target, encoding="utf-8") as lines:  # str.splitlines would also split at U+2028, which names may hold
        return [Problem.from_fields(json.loads(line)) for line in lines]
