"""Command lines derived from dataclasses, and errors reported in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from rich.console import Console
from rich.markup import escape

from detector.config import PRESETS, Config
from detector.errors import ConfigError, DetectorError
from fastload import FastloadError

try:
    import tyro
    from tyro.conf import HelptextFromCommentsOff, Positional, arg
except ImportError as error:
    raise ConfigError("The detector's command line needs packages: pip install 'fastload-vision[detector]'") from error

__all__ = ["Positional", "arg", "parse", "parse_config", "tell_errors"]
T = TypeVar("T")


@dataclass(frozen=True)
class _ConfigOptions(Config):
    """Train and evaluate a detector. The run folder receives checkpoints, metrics and plots."""

    data: Annotated[Path | None, Positional, arg(metavar="FOLDER")] = None
    """COCO folder: annotations/instances_*.json and the images. Default: a sample dataset, generated on first use."""


def parse(kind: type[T], arguments: Sequence[str] | None = None, default: T | None = None) -> T:
    """Parse a command line into `kind`, a dataclass; options that are not given are as in `default`."""
    if default is None:
        return tyro.cli(kind, args=arguments, config=(HelptextFromCommentsOff,))
    return tyro.cli(kind, args=arguments, default=default, config=(HelptextFromCommentsOff,))


def parse_config(arguments: Sequence[str] | None = None) -> Config:
    """Parse a command line into a configuration: the values of a preset, changed by the other options."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(PRESETS), default="fcos_tiny")
    preset = PRESETS[first.parse_known_args(arguments)[0].preset]
    return Config(**vars(parse(_ConfigOptions, arguments, _ConfigOptions(**vars(preset)))))


def tell_errors(work: Callable[[], object]) -> None:
    """Run a command. DetectorError, FastloadError and OSError are printed without a traceback; the exit status is 1."""
    try:
        work()
    except (DetectorError, FastloadError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)
