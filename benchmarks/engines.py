"""An engine that sleeps instead of decoding."""

from __future__ import annotations

from typing import Any, ClassVar

from fastload.engines.native import NativeEngine


class SleepingEngine(NativeEngine):
    """The native engine with its queue and threads, which sleeps `microseconds` per image instead of decoding.

    To Python this looks like a machine with a core for every thread.
    """

    microseconds: ClassVar[int] = 2000

    def __init__(self, *settings: Any, **further: Any) -> None:
        super().__init__(*settings, **further, emulated_microseconds=self.microseconds)


# ENGINES.update(SLEEPING) makes the engine available to FastLoader by name.
SLEEPING = {"sleeping": (__name__, "SleepingEngine")}
