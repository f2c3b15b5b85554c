"""Times inference at batch 1 and 8 (512 px): the forward pass and post-processing apart, beside torchvision's FCOS.

    python benchmarks/inference.py --json inference.json

How long post-processing takes depends on how many points have a class above the score threshold. New weights score
everything alike, so the threshold is set where the given shares of all points pass, after all classes have been given
the same mean. In detectors that have learned little, 10 to 20 % of the points pass; the better ones find fewer.
Contenders take turns; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision_fcos import make_torchvision_fcos

from detector.config import PRESETS
from detector.infer.postprocess import Settings
from detector.model.centernet2 import Classified
from detector.model.detector import Detector
from detector.model.fuse import fuse_batch_norm
from detector.model.grid import flatten
from detector.runtime import DTYPES, autocast, keep_freed_memory, pick_device

CLASSES = 80
Figures = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A network on one batch."""

    forward: Callable[[], Any]  # predictions
    decode: Callable[[Any, float], Any]  # predictions and score threshold -> detections on the host
    scores: Callable[[Any], Tensor]  # predictions -> what is compared with the threshold (B, N, K)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--preset", nargs="+", choices=PRESETS, default=["fcos_r18_rt", "centernet_r18_rt", "centernet2_r18_rt"]
    )
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=["fp32"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=512, help="edge of the square images, a multiple of 32")
    parser.add_argument("--passing", nargs="+", type=float, default=[0.01, 0.1], help="shares of points")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender runs")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.randint(256, (max(options.batch_size), 3, options.size, options.size), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last).to(device)
    networks: dict[str, Callable[[Tensor], Contender]] = {}
    for name in options.preset:
        model = Detector.from_config(PRESETS[name], CLASSES).eval().to(device, memory_format=torch.channels_last)
        center_classes(model, lambda model=model: model(images))
        for form, network in (("", model), (", batch norm fused", fuse_batch_norm(model))):
            for precision in options.precision:
                networks[f"{name}{form}, {precision}"] = ours(network, DTYPES[precision])
    if peer := make_torchvision_fcos(CLASSES, options.size):
        peer = peer.to(device).eval()
        center_classes(peer, lambda: peer(list(images.float() / 255)))
        networks["torchvision's FCOS, fp32"] = torchvisions(peer)
    found = take_turns(networks, [images[:n] for n in options.batch_size], options.passing, options.rounds)
    figures = {"machine": machine(), "device": device.type, "size": options.size, "networks": found}
    Console().print(table(figures, options.passing))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


@torch.inference_mode()
def center_classes(model: nn.Module, forward: Callable[[], Any]) -> None:
    """Change the biases of the convolutions that score classes such that no class is above the others on average."""
    found: dict[nn.Conv2d, list[Tensor]] = {}
    for layer in [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.out_channels == CLASSES]:
        found[layer] = []
        layer.register_forward_hook(lambda layer, _, scores: found[layer].append(flatten(scores).flatten(0, 1)))
    forward()
    for layer, scores in found.items():
        layer._forward_hooks.clear()
        mean = torch.cat(scores).mean(0)
        layer.get_parameter("bias").add_(mean.mean() - mean)


def ours(model: Detector, dtype: torch.dtype) -> Callable[[Tensor], Contender]:
    """A detector of `detector/`, from uint8 images."""

    def on(images: Tensor) -> Contender:
        height, width = images.shape[-2:]
        region = torch.tensor([[0.0, 0.0, width, height]], device=images.device).expand(len(images), 4)

        def forward() -> Any:
            with autocast(images.device, dtype):
                return model(images)

        def decode(predictions: Any, threshold: float) -> Any:
            return model.decoder(Settings(score_threshold=threshold))(predictions, region).cpu()

        def scores(predictions: Any) -> Tensor:
            if isinstance(predictions, Classified):
                return predictions.scores
            return torch.cat([flatten(x) for x in predictions.logits], 1).float().sigmoid()

        return Contender(forward, decode, scores)

    return on


