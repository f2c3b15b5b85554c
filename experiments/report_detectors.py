"""Measures the speed of the detectors of `detectors.py`, and reports what they reach as a table, curves and pictures.

python experiments/report_detectors.py --speed      # on an idle machine; writes results/detectors/speed.json
python experiments/report_detectors.py              # prints Markdown, draws docs/images/detectors*.webp
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectors import COMMON, RESULTS, RUNS

from detector.config import PRESETS, Config
from detector.infer.evaluation import settings_of
from detector.model.detector import Detector
from detector.model.fuse import fuse_batch_norm
from detector.runtime import keep_freed_memory
from detector.train.trainer import Trainer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
ROUNDS = 9
CLASSES = 80
BATCH, SIZE, TEST_SIZE = 4, 384, 416  # images of a training step and their sides, in pixels
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="measure step and inference times first")
    parser.add_argument("--runs", type=Path, default=Path("runs/detectors"), help="folder of the runs, for pictures")
    options = parser.parse_args()
    if options.speed:
        keep_freed_memory()
        (RESULTS / "speed.json").write_text(json.dumps(speeds(), indent=1) + "\n")
    speed = json.loads((RESULTS / "speed.json").read_text())
    results = {
        dataset: {
            name: json.loads(file.read_text()) for name in RUNS if (file := RESULTS / dataset / f"{name}.json").exists()
        }
        for dataset in COMMON
    }
    for dataset, found in results.items():
        if found:
            print(
                f"**{dataset}**, {next(iter(found.values()))['epochs']} epochs\n\n{table(found, speed['detectors'])}\n"
            )
    draw_curves({dataset: found for dataset, found in results.items() if found}, IMAGES / "detectors.webp")
    draw_pages(options.runs / "sample", IMAGES / "detectors_predictions.webp")


def speeds() -> dict[str, Any]:
    """Milliseconds of a training step and of an image in inference, of each detector; they take turns."""
    from benchmarks.machine import machine
    from benchmarks.train_step import make_batch

    torch.manual_seed(0)
    batch = make_batch(BATCH, SIZE)
    configs = {name: replace(PRESETS["fcos_tiny"], **RUNS[name]) for name in RUNS if "seed" not in RUNS[name]}
    steps = {name: Trainer(config, CLASSES, 1000, torch.device("cpu")) for name, config in configs.items()}
    times: dict[str, dict[str, list[float]]] = {name: {"step": [], "batch 1": [], "batch 8": []} for name in configs}
    for _ in range(ROUNDS):
        for name, trainer in steps.items():
            times[name]["step"].append(seconds(lambda: trainer.update([batch])))  # noqa: B023 - called at once
    networks = {name: (fuse_batch_norm(trainer.model), configs[name]) for name, trainer in steps.items()}
    for count in (1, 8):
        images = torch.randint(256, (count, 3, TEST_SIZE, TEST_SIZE), dtype=torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        for _ in range(ROUNDS):
            for name, network in networks.items():
                times[name][f"batch {count}"].append(seconds(lambda: detect(*network, images)) / count)  # noqa: B023
    middle = {name: {kind: 1000 * statistics.median(t[1:]) for kind, t in each.items()} for name, each in times.items()}
    return {
        "machine": machine(),
        "step": f"{BATCH} images of {SIZE} px",
        "image": f"{TEST_SIZE} px",
        "detectors": middle,
    }


@torch.no_grad()
def detect(network: Detector, config: Config, images: torch.Tensor) -> object:
    region = torch.tensor([[0.0, 0.0, TEST_SIZE, TEST_SIZE]] * len(images))
    return network.decoder(settings_of(config))(network(images, region), region)


def seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def table(found: dict[str, Any], speed: dict[str, Any]) -> str:
    """A row for each run."""
    lines = [
        "| run | AP | AP50 | parameters | step | image, batch 1 | batch 8 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, result in found.items():
        times = speed.get(name)
        shown = [f"{times[kind]:.0f} ms" for kind in ("step", "batch 1", "batch 8")] if times else ["", "", ""]
        figures = result["figures"]
        score = f"{100 * figures['AP']:.1f} | {100 * figures['AP50']:.1f} | {result['parameters'] / 1e6:.1f} M"
        lines.append(f"| {name} | {score} | {' | '.join(shown)} |")
    return "\n".join(lines)


def draw_curves(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Average precision against steps, of every run; one plot a dataset."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * max(len(results), 1), 4.5), layout="constrained")
    for axes, (dataset, found) in zip(
        figure.subplots(1, max(len(results), 1), squeeze=False)[0], results.items(), strict=False
    ):
        for name, result in found.items():
            rows = result["evaluations"]
            style = "--" if "bifpn" in name else "-"
            axes.plot(
                [row["step"] for row in rows],
                [100 * row["AP"] for row in rows],
                style,
                marker="o",
                markersize=3,
                label=name,
            )
        axes.set(title=dataset, xlabel="step", ylabel="AP", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def draw_pages(folder: Path, path: Path) -> None:
    """The drawn predictions of the runs on a dataset that may be shown, one below the other."""
    from PIL import Image, ImageDraw

    pages = [(name, Image.open(file)) for name in RUNS if (file := folder / name / "predictions.png").exists()]
    if not pages:
        return
    width = max(page.width for _, page in pages)
    sheet = Image.new("RGB", (width, sum(page.height + 24 for _, page in pages)), "white")
    top = 0
    for name, page in pages:
        ImageDraw.Draw(sheet).text((8, top + 4), name, "black", font_size=16)
        sheet.paste(page, (0, top + 24))
        top += page.height + 24
    sheet.thumbnail((1200, 16000))
    sheet.save(path, quality=80)


if __name__ == "__main__":
    main()
