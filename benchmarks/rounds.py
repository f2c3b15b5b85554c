"""What a loader does in the rounds of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastload.loader.stats import Stats


@dataclass
class Rounds:
    """The measurements of a loader, one number per round."""

    images_per_second: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # processor time of all threads and processes, per image
    gil_us: list[float] = field(default_factory=list)  # FastLoader: time for which Python holds the GIL, per image
    stats: Stats | None = None  # FastLoader: of the last round


def ratios(ours: Rounds, other: Rounds) -> list[float]:
    """The speed relative to that of another loader in the same round."""
    pairs = zip(ours.images_per_second, other.images_per_second, strict=True)
    return [one / two for one, two in pairs]
