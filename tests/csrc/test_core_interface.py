"""What the core shows to Python: its stub tells all of it, and tests have a part of their own."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import BuiltinFunctionType, ModuleType

from fastload import _core

ROOT = Path(__file__).parents[2]


def public_names(module: ModuleType) -> set[str]:
    return {name for name in vars(module) if not name.startswith("_")}


def stubbed_names(body: list[ast.stmt]) -> set[str]:
    definitions = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {node.name for node in definitions}


def test_the_stub_names_what_there_is() -> None:
    """`_core.pyi` has every function and class of the core and of `_core.testing`, and no others."""
    stub = ast.parse((ROOT / "fastload/_core.pyi").read_text()).body
    (testing,) = (node for node in stub if isinstance(node, ast.ClassDef) and node.name == "testing")
    assert stubbed_names(stub) == public_names(_core)
    assert stubbed_names(testing.body) == public_names(_core.testing)


def test_what_the_library_never_calls_is_for_testing() -> None:
    """Every function outside `_core.testing` is called by fastload or detector, and none within it."""
    sources = [path.read_text() for folder in ("fastload", "detector") for path in (ROOT / folder).rglob("*.py")]
    called = set(re.findall(r"\b_core(?:\.| import )(\w+)", "\n".join(sources)))
    functions = {name for name, value in vars(_core).items() if isinstance(value, BuiltinFunctionType)}
    assert functions - called == set()
    assert "testing" not in called
