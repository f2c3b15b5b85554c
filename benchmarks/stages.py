"""Where an image's time goes: JPEG and packed encodings to planes, per stage and SIMD level, checksums; on one thread.

    python benchmarks/stages.py FOLDER [--images 100] [--rounds 9]

Rounds are interleaved, so that a busy machine slows every contender alike; the ratio to libjpeg-turbo in the same
round is the figure to trust.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fastload import _core

Stage = Callable[[], float]  # runs over all images, returns seconds


def load(folder: Path, images: int) -> list[bytes]:
    """`images` JPEGs spread over those below `folder` that can be packed."""
    paths = sorted(folder.rglob("*.jpg"))
    if not paths:
        raise typer.BadParameter(f"no .jpg files below {folder}")
    chosen = (path.read_bytes() for path in paths[:: max(1, len(paths) // images)])
    return list(itertools.islice(filter(packable, chosen), images))


def packable(jpeg: bytes) -> bool:
    """Whether the packed encodings can hold it."""
    try:
        return bool(_core.dct_encode(jpeg))
    except _core.JpegError:
        return False


def stages(jpegs: list[bytes], dct: list[bytes], fast: list[bytes]) -> Iterator[tuple[str, Stage]]:
    """What is timed, by name; the first is the reference."""
    yield "JPEG, libjpeg-turbo", lambda: _core.planes_loop(jpegs)
    for level in _core.simd_levels():
        yield f"dct, {level}", lambda level=level: _core.dct_loop(dct, level)  # type: ignore[misc]
        yield f"  its entropy coding, {level}", lambda level=level: _core.dct_loop(dct, level, True)  # type: ignore[misc]
        yield f"dct-fast, {level}", lambda level=level: _core.dct_loop(fast, level)  # type: ignore[misc]
    yield "checksum of dct", lambda: checksum_loop(dct)
    yield "checksum of dct-fast", lambda: checksum_loop(fast)


def checksum_loop(records: list[bytes]) -> float:
    """What FastLoader's `verify_checksums` adds to reading each of `records`; seconds in all."""
    start = perf_counter()
    for record in records:
        _core.xxh64(record)
    return perf_counter() - start


def timed_encode(jpegs: list[bytes], entropy: bool) -> tuple[list[bytes], float]:
    """The packed records and seconds an image."""
    start = perf_counter()
    records = [_core.dct_encode(jpeg, entropy) for jpeg in jpegs]
    return records, (perf_counter() - start) / len(jpegs)


def main(
    folder: Path,
    images: Annotated[int, typer.Option(help="images to decode in a round")] = 100,
    rounds: Annotated[int, typer.Option(help="rounds to take the median of")] = 9,
) -> None:
    """Print milliseconds an image and the ratio to libjpeg-turbo for every stage."""
    jpegs = load(folder, images)
    dct, encoding_time = timed_encode(jpegs, True)
    fast, _ = timed_encode(jpegs, False)
    timers = dict(stages(jpegs, dct, fast))
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in track(range(rounds), "Decoding", transient=True):
        for name, run in timers.items():
            times[name].append(run() / len(jpegs))

    reference, *_ = times.values()
    table = Table("to planes", "ms an image", "times faster", title=f"{len(jpegs)} images, one thread")
    for name, seconds in times.items():
        ratio = median(r / s for r, s in zip(reference, seconds, strict=True))
        table.add_row(name, f"{1000 * median(seconds):.3f}", f"{ratio:.2f}")
    console = Console()
    console.print(table)
    total = sum(map(len, jpegs))
    console.print(f"Bytes an image: JPEG {total / len(jpegs):,.0f}", end="")
    for label, records in (("dct", dct), ("dct-fast", fast)):
        console.print(f"; {label} {sum(map(len, records)) / total:.3f} of that", end="")
    console.print(f". Packing takes {1000 * encoding_time:.1f} ms an image.")


if __name__ == "__main__":
    typer.run(main)