def torchvisions(model: Any) -> Callable[[Tensor], Contender]:
    """torchvision's FCOS with its own post-processing, from floating-point images."""

    def on(images: Tensor) -> Contender:
        pictures = [image.contiguous().float() / 255 for image in images]
        sizes = [tuple(image.shape[-2:]) for image in images]

        def forward() -> Any:
            batch, _ = model.transform(pictures)
            features = list(model.backbone(batch.tensors).values())
            return batch, features, model.head(features)

        def decode(predicted: Any, threshold: float) -> Any:
            batch, features, outputs = predicted
            counts = [x.shape[2] * x.shape[3] for x in features]
            model.score_thresh = threshold
            anchors = [list(image.split(counts)) for image in model.anchor_generator(batch, features)]
            levels = {name: list(output.split(counts, 1)) for name, output in outputs.items()}
            found = model.postprocess_detections(levels, anchors, batch.image_sizes)
            found = model.transform.postprocess(found, batch.image_sizes, sizes)
            return [{name: part.cpu() for name, part in image.items()} for image in found]

        def scores(predicted: Any) -> Tensor:
            outputs = predicted[2]
            return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

        model.nms_thresh, model.detections_per_img = Settings().iou_threshold, Settings().limit
        return Contender(forward, decode, scores)

    return on


@torch.inference_mode()
def take_turns(
    networks: dict[str, Callable[[Tensor], Contender]], batches: list[Tensor], passing: list[float], rounds: int
) -> Figures:
    """The figures of each network and batch, in milliseconds per image, after one round to warm up."""
    contenders = {(name, len(batch)): make(batch) for name, make in networks.items() for batch in batches}
    thresholds: dict[tuple[str, int], list[float]] = {}
    candidates: dict[tuple[str, int], list[float]] = {}
    for key, contender in contenders.items():
        scores = contender.scores(contender.forward())
        best = scores.amax(-1).flatten().sort(descending=True).values
        thresholds[key] = [best[int(share * len(best))].item() for share in passing]
        candidates[key] = [int((scores > threshold).sum()) / key[1] for threshold in thresholds[key]]
    times: dict[tuple[str, int], list[list[float]]] = {key: [] for key in contenders}
    for _ in range(rounds + 1):
        for key, contender in contenders.items():
            marks = [_now(batches[0].device)]
            predictions = contender.forward()
            marks.append(_now(batches[0].device))
            for threshold in thresholds[key]:
                contender.decode(predictions, threshold)
                marks.append(_now(batches[0].device))
            times[key].append([1000 * (b - a) / key[1] for a, b in pairwise(marks)])
    found: Figures = {name: {} for name in networks}
    for (name, size), rows in times.items():
        forward, *post = [statistics.median(column) for column in zip(*rows[1:], strict=True)]
        found[name][f"batch {size}"] = {
            "forward_ms": forward,
            "post-processing": [
                {"points": share, "candidates": count, "ms": ms, "of_forward": ms / forward}
                for share, count, ms in zip(passing, candidates[name, size], post, strict=True)
            ],
        }
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def table(figures: Figures, passing: list[float]) -> Table:
    about = figures["machine"]
    title = (
        f"{about['processor']}, {about['cores']} cores, {torch.backends.cpu.get_cpu_capability()}, {about['software']}"
    )
    if figures["device"] == "cuda":
        title += f", {torch.cuda.get_device_name()}"
    size = figures["size"]
    posts = [f"post-processing, {share:.0%} of points" for share in passing]
    shown = Table("network", "batch", "forward, ms/image", *posts, "images/s", title=f"{size} x {size} px\n{title}")
    for name, row in figures["networks"].items():
        first = None
        for batch, figure in row.items():
            post = [
                f"{p['ms']:.2f} ms, {p['of_forward']:.1%} ({p['candidates']:.0f})" for p in figure["post-processing"]
            ]
            speed = 1000 / (figure["forward_ms"] + figure["post-processing"][0]["ms"])
            first = first or speed
            shown.add_row(name, batch[6:], f"{figure['forward_ms']:.1f}", *post, f"{speed:.1f} ({speed / first:.2f}x)")
    return shown


if __name__ == "__main__":
    main()
