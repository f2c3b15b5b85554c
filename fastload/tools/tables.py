"""The console of the commands, and its tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastload.tools.text import escaped

console = Console()


def print_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table with text in the first column and numbers in the others. An empty `header` is not shown.

    Control characters are escaped.
    """
    console.print(Text(escaped(title), style="bold"), soft_wrap=True)
    table = Table(*header, show_header=any(header))
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))  # as Text, so that brackets are not parsed as markup
    console.print(table)


def human_bytes(number: float) -> str:
    """Format a number of bytes with three digits and a suitable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"
