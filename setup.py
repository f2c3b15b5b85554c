"""Builds the C++ core; everything else about the package is in pyproject.toml."""

import os
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

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
    sorted(glob("fastload/csrc/*.cpp")),
    depends=sorted(glob("fastload/csrc/*.h")),
    cxx_std=17,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    libraries=["dl"],
)

setup(ext_modules=[core], cmdclass={"build_ext": build_ext})
