"""Measures the memory of a process over epochs, without page cache and mapped files."""

from __future__ import annotations

from pathlib import Path

import psutil
from contenders import Contender
from rich.console import Console
from rich.progress import track
from rich.table import Table

EPOCHS = 20


def anonymous_bytes() -> int:
    """Resident memory without mapped files, which are page cache that the system can take back at any time."""
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return sum(int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):
        return int(psutil.Process().memory_full_info().uss)


def print_memory(contender: Contender, console: Console) -> None:
    """Run 20 epochs, and print the memory held after each."""
    before = anonymous_bytes()
    after = []
    for _ in track(range(EPOCHS), "Epochs", console=console, transient=True):
        for _batch in contender.batches():
            pass
        after.append(anonymous_bytes())
    table = Table(title=f"{contender.name}: memory without page cache")
    table.add_column("")
    table.add_column("MB", justify="right")
    table.add_row("before", f"{before / 2**20:.1f}")
    for number in (1, 2, 5, 10, EPOCHS):
        table.add_row(f"after epoch {number}", f"{after[number - 1] / 2**20:.1f}")
    table.add_row(f"growth, epoch 2 to {EPOCHS}", f"[bold]{(after[-1] - after[1]) / 2**20:.1f}[/]")
    console.print(table)
