"""Command lines derived from dataclasses, and errors told in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from detector.errors import ConfigError, DetectorError
from fastload import FastloadError

try:
    import tyro
    from tyro.conf import HelptextFromCommentsOff, Positional, arg
except ImportError as error:
    raise ConfigError("The detector's command line needs packages: pip install 'fastload-vision[detector]'") from error

__all__ = ["Positional", "arg", "parse", "tell_errors"]
T = TypeVar("T")


def parse(kind: type[T], arguments: Sequence[str] | None = None, default: T | None = None) -> T:
    """A `kind`, a dataclass, from a command line; what is not given is as in `default`."""
    if default is None:
        return tyro.cli(kind, args=arguments, config=(HelptextFromCommentsOff,))
    return tyro.cli(kind, args=arguments, default=default, config=(HelptextFromCommentsOff,))


def tell_errors(work: Callable[[], object]) -> None:
    """Run a command. Errors that it raises on purpose, and the system's about files, are printed without a traceback
    and exit with status 1."""
    try:
        work()
    except (DetectorError, FastloadError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)
