"""Installing: what is missing is named with the command that gets it, and the source distribution is whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from contextlib import suppress
from pathlib import Path

import pytest

from fastload import _core

ROOT = Path(__file__).parents[1]
OTHER_DISTRIBUTION = re.compile(  # a requirement with extras, or the bare name in a pip command
    r"(?<![\w./-])fastload\[\w|\bpip3? (?:install|download|wheel|uninstall)\b[^;&|`\n]*?(?<![\w./-])fastload(?![\w./-])"
)


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, built with the packages that are here."""
    folder = tmp_path_factory.mktemp("sdist")
    done = run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("fastload_vision-*.tar.gz"))


def test_without_a_compiler_the_build_says_what_to_install(tmp_path):
    """No compiler: one sentence with the commands that install one, instead of a failed command."""
    where = ("--build-temp", tmp_path, "--build-lib", tmp_path)
    done = run(sys.executable, "setup.py", "-q", "build_ext", *where, CC="/nowhere/cc", CXX="/nowhere/c++")
    assert done.returncode != 0
    assert "there is no compiler /nowhere/c" in done.stderr and "apt-get install g++ python3-dev" in done.stderr


def test_without_pythons_headers_the_build_says_what_to_install(tmp_path):
    """A compiler but no Python.h: likewise."""
    script = (
        "import sys, sysconfig;"
        "sys.argv = ['setup.py', '-q', 'build_ext', '--build-temp', {0!r}, '--build-lib', {0!r}];"
        "sysconfig.get_path = lambda name, *rest, **more: '/nowhere/include'; exec(open('setup.py').read())"
    )
    done = run(sys.executable, "-c", script.format(str(tmp_path)))
    assert done.returncode != 0
    assert "/nowhere/include has no Python.h" in done.stderr and "dnf install gcc-c++ python3-devel" in done.stderr


def test_without_libturbojpeg_the_error_says_what_to_install(tmp_path):
    """No libturbojpeg anywhere: the error names three ways to get it."""
    folder = tmp_path / "fastload"
    folder.mkdir()
    for file in (ROOT / "fastload/__init__.py", Path(_core.__file__)):
        shutil.copy(file, folder)
    bare = (sys.executable, "-S", "-c")  # without site-packages, where the package `turbojpeg` lies
    done = run(*bare, "import fastload._core as core; print(core.turbojpeg_path())", PYTHONPATH=str(tmp_path))
    if done.returncode == 0:
        pytest.skip(f"this system has one of its own: {done.stdout.strip()}")
    for way in ("apt-get install libturbojpeg0", "brew install jpeg-turbo", "pip install turbojpeg"):
        assert way in done.stderr


def test_no_file_installs_somebody_elses_distribution() -> None:
    """fastload on PyPI is another project: commands and requirements name fastload-vision."""
    assert OTHER_DISTRIBUTION.search("run pip install -U fastload") and OTHER_DISTRIBUTION.search("'fastload[" + "x]'")
    assert not OTHER_DISTRIBUTION.search("pip install -e . && fastload demo; pip install 'fastload-vision[x]'")
    found = []
    for name in run("git", "ls-files").stdout.split("\n"):
        with suppress(UnicodeDecodeError, OSError):  # pictures, and files that are deleted but not yet committed
            lines = (ROOT / name).read_text("utf-8").splitlines()
            found += [f"{name}:{i}: {line}" for i, line in enumerate(lines, 1) if OTHER_DISTRIBUTION.search(line)]
    assert [line for line in found if not line.startswith("tests/test_install.py:")] == []


def test_the_source_distribution_is_whole(sdist):
    """It holds every source, header and stub that a build needs, the licence, and nothing that was built."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = run("git", "ls-files", "fastload", "detector", "setup.py", "pyproject.toml", "LICENSE", "README.md")
    assert set(tracked.stdout.split()) <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


@pytest.mark.slow
def test_the_source_distribution_installs_in_a_bare_environment(sdist, tmp_path):
    """Built by `pip wheel` and installed without extras, it runs."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    done = run(python, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, sdist)
    assert done.returncode == 0, done.stderr
    wheel = next(tmp_path.glob("fastload_vision-*.whl"))
    done = run(python, "-m", "pip", "install", wheel, "torch==2.13.0")
    assert done.returncode == 0, done.stderr
    done = run(python, "-m", "fastload", "doctor", PYTHONPATH="")
    assert done.returncode == 0, done.stdout + done.stderr
