"""Measures FastLoader with the recipes of published detectors, compared with the loaders of their own repositories.

    python benchmarks/recipes.py coco/ --json r.json                     # FastLoader alone
    python benchmarks/recipes.py coco/ --json r.json --published-python venv/bin/python --repositories repositories/

The dataset has COCO's layout, with `train2017/`. FastLoader reads it from two caches, `dct` and `original`. The
published loaders run in the other environment, by peers_recipes.py, with as many worker processes as FastLoader has
threads. Loaders take turns in rounds; speeds are medians over the rounds, and ratios are of two speeds of one round.

Batches of a recipe are of the same kind: uint8 where only a last conversion to float32 has to be removed from the
published preset, which makes it faster. D-FINE's and YOLOX's loaders make float32, so FastLoader is measured with both.
torchvision's script has three versions of its transforms: FastLoader is compared with the default and the fastest one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gil import gil_seconds
from machine import machine
from pictures import open_pictures
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rounds import Rounds, ratios

from fastload import Cache, FastLoader, recipes
from fastload.cache.format.layout import Encoding
from fastload.engines.auto import ENGINES
from fastload.plan.transforms import RandomResize, Resize, Transform
from fastload.recipes import Recipe

Arguments = dict[str, Any]  # of FastLoader
ENCODINGS = (Encoding.DCT, Encoding.ORIGINAL)
PEERS = Path(__file__).with_name("peers_recipes.py")
console = Console()


@dataclass(frozen=True)
class Comparison:
    """A recipe, and the published loaders that it is compared with.

    Args:
        published: the names of the loaders in peers_recipes.py, first the repository's default.
        variants: the arguments of FastLoader by the name of the variant, first the one with uint8 batches.
        note: how the work of the loaders differs.
    """

    published: Sequence[str]
    variants: dict[str, Arguments]
    note: str = ""


def uint8(recipe: Recipe, skipped: type[Transform] | None = None) -> Arguments:
    """The arguments of FastLoader for uint8 batches of a recipe, without the transform `skipped`."""
    transforms = [each for each in recipe.transforms if skipped is None or not isinstance(each, skipped)]
    return {**recipe.train, "transforms": transforms, "dtype": torch.uint8}


def comparisons() -> dict[str, Comparison]:
    """What is compared, by the recipe's name in peers_recipes.py."""
    versions = [f"torchvision-{version}-uint8" for version in ("v1", "v2", "v2_tensor")]
    masks = "torchvision's v1, its default, also draws and transforms masks"
    dfine, yolox = uint8(recipes.dfine()), uint8(recipes.yolox(), skipped=RandomResize)
    return {
        "multiscale": Comparison(
            versions,
            {"": uint8(recipes.multiscale())},
            f"{masks}; its images are not padded to batches yet, FastLoader's are",
        ),
        "lsj": Comparison(versions[:1], {"": uint8(recipes.lsj())}, f"{masks}; its v2 cannot run `lsj`"),
        "ssd": Comparison(
            versions,
            {"": uint8(recipes.ssd()), "no Resize": uint8(recipes.ssd(), skipped=Resize)},
            f"{masks}; its model resizes to 300 x 300 later, FastLoader's recipe does it in the loader, and without "
            "Resize pads to the largest image of the batch, after zooming out",
        ),
        "dfine": Comparison(
            ["d-fine"], {"": dfine, "float32": {**dfine, "dtype": torch.float32}}, "the published loader makes float32"
        ),
        "yolox": Comparison(
            ["yolox"],
            {"": yolox, "float32": {**yolox, "dtype": torch.float32, "mean": (0, 0, 0), "std": (1, 1, 1)}},
            "the published loader makes float32; both draw 640 x 640, as YOLOX resizes batches outside its loader",
        ),
    }


Results = dict[str, Rounds]


def main() -> None:
    options = _arguments()
    chosen = {name: each for name, each in comparisons().items() if name in options.recipes}
    here = machine()
    for name, value in here.items():
        console.print(f"[dim]{name}:[/] {value}", highlight=False)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fastload-benchmark-") as scratch:
        pictures = open_pictures(options.data, Path(scratch), console)
        caches = {encoding.label: pictures.cache(encoding) for encoding in ENCODINGS}
        for name, comparison in chosen.items():
            published, ours = measure(name, comparison, caches, options)
            print_results(name, comparison, published, ours)
            found[name] = as_json(published, ours)
    if options.json:
        settings = {key: getattr(options, key) for key in ("threads", "batch_size", "rounds", "engine")}
        options.json.write_text(json.dumps({"machine": here, **settings, "recipes": found}, indent=2) + "\n")


def measure(
    recipe: str, comparison: Comparison, caches: dict[str, Cache], options: argparse.Namespace
) -> tuple[Results, Results]:
    """Run interleaved rounds of a recipe; returns the measurements of the published loaders and of FastLoader."""
    loaders = {
        f"{label}, {variant}" if variant else label: loader_of(cache, arguments, options)
        for variant, arguments in comparison.variants.items()
        for label, cache in caches.items()
    }
    ours: Results = {name: Rounds() for name in loaders}
    published: Results = {name: Rounds() for name in comparison.published} if options.published_python else {}
    with Progress(
        console=console, transient=True, auto_refresh=False
    ) as bars:  # a refresh thread would take the GIL and cache space
        task = bars.add_task(f"{recipe}: warming up", total=options.rounds)
        bars.refresh()
        for loader in loaders.values():
            epoch(loader, Rounds())
        for number in range(1, options.rounds + 1):
            bars.update(task, description=f"{recipe}: round {number} of {options.rounds}", refresh=True)
            if published:
                published_round(recipe, published, options)
            for name, loader in loaders.items():
                epoch(loader, ours[name])
            bars.update(task, advance=1, refresh=True)
    return published, ours


