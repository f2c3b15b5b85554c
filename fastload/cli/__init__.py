"""The `fastload` command: one module for each group of commands, without logic of its own."""

from fastload.cli.app import main

__all__ = ["main"]
