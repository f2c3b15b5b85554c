"""Building tests/native/*.cpp with the sanitizers. What they share of the core is compiled once a run."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "fastload/csrc"
INCLUDES = [f"-I{folder}" for folder in sorted(CSRC.glob("*/"))]
READERS = ("cache/*", "dct/*", "jpeg/*", "render/*", "simd/*")  # all that reads bytes from outside, and what it needs
POOL = (*READERS, "masks/*", "engine/*", "ops/*")  # all but bind and testing, which need Python
BOUNDS = "-fsanitize=address,undefined"
RACES = "-fsanitize=thread"
OPTIONS = ["-std=c++17", "-O1", "-g", "-fno-sanitize-recover=all", "-pthread"]


def compiler() -> str:
    """A C++ compiler, which the package itself needs too."""
    found = shutil.which("g++") or shutil.which("clang++")
    assert found, "a C++ compiler is needed, as for the package itself"
    return found


def sources_of(parts: tuple[str, ...]) -> list[Path]:
    """The core's sources of such patterns, without their suffix."""
    return [path for part in parts for path in sorted(CSRC.glob(f"{part}.cpp"))]


@cache
def sanitized_objects(parts: tuple[str, ...], sanitizer: str) -> tuple[Path, ...]:
    """The core's sources of such patterns, compiled."""
    folder = Path(mkdtemp(prefix="fastload-native-"))
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda path: _compile(path, folder / f"{path.stem}.o", sanitizer), sources_of(parts))
        return tuple(compiled)


def build_program(name: str, folder: Path, parts: tuple[str, ...] = READERS, sanitizer: str = BOUNDS) -> Path:
    """tests/native/NAME.cpp as a program in `folder`."""
    main = _compile(ROOT / "tests/native" / f"{name}.cpp", folder / f"{name}.o", sanitizer)
    program = folder / name
    objects = sanitized_objects(parts, sanitizer)
    subprocess.run([compiler(), *OPTIONS, sanitizer, main, *objects, "-ldl", "-o", program], check=True)
    return program


def _compile(source: Path, target: Path, sanitizer: str) -> Path:
    subprocess.run([compiler(), *OPTIONS, sanitizer, *INCLUDES, "-c", source, "-o", target], check=True)
    return target
