"""Measures fastload on a GPU: transfers, engines, waiting in training, evaluation on three streams.

    python benchmarks/gpu.py coco/ --json gpu.json       # without a folder: the sample set

Without a CUDA GPU, the parts that run on a CPU are measured there, and the output says that no GPU was measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import nn
from train_step import make_batch, our_step, settings, stock_step, take_turns

from detector.cli import tell_errors
from detector.config import Config
from detector.data import Split, evaluation_loader, open_split, training_loader
from detector.infer.evaluation import settings_of
from detector.infer.stream import PredictStream, compiled, finish
from detector.model.detector import Decode, Detector
from detector.model.grid import region_of
from detector.preprocess import Preprocess
from detector.runtime import DTYPES, autocast, pick_device, pick_dtype
from detector.train.trainer import Trainer
from fastload import Cache, FastLoader, FastloadError, ShortestEdge
from fastload.cache.format.layout import Encoding
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.device import Feed
from fastload.loader.fast_loader import ENGINES
from fastload.pixel_format import IMAGENET_MEAN, IMAGENET_STD, PixelFormat

console = Console()
Figures = dict[str, Any]


def main() -> None:
    options = _arguments()
    device = pick_device(options.device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{machine()['processor']}; no GPU was measured"
    console.print(f"[bold]{name}[/], PyTorch {torch.__version__}", highlight=False)
    split = open_split(options.data, options.split, "train")
    config = _config(options)
    figures: Figures = {"device": name}
    figures["transfers"] = transfers(options, device)
    figures["engines"] = engines(split, options, device)
    figures["training"] = training(split, config, options.steps, device)
    figures["evaluation"] = evaluation(split, config, options.images, device)
    figures["training step"] = step_against_stock(options, device)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="a COCO folder; without one, the sample set")
    parser.add_argument("--split", default="", help='which annotations; empty: the one that begins with "train"')
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=16, help="of training")
    parser.add_argument("--size", type=int, default=512, help="short edge, a multiple of 32")
    parser.add_argument("--threads", type=int, default=8, help="that decode")
    parser.add_argument("--steps", type=int, default=100, help="of training; transfers of a batch")
    parser.add_argument("--images", type=int, default=1000, help="to decode and to evaluate on")
    parser.add_argument("--rounds", type=int, default=5, help="of the training step against stock")
    return parser.parse_args()


def _config(options: argparse.Namespace) -> Config:
    """FCOS on a ResNet-18, at one size."""
    longest = options.size * 23 // 16
    return replace(
        settings("auto"),
        sizes=(options.size,),
        max_size=longest,
        test_size=options.size,
        test_max_size=longest,
        batch_size=options.batch_size,
        workers=options.threads,
    )


class Clock:
    """Measures time on the device, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        return torch.cuda.current_stream(self.device).record_event(torch.cuda.Event(enable_timing=True))

    def seconds(self, start: Any, end: Any) -> float:
        if self.device.type != "cuda":
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def transfers(options: argparse.Namespace, device: torch.device) -> Figures:
    """Copying batches to the device and computing on them, sequentially and overlapped."""
    images, _ = make_batch(options.batch_size, options.size)
    images = images.pin_memory() if device.type == "cuda" else images
    matrix = torch.randn(2048, 2048, device=device, dtype=pick_dtype(settings("auto"), device))
    feed, clock = Feed(device, PixelFormat(matrix.dtype, IMAGENET_MEAN, IMAGENET_STD)), Clock(device)

    def compute() -> None:
        for _ in range(50 if device.type == "cuda" else 1):
            matrix @ matrix

    def sent() -> Iterator[Any]:
        for _ in range(options.steps):
            yield feed.receive(feed.send((images,)))

    def timed(batches: Iterable[Any], work: Callable[[], None]) -> float:
        start = clock.mark()
        for _ in batches:
            work()
        return 1000 * clock.seconds(start, clock.mark()) / options.steps

    list(islice(sent(), 3)), compute()  # warm
    found = {
        "transfer and normalise": timed(sent(), lambda: None),
        "work": timed(range(options.steps), compute),
        "one after the other": timed(_alone(sent(), device), compute),
        "side by side": timed(feed.over(repeat((images,), options.steps)), compute),
    }
    _print("milliseconds a batch", found)
    return found


