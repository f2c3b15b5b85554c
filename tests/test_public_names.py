"""What `import fastload` offers."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fastload
from fastload import FastloadError, find_datasets


def test_every_public_name_is_there_and_documented():
    """Type checkers and Python are offered the same names, from the same homes, each with a docstring."""
    tree = ast.parse(Path(fastload.__file__).read_text())
    declared = {
        alias.name: node.module.removeprefix("fastload.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("fastload.")
        for alias in node.names
    }
    assert declared == fastload._HOME and set(fastload.__all__) == set(declared)
    for name in fastload.__all__:
        value = getattr(fastload, name)
        assert not callable(value) or inspect.getdoc(value), name


def test_public_names_need_no_command_line_packages():
    """A service that loads, builds and draws works where rich, typer and the like are missing; torch waits."""
    script = """
import sys
for name in ("matplotlib", "rich", "tensorboard", "typer", "tyro"):
    sys.modules[name] = None
import fastload
assert "torch" not in sys.modules
for name in set(fastload.__all__) - {"show_progress"}:
    getattr(fastload, name)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_unknown_formats_are_refused(tmp_path):
    """Formats have names; the error lists them."""
    with pytest.raises(FastloadError, match="unknown dataset format 'cocoa': use one of coco, voc"):
        find_datasets(str(tmp_path), "cocoa")
