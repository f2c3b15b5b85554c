"""Imports the data pipelines of published detectors from checkouts of their repositories.

Each repository is a folder of one directory, under its own name: `vision` (pytorch/vision), `YOLOX`, `D-FINE`, `DEIM`,
`detr`. Only their data code is imported: what it imports by the way and does not use (models, profilers) is replaced by
empty modules. This runs in an environment of its own, with torchvision; the project itself does not import torchvision.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


def torchvision_reference(repositories: Path, module: str) -> ModuleType:
    """Import a module of pytorch/vision's references/detection, such as `presets`."""
    return _import(repositories / "vision" / "references" / "detection", module)


def yolox(repositories: Path, module: str) -> ModuleType:
    """Import a module of YOLOX, such as `yolox.data`."""
    return _import(repositories / "YOLOX", module)


def detr(repositories: Path, module: str) -> ModuleType:
    """Import a module of DETR, such as `datasets.transforms`, without `util.misc`, which serves masks only."""
    _replace("util.misc", interpolate=None)
    return _import(repositories / "detr", module)


def dfine(repositories: Path, module: str = "src.data") -> ModuleType:
    """Import a module of D-FINE, without its models."""
    _replace("calflops", calculate_flops=None)
    _package("src", repositories / "D-FINE" / "src")
    return import_module(module)


def deim(repositories: Path, module: str = "engine.data") -> ModuleType:
    """Import a module of DEIM, without its models."""
    _replace("calflops", calculate_flops=None)
    _package("engine", repositories / "DEIM" / "engine")
    import_module("engine.misc")  # it and `engine.data` import each other: only this order works
    return import_module(module)


def _import(folder: Path, module: str) -> ModuleType:
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: clone the repository there, or name another folder by --repositories")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return import_module(module)


def _package(name: str, folder: Path) -> None:
    """Make a package importable without running its `__init__`, which imports the models."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: clone the repository there, or name another folder by --repositories")
    if name not in sys.modules:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]


def _replace(name: str, **members: object) -> None:
    """Put a module with these members where an unused one would be imported."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules.setdefault(name, module)