def loader_of(cache: Cache, arguments: Arguments, options: argparse.Namespace) -> FastLoader:
    """A loader of `options.images` images, repeating those of the cache."""
    return FastLoader(
        cache.subset(list(islice(cycle(range(len(cache))), options.images))),
        options.batch_size,
        shuffle=True,
        num_workers=options.threads,
        engine=options.engine,
        **arguments,
    )


def epoch(loader: FastLoader, rounds: Rounds) -> None:
    """Run one epoch, and add its measurements to `rounds`."""
    images, gil, cpu, start = 0, gil_seconds(), time.process_time(), time.perf_counter()
    for batch, targets in loader:
        _ = targets.boxes, targets.labels  # training reads these
        images += len(batch)
    rounds.images_per_second.append(images / (time.perf_counter() - start))
    rounds.cpu_ms.append(1e3 * (time.process_time() - cpu) / images)
    rounds.gil_us.append(1e6 * (gil_seconds() - gil) / images)
    rounds.stats = loader.stats()


def published_round(recipe: str, published: Results, options: argparse.Namespace) -> None:
    """Run the published loaders of a recipe once each, and add their measurements."""
    settings = {
        "--repositories": options.repositories,
        "--data": options.data,
        "--recipe": recipe,
        "--workers": options.threads,
        "--batch-size": options.batch_size,
        "--images": options.published_images,
        "--rounds": 1,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    command = [str(options.published_python), str(PEERS), *words, "--loaders", *published]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the published loader of {recipe} failed ({' '.join(command)}):\n{done.stderr}")
    for name, found in json.loads(done.stdout)["loaders"].items():
        published[name].images_per_second.append(found["images_per_second"])
        published[name].cpu_ms.append(found["cpu_ms"])


def default_of(published: Results) -> Rounds:
    """The version that the repository runs by default."""
    return next(iter(published.values()))


def fastest_of(published: Results) -> Rounds:
    """The version with the most images/s."""
    return max(published.values(), key=lambda rounds: median(rounds.images_per_second))


COMPARED: dict[str, Callable[[Results], Rounds]] = {"default": default_of, "fastest": fastest_of}


def as_json(published: Results, ours: Results) -> dict[str, Any]:
    """The medians of a recipe, the speeds of all rounds, and the ratios to the published loader."""

    def medians(rounds: Rounds) -> dict[str, Any]:
        speeds, cpu = rounds.images_per_second, median(rounds.cpu_ms)
        return {"images_per_second": median(speeds), "rounds": speeds, "cpu_ms": cpu}

    found = {}
    for name, rounds in ours.items():
        found[name] = {**medians(rounds), "gil_us": median(rounds.gil_us)}
        if rounds.stats is not None:
            found[name]["stats"] = asdict(rounds.stats)
        for word, choose in COMPARED.items():
            if published:
                shares = ratios(rounds, choose(published))
                found[name][f"ratio to {word}"] = median(shares)
                found[name][f"range to {word}"] = [min(shares), max(shares)]
    return {"published": {name: medians(rounds) for name, rounds in published.items()}, "fastload": found}


def print_results(recipe: str, comparison: Comparison, published: Results, ours: Results) -> None:
    table = Table(title=recipe)
    table.add_column("", no_wrap=True)
    for heading in ("images/s", "x\ndefault", "range", "x\nfastest", "CPU\nms/image", "GIL\nµs/image"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rounds in (published | ours).items():
        compared = ["", "", ""]
        if published and name in ours:
            default, fastest = (ratios(rounds, choose(published)) for choose in COMPARED.values())
            spread = f"{min(default):.1f} to {max(default):.1f}"
            compared = [f"[bold]{median(default):.1f}[/]", spread, f"[bold]{median(fastest):.1f}[/]"]
        table.add_row(
            name,
            f"{median(rounds.images_per_second):.0f}",
            *compared,
            f"{median(rounds.cpu_ms):.2f}",
            f"{median(rounds.gil_us):.1f}" if rounds.gil_us else "",
        )
    console.print(table)
    if comparison.note:
        console.print(f"[dim]{recipe}: {comparison.note}[/]", highlight=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(comparisons())
    parser.add_argument("data", type=Path, help="dataset in COCO's layout, with train2017/")
    parser.add_argument("--recipes", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--threads", type=int, default=2, help="threads, or worker processes (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch (default: 16)")
    parser.add_argument("--images", type=int, default=2048, help="images in an epoch of FastLoader (default: 2048)")
    parser.add_argument("--engine", choices=list(ENGINES), default="native", help="FastLoader's (default: native)")
    parser.add_argument(
        "--published-python", type=Path, metavar="FILE", help="interpreter of the environment of peers_recipes.py"
    )
    parser.add_argument("--repositories", type=Path, help="folder of the published repositories' checkouts")
    parser.add_argument(
        "--published-images", type=int, default=400, help="images in a round of a published loader (default: 400)"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    if bool(options.published_python) != bool(options.repositories):
        parser.error("--published-python and --repositories need each other")
    return options


if __name__ == "__main__":
    main()
