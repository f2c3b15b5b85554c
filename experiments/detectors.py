"""Trains each detector on the same images for as many epochs, and compares what they reach.

    python experiments/detectors.py sample                 # the generated dataset
    python experiments/detectors.py coco-mini/ --only fcos-fpn centernet-fpn

A run that was interrupted goes on where it stopped, and one whose result is in experiments/results/ is not repeated.
All runs use the backbone EfficientNet-Lite0 with ImageNet weights and the training settings of `fcos_tiny`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detector.config import PRESETS, Config
from detector.model.detector import Detector
from detector.train import train

BIFPN = {"neck": "bifpn", "bifpn_repeats": 3}
CENTERNET = {"head": "centernet"}
CENTERNET2 = {"head": "centernet2", "nms_threshold": 0.7}
RUNS: dict[str, dict[str, Any]] = {
    "fcos-fpn": {},
    "centernet-fpn": CENTERNET,
    "fcos-bifpn": BIFPN,
    "centernet-bifpn": {**CENTERNET, **BIFPN},
    "centernet2-fpn": CENTERNET2,
    "centernet2-bifpn": {**CENTERNET2, **BIFPN},
    # Without what is said to matter, and with more of it.
    "centernet-fpn-centers": {**CENTERNET, "more_positives": False},
    "centernet2-fpn-1-stage": {**CENTERNET2, "cascade_stages": 1},
    "centernet2-fpn-512-rois": {**CENTERNET2, "rois": 512, "train_proposals": 2000},
    # How far apart equal runs are.
    "fcos-fpn-seed-1": {"seed": 1},
    "centernet2-fpn-seed-1": {**CENTERNET2, "seed": 1},
}
# By dataset: what all its runs have in common.
COMMON: dict[str, dict[str, Any]] = {
    "sample": {"epochs": 12, "eval_every": 3, "precision": "fp32"},
    "coco-mini": {
        "epochs": 24,
        "eval_every": 6,
        "precision": "fp32",
        "backbone_lr": 0.1,
        "sizes": (224, 256, 288, 320, 352, 384),
        "test_size": 416,
        "test_max_size": 624,
    },
}
RESULTS = Path(__file__).parent / "results" / "detectors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help='a COCO folder named coco-mini, or "sample"')
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), help="the runs to make")
    parser.add_argument("--runs", type=Path, default=Path("runs/detectors"), help="folder of checkpoints and logs")
    options = parser.parse_args()
    dataset = options.data.name
    if dataset not in COMMON:
        sys.exit(f"There are no settings for {dataset}: the datasets are {', '.join(COMMON)}.")
    for name in options.only:
        result = RESULTS / dataset / f"{name}.json"
        out = options.runs / dataset / name
        data = None if dataset == "sample" else options.data
        if not result.exists():
            config = replace(PRESETS["fcos_tiny"], data=data, out=out, **COMMON[dataset], **RUNS[name])
            if figures := train(replace(config, resume=(out / "last.pt").exists())):
                write(result, config, figures, out)


def write(result: Path, config: Config, figures: dict[str, float], out: Path) -> None:
    """Write the result of a finished run: its settings, last figures and metrics over time."""
    state = torch.load(out / "last.pt", map_location="cpu", weights_only=True)
    if state["epoch"] < config.epochs:
        return  # interrupted
    rows = [{name: round(value, 5) for name, value in row.items()} for row in state["rows"]]
    content = {
        "changes": RUNS[result.stem],
        "epochs": config.epochs,
        "steps": state["step"],
        "parameters": sum(p.numel() for p in Detector.from_config(config, len(state["categories"])).parameters()),
        "figures": figures,
        "evaluations": [row for row in rows if "AP" in row],
        "losses": [{name: row[name] for name in ("step", "loss")} for row in rows if "loss" in row],
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}",
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
