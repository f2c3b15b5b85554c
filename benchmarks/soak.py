"""Emulates a long run: makes, misuses and drops loaders, and watches memory, files and threads.

    python benchmarks/soak.py                          # two minutes
    python benchmarks/soak.py --minutes 600 --seed 3 coco/fastload/train2017.lmdb

Each life of a loader is drawn at random: its threads, depth, order and collation, and how it is used: read to the end,
left early, with an exception in a transform, interrupted and resumed, in a reference cycle, pickled, with a slow
consumer, on a slow disk, on busy cores. Its batches must equal those of an undisturbed loader. A life of more than two
minutes is a deadlock: the stacks of all threads are printed. Exits with 1 if anything grew or went wrong.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import pickle
import random
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import torch
import typer
from memory import anonymous_bytes
from rich.console import Console
from rich.table import Table
from slow_disk import SlowCache

from fastload import Cache, CenterAlign, FastLoader, RandomAlign, RandomFlip, ShortestEdge, TopLeftAlign
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from fastload.tools.sample import make_sample

STUCK = 120  # seconds after which a life is a deadlock
GROWTH = 16 << 20  # bytes that memory may vary between the second quarter and the last
SPIN = f"import time\nend = time.time() + {STUCK}\nwhile time.time() < end: pass"


M_ARENA_MAX = -8  # of mallopt


class Mishap(Exception):
    """Raised by a user's transform."""


@dataclass(frozen=True)
class Sample:
    """The resources that the process holds while no loader lives."""

    memory: int  # anonymous bytes
    files: int
    threads: int