def _alone(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """The batches, each after the device has finished all earlier work, and copied completely."""
    for batch in batches:
        _finish(device)
        yield batch
        _finish(device)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def engines(split: Split, options: argparse.Namespace, device: torch.device) -> Figures:
    """Images/s that each engine delivers to the device from JPEGs, and the native one from the split's own cache."""
    found: Figures = {}
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        path = Path(scratch) / "original.lmdb"
        transcode_cache(split.cache.path, path, ReencodeOptions(Encoding.ORIGINAL))
        original = Cache(path)
        for name in ENGINES:
            try:
                found[name] = decode_rate(original, name, options, device)
            except (FastloadError, ImportError) as error:
                console.print(f"engine {name} is skipped: {error}", highlight=False)
        own = Encoding(int(split.cache.encodings[0])).label
        found[f"native, {own}"] = decode_rate(split.cache, "native", options, device)
    _print("images a second, by engine", found)
    return found


def decode_rate(cache: Cache, engine: str, options: argparse.Namespace, device: torch.device) -> float:
    """Images/s over `options.images` images, or over two batches where that would take minutes."""
    loader = FastLoader(
        cache.subset(list(islice(cycle(range(len(cache))), options.images))),
        options.batch_size,
        num_workers=options.threads,
        engine=engine,
        device=device,
        transforms=[ShortestEdge(options.size)],
    )
    next(iter(loader))
    batches = islice(loader, 2) if engine == "reference" else iter(loader)
    clock, images = Clock(device), 0
    start = clock.mark()
    for batch, _ in batches:
        images += len(batch)
    return images / clock.seconds(start, clock.mark())


def training(split: Split, config: Config, steps: int, device: torch.device) -> Figures:
    """How long the training stream is idle between two steps."""
    trainer = Trainer(config, len(split.categories), 10 * steps, device)
    batches = chain.from_iterable(repeat(training_loader(split, config, device)))
    clock, waits, spans = Clock(device), [], []
    for _ in range(2):
        trainer.update([next(batches)])  # warm
    end = clock.mark()
    for _ in range(steps):
        batch = next(batches)
        begin = clock.mark()
        trainer.update([batch])
        last, end = end, clock.mark()
        waits.append((last, begin))
        spans.append((last, end))
    idle, total = (sum(clock.seconds(*pair) for pair in pairs) for pairs in (waits, spans))
    found = {"step_ms": 1000 * total / steps, "idle_percent": 100 * idle / total}
    _print(f"FCOS-R18, batch {config.batch_size}: idle between steps (goal: under 2 %)", found)
    return found


def evaluation(split: Split, config: Config, images: int, device: torch.device) -> Figures:
    """Images/s of evaluation: sequential, on three streams, and compiled on three streams."""
    model = Detector.from_config(config, len(split.categories)).to(device, memory_format=torch.channels_last).eval()
    decode = model.decoder(settings_of(config))
    preprocess, dtype, found = Preprocess.of(config), pick_dtype(config, device), {}
    for batch_size in (1, 8):
        count = -(-images // batch_size)
        loader = partial(evaluation_loader, split, preprocess, batch_size, config.workers, device, dtype)
        plain, few_shapes = _First(loader(), count), _First(loader(few_shapes=True), count)
        ways = {
            "one stage after the other": partial(one_after_the_other, model, plain, decode, device, dtype),
            "three streams": partial(streamed, model, plain, decode, device, dtype),
        }
        if device.type == "cuda":
            ways["three streams, CUDA graphs"] = partial(
                streamed, compiled(model, device), few_shapes, decode, device, dtype
            )
        speeds = [{name: way() for name, way in ways.items()} for _ in range(4)][1:]  # the first warms up
        found[f"batch {batch_size}"] = {name: median(round_[name] for round_ in speeds) for name in ways}
        _print(f"images a second, batch {batch_size}", found[f"batch {batch_size}"])
    return found


@dataclass
class _First:
    """The first `count` batches of a loader."""

    loader: FastLoader
    count: int

    def __iter__(self) -> Iterator[Any]:
        return islice(self.loader, self.count)


def streamed(network: Any, loader: Iterable[Any], decode: Decode, device: torch.device, dtype: torch.dtype) -> float:
    """Images/s of `PredictStream`."""
    stream = PredictStream(network, loader, decode, device, dtype)
    for _ in stream:
        pass
    console.print(f"[dim]{stream.timing}[/]", highlight=False)
    return stream.timing.images / stream.timing.elapsed


@torch.no_grad()
def one_after_the_other(
    model: nn.Module, loader: Iterable[Any], decode: Decode, device: torch.device, dtype: torch.dtype
) -> float:
    """Images/s of a sequential loop."""
    images, start = 0, time.perf_counter()
    for batch, targets in loader:
        with autocast(device, dtype):
            predictions = model(batch, region_of(targets))
        finish(predictions, targets, decode)
        images += len(batch)
    return images / (time.perf_counter() - start)


def step_against_stock(options: argparse.Namespace, device: torch.device) -> Figures:
    """A training step on one batch in the device's memory; train_step.py compares more."""
    images, targets = make_batch(options.batch_size, options.size)
    precision = next(name for name, dtype in DTYPES.items() if dtype == pick_dtype(settings("auto"), device))
    contenders = {
        "stock, fp32, contiguous": stock_step(images, targets, device, settings("fp32")),
        f"ours, {precision}, channels_last": our_step(
            images, targets, device, settings(precision), torch.channels_last
        ),
    }
    found = take_turns(contenders, options.rounds, device)
    _print("milliseconds a training step", found)
    return found


def _print(title: str, found: Figures) -> None:
    table = Table("", "", title=title, show_header=False, title_justify="left")
    for name, value in found.items():
        table.add_row(name, f"{value:.2f}")
    console.print(table)


if __name__ == "__main__":
    tell_errors(main)
