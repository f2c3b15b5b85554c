"""How fastload is built: packages import one another in one direction."""

from __future__ import annotations

import ast
from pathlib import Path

import fastload

ROOT = Path(fastload.__file__).parent
LAYERS = (  # a module imports only from its own and from lower layers
    ("errors", "_core"),
    ("annotations", "ops", "pixel_format"),
    ("sources",),
    ("plan",),
    ("masks",),
    ("cache",),
    ("batch", "class_batch", "recipes"),
    ("engines", "device"),
    ("loader",),
    ("tools",),
    ("cli",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def imports_of(path: Path) -> set[str]:
    """The packages and modules of fastload that a file imports, at any place in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fastload":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastload."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fastload.")}
    return found - {"__version__"}


def test_packages_depend_on_lower_ones_only():
    """From annotations and sources up to the command line, and every module has a layer."""
    upward = []
    for path in sorted(ROOT.rglob("*.py")):
        home = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if home not in ("__init__", "__main__"):
            upward += [f"{path}: {name}" for name in imports_of(path) if LAYER[name] > LAYER[home]]
    assert not upward


def test_a_plan_needs_no_engine_and_no_cache():
    """Planning is arrays of numbers: its modules import neither caches nor decoders."""
    for path in (ROOT / "plan").rglob("*.py"):
        assert imports_of(path) <= {"errors", "plan", "pixel_format"}, path
