"""An engine that sleeps instead of decoding."""

from __future__ import annotations

from typing import Any, ClassVar

from fastload.engines.native import NativeEngine


class SleepingEngine(NativeEngine):
    """The native engine with its queue and threads, whose work on an image is `microseconds` of sleep.

    To Python that is a machine with a core for every thread.
    """

    microseconds: ClassVar[int] = 2000

    def __init__(self, *settings: Any, **further: Any) -> None:
        super().__init__(*settings, **further, emulated_microseconds=self.microseconds)


# By the name that FastLoader is to know it by: ENGINES.update(SLEEPING)
SLEEPING = {"sleeping": (__name__, "SleepingEngine")}
