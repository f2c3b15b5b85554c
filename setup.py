"""Builds the C++ core; everything else about the package is in pyproject.toml."""

import os
import shutil
import sysconfig
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import PlatformError

ParallelCompile("NPY_NUM_BUILD_JOBS", needs_recompile=lambda obj, src: True).install()

compile_args = ["-O3", "-Wall", "-Wextra", "-Werror=return-type", "-pthread"]
link_args = ["-pthread"]
if os.environ.get("FASTLOAD_WERROR"):  # for those who change the code; a user's newer compiler may know more warnings
    compile_args += ["-Werror"]
if sanitizers := os.environ.get("FASTLOAD_SANITIZE"):  # e.g. "address,undefined", as the tests do
    compile_args += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={sanitizers}"]

core = Pybind11Extension(
    "fastload._core",
    sorted(glob("fastload/csrc/**/*.cpp", recursive=True)),
    depends=sorted(glob("fastload/csrc/*/*.h")),
    include_dirs=sorted(glob("fastload/csrc/*/")),
    cxx_std=17,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    libraries=["dl"],
)


class BuildCore(build_ext):
    """Says what to install when there is nothing to build with."""

    def build_extensions(self) -> None:
        compiler = getattr(self.compiler, "compiler_so_cxx", self.compiler.compiler_so)[0]
        if not shutil.which(compiler):
            raise PlatformError(f"fastload's core is C++17, and there is no compiler {compiler}. {REMEDY}")
        headers = Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").exists():
            raise PlatformError(f"fastload's core needs Python's headers, and {headers} has no Python.h. {REMEDY}")
        super().build_extensions()


REMEDY = (
    "Install both with `apt-get install g++ python3-dev` (Debian, Ubuntu), `dnf install gcc-c++ python3-devel` "
    "(Fedora) or `xcode-select --install` (macOS), then run the same command again."
)

setup(ext_modules=[core], cmdclass={"build_ext": BuildCore})
