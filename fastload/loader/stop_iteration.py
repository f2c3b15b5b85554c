"""Protects the loop over batches from a StopIteration raised in the user's code, which would end it silently."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def refuse_stop_iteration(raiser: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that calls the user's code, named `raiser`: its StopIteration becomes a RuntimeError."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **named: P.kwargs) -> R:
            try:
                return function(*args, **named)
            except StopIteration as error:
                raise RuntimeError(f"{raiser} raised StopIteration") from error

        return call

    return decorate
