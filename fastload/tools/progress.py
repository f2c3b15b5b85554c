"""Progress reports on stderr: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from fastload.cache.progress import OnProgress

LINE_SECONDS = 5.0  # between lines without a terminal


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_format_rate(speed) if speed else "", style="cyan")


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


@contextmanager
def show_progress(what: str, unit: str = "images") -> Iterator[OnProgress]:
    """Show the progress of a long operation on stderr: a bar on a terminal, else a line every five seconds.

        with show_progress("Building") as report:
            build_cache(source, "train.lmdb", progress=report)

    Args:
        what: a short description of the operation.
        unit: the name of the items that are counted.

    Yields:
        A function to call with (items done, items in total). If the first call has items done already, they do not
        count for the speed.
    """
    console = Console(stderr=True)
    yield from _bar(what, console) if console.is_terminal else _lines(what, unit, console)


def _bar(what: str, console: Console) -> Iterator[OnProgress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def report(done: int, total: int) -> None:
            if not progress.task_ids:
                progress.add_task(what, total=total, completed=done)
            progress.update(progress.task_ids[0], completed=done, total=total)

        yield report


def _lines(what: str, unit: str, console: Console) -> Iterator[OnProgress]:
    start = last = time.monotonic()
    first: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal first, last
        first = done if first is None else first
        now = time.monotonic()
        if now - last < LINE_SECONDS and done < total:
            return
        last = now
        rate = (done - first) / max(now - start, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        console.print(
            f"{what}: {done} of {total} {unit}, {_format_rate(rate)}{left}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    yield report
