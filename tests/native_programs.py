"""Building tests/native/*.cpp with the sanitizers. What they share of the core is compiled once a run."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "fastload/csrc"
READERS = ("dct", "huffman", "jpeg_", "lmdb_tree", "record", "simd", "turbojpeg")  # all that reads bytes from outside
POOL = (*READERS, "canvas_ring", "fault", "kernels", "pixel_format", "pool", "render", "resample")
BOUNDS = "-fsanitize=address,undefined"
RACES = "-fsanitize=thread"
OPTIONS = ["-std=c++17", "-O1", "-g", "-fno-sanitize-recover=all", "-pthread"]


def compiler() -> str:
    """A C++ compiler, which the package itself needs too."""
    found = shutil.which("g++") or shutil.which("clang++")
    assert found, "a C++ compiler is needed, as for the package itself"
    return found


@cache
def sanitized_objects(parts: tuple[str, ...], sanitizer: str) -> tuple[Path, ...]:
    """The core's sources whose names begin so, compiled."""
    folder = Path(mkdtemp(prefix="fastload-native-"))
    sources = [path for part in parts for path in sorted(CSRC.glob(f"{part}*.cpp"))]
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(lambda source: _compile(source, folder / f"{source.stem}.o", sanitizer), sources))


def build_program(name: str, folder: Path, parts: tuple[str, ...] = READERS, sanitizer: str = BOUNDS) -> Path:
    """tests/native/NAME.cpp as a program in `folder`."""
    main = _compile(ROOT / "tests/native" / f"{name}.cpp", folder / f"{name}.o", sanitizer)
    program = folder / name
    objects = sanitized_objects(parts, sanitizer)
    subprocess.run([compiler(), *OPTIONS, sanitizer, main, *objects, "-ldl", "-o", program], check=True)
    return program


def _compile(source: Path, target: Path, sanitizer: str) -> Path:
    subprocess.run([compiler(), *OPTIONS, sanitizer, f"-I{CSRC}", "-c", source, "-o", target], check=True)
    return target
