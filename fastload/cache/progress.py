"""The type of the functions that long operations report their progress to."""

from collections.abc import Callable
from typing import TypeAlias

OnProgress: TypeAlias = Callable[[int, int], None]  # called with (items done, items in total)


def no_progress(done: int, total: int) -> None:
    """Ignore a progress report."""
