"""The vector kernels, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.native_programs import INCLUDES, READERS, ROOT, build_program, sources_of

LIMIT = {"FASTLOAD_MAX_PIXELS": "1000000"}  # bounds the tiles of rotated images


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/native/kernels.cpp, built with the sanitizers."""
    return build_program("kernels", tmp_path_factory.mktemp("native"))


@pytest.mark.long
@pytest.mark.parametrize("level", ["scalar", "neon", "avx2", "avx512"])
def test_kernels_stay_in_bounds_and_equal_scalar(driver: Path, level: str) -> None:
    """Random geometry, formats, edges and tails: no report from the sanitizers, the same bits as the scalar kernel."""
    run = subprocess.run([driver], capture_output=True, text=True, env={**os.environ, **LIMIT, "FASTLOAD_SIMD": level})
    if "this machine lacks it" in run.stderr:
        pytest.skip(f"no {level} here")
    assert run.returncode == 0 and run.stdout == "equal\n", run.stderr


def test_neon_kernels_under_emulation(tmp_path: Path) -> None:
    """The kernels of arm64 equal the scalar ones, run by qemu where that and a cross compiler are installed."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if not compiler or not emulator:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user-static")
    program = tmp_path / "kernels"
    sources = [ROOT / "tests/native/kernels.cpp", *sources_of(READERS)]
    options = ["-std=c++17", "-O2", "-static", "-pthread", *INCLUDES]
    subprocess.run([compiler, *options, *sources, "-ldl", "-o", program], check=True)
    environment = {**os.environ, **LIMIT, "FASTLOAD_SIMD": "neon"}
    run = subprocess.run([emulator, program, "1000"], capture_output=True, text=True, env=environment)
    assert run.returncode == 0 and run.stdout == "equal\n", run.stderr