def one_arena() -> None:
    """Make glibc use one heap for all threads: it keeps the heaps of ended threads, which looks like a leak."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def sample() -> Sample:
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("fastload-function"):  # ends after delivering a batch that nobody waits for
            thread.join(10)
    gc.collect()
    process = psutil.Process()
    return Sample(anonymous_bytes(), process.num_fds(), process.num_threads())


def complaints(samples: list[Sample]) -> list[str]:
    """Describe what grew between the second quarter of a run and its last."""
    quarter = max(len(samples) // 4, 1)
    early, late = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]

    def grown(name: str) -> float:
        return median(getattr(s, name) for s in late) - median(getattr(s, name) for s in early)

    found = [f"{name} grew by {grown(name):.0f}" for name in ("files", "threads") if grown(name) > 0]
    if grown("memory") > GROWTH:
        found.append(f"memory grew by {grown('memory') / 2**20:.1f} MB")
    return found


class Soak:
    """Draws lives from `seed` over the cache at `path`."""

    def __init__(self, path: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.path, self.cache = path, Cache(path)
        self.slow = self._slow_cache()
        self.lives, self.batches = Counter[str](), 0
        self.endings: dict[str, Callable[[], None]] = {
            name.removeprefix("end_"): getattr(self, name) for name in dir(self) if name.startswith("end_")
        }
        if self.slow is None:
            del self.endings["on_a_slow_disk"]

    def live(self) -> None:
        """Make, use and drop one loader."""
        name = self.random.choice(list(self.endings))
        self.endings[name]()
        self.lives[name] += 1

    def end_exhausted(self) -> None:
        data = self._loader()
        self._same(list(self._sums(data)), list(self._sums(self._again(data))))

    def end_left_early(self) -> None:
        data = self._loader()
        for _ in range(self.random.randrange(3)):
            self._take(data, self.random.randrange(len(data) + 1))

    def end_never_begun(self) -> None:
        iter(self._loader())

    def end_exception_in_a_transform(self) -> None:
        fatal = self.random.randrange(20)

        def fail(image: torch.Tensor, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
            nonlocal fatal
            fatal -= 1
            if fatal < 0:
                raise Mishap
            return image, target

        with suppress(Mishap):
            self._take(self._loader(transforms=[ShortestEdge(160, 240), fail]), 1000)

    def end_interrupted_and_resumed(self) -> None:
        data = self._loader()
        expected = list(self._sums(data))
        data = self._again(data)
        seen = list(islice(self._sums(data), self.random.randrange(len(data) + 1)))
        state = data.state_dict()
        if state["epoch"] == 0:
            data = self._again(data, num_workers=self.random.randrange(4))
            data.load_state_dict(state)
            seen += self._sums(data)
        self._same(seen, expected)

    def end_in_a_cycle(self) -> None:
        data = self._loader()
        batches = iter(data)
        next(batches, None)
        data.me, data.batches = data, batches  # type: ignore[attr-defined]

    def end_pickled(self) -> None:
        data = self._loader()
        self._take(data, 2)
        data.set_epoch(0)
        self._same(list(self._sums(pickle.loads(pickle.dumps(data)))), list(self._sums(data)))

    def end_with_batches_kept(self) -> None:
        kept = list(islice(self._loader(), self.random.randrange(6)))
        self.batches += len(kept)

    def end_with_a_slow_consumer(self) -> None:
        for _ in islice(self._loader(), 10):
            self.batches += 1
            time.sleep(0.02)

    def end_on_a_slow_disk(self) -> None:
        assert self.slow is not None
        self.slow.evict()
        self._take(self._loader(cache=self.slow, num_workers=self.random.randrange(1, 4)), self.random.randrange(6))

    def end_on_starved_cores(self) -> None:
        spinners = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(4)]
        try:
            self._take(self._loader(), 10)
        finally:
            for spinner in spinners:
                spinner.kill()
                spinner.wait()

    def _slow_cache(self) -> SlowCache | None:
        try:
            return SlowCache(self.path, bytes_per_second=8e6)
        except OSError:
            return None

    def _loader(self, **given: Any) -> FastLoader:
        draw = self.random
        workers = given.get("num_workers", draw.randrange(4))
        arguments = {
            "batch_size": draw.choice([1, 3, 8]),
            "shuffle": draw.random() < 0.7,
            "num_workers": workers,
            "prefetch_factor": draw.choice([None, 1, 6]) if workers else None,
            "drop_last": draw.random() < 0.5,
            "collate_fn": draw.choice([TopLeftAlign(), CenterAlign(16), RandomAlign(grid=8)]),
            "transforms": [ShortestEdge([160, 200], 280), RandomFlip()],
            "dtype": draw.choice([torch.uint8, torch.float32]),
            "memory_format": draw.choice([torch.channels_last, torch.contiguous_format]),
            "function_workers": draw.choice([0, 2]),
            "generator": torch.Generator().manual_seed(draw.randrange(1000)),
        }
        self._arguments = {**arguments, **given}
        return FastLoader(self._arguments.pop("cache", self.cache), **self._arguments)

    def _again(self, data: FastLoader, **changes: Any) -> FastLoader:
        """A new loader with the settings of the last one."""
        generator = self._arguments["generator"].manual_seed(self._arguments["generator"].initial_seed())
        if "num_workers" in changes:
            changes["prefetch_factor"] = None
        return FastLoader(data.dataset, **{**self._arguments, "generator": generator, **changes})

    def _take(self, data: FastLoader, count: int) -> None:
        for _ in islice(data, count):
            self.batches += 1

    def _sums(self, data: FastLoader) -> Iterator[float]:
        for images, targets in data:
            self.batches += 1
            yield float(images.numpy().sum()) + int(targets.image_id.sum())

    def _same(self, found: list[float], expected: list[float]) -> None:
        if found != expected:
            raise RuntimeError(f"batches are not what they should be, with {self._arguments}")


def run(soak: Soak, seconds: float, console: Console) -> list[Sample]:
    """Run lives for `seconds`; returns about a hundred samples taken between them."""
    samples, end = [], time.monotonic() + seconds
    due = 0.0
    with console.status("Soaking") as status, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while (now := time.monotonic()) < end:
            faulthandler.dump_traceback_later(STUCK, exit=True)
            soak.live()
            if now >= due:
                samples.append(sample())
                due = now + seconds / 100
                status.update(f"Soaking: {soak.lives.total()} lives, {samples[-1].memory / 2**20:.0f} MB")
    faulthandler.cancel_dump_traceback_later()
    return samples


def report(soak: Soak, samples: list[Sample], console: Console) -> bool:
    """Print the lives and what they left behind. Returns whether nothing grew or went wrong."""
    table = Table(title=f"{soak.lives.total()} lives of loaders, {soak.batches} batches")
    for name in ("held between lives", "at the quarter", "at the end", "most"):
        table.add_column(name, justify="left" if table.columns == [] else "right")
    quarter, last = samples[len(samples) // 4], samples[-1]
    for name in ("memory", "files", "threads"):
        values = [getattr(s, name) for s in (quarter, last, max(samples, key=lambda s: getattr(s, name)))]
        table.add_row(name, *(f"{value / 2**20:.1f} MB" if name == "memory" else str(value) for value in values))
    console.print(table)
    console.print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in soak.lives.most_common()))
    found = complaints(samples)
    console.print(f"[bold red]Not flat[/]: {'; '.join(found)}" if found else "[bold green]Flat[/]: nothing grew")
    return not found


def main(
    cache: Annotated[Path | None, typer.Argument(help="A cache; default: of a sample set made for the purpose")] = None,
    minutes: Annotated[float, typer.Option(min=0.01)] = 2,
    seed: int = 0,
) -> None:
    """Watch memory, files and threads while loaders are made, misused and dropped."""
    one_arena()
    torch.set_num_threads(1)  # torch's threads are made on first use and stay
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        if cache is None:
            dataset = find_datasets(make_sample(Path(folder) / "sample", images=60))[0]
            build_cache(dataset.load(), cache := dataset.cache, BuildOptions())
        soak = Soak(cache, seed)
        samples = run(soak, 60 * minutes, console)
        raise typer.Exit(0 if report(soak, samples, console) else 1)


if __name__ == "__main__":
    typer.run(main)
