"""A training script in the style of torchvision's detection references, with one line changed.

    python examples/train_torchvision.py              # a tiny detector on a generated sample dataset
    python examples/train_torchvision.py coco/ --model maskrcnn_resnet50_fpn
    python examples/train_torchvision.py coco/ --model keypointrcnn_resnet50_fpn --size 800 --max-size 1333

The loop is that of such scripts: a list of images, a list of target dicts, a dict of losses. Images come as
torchvision's detectors take them: in [0, 1], each of its own size. `--model` is TinyDetector or, where torchvision is
installed, the name of one of its detectors, which starts from random weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from tiny import TinyDetector, training_cache
from torch import nn

from fastload import Cache, FastLoader, RandomFlip, ShortestEdge


def collate_fn(batch: list[Any]) -> tuple[Any, ...]:
    """As in torchvision's references: returns a tuple of images and a tuple of targets."""
    return tuple(zip(*batch, strict=True))


def make_model(name: str, dataset: Cache, size: int, max_size: int) -> nn.Module:
    """Return the detector `name` for the classes and keypoints of a cache and images of `size`."""
    if name == "tiny":
        return TinyDetector()
    from torchvision.models import get_model

    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "min_size": size, "max_size": max_size}
    if name.startswith("keypointrcnn"):
        options["num_keypoints"] = dataset.columns["keypoints"].shape[1]
    model: nn.Module = get_model(name, num_classes=max(category.id for category in dataset.categories) + 1, **options)
    return model


def train_one_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Iterable[Any], device: torch.device, epoch: int
) -> None:
    model.train()
    losses_seen, images_seen, start = [], 0, time.perf_counter()
    for images, targets in data_loader:
        images = [image.to(device) for image in images]
        targets = [{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in t.items()} for t in targets]
        loss_dict = model(images, targets)
        losses = sum(loss for loss in loss_dict.values())
        if not math.isfinite(losses.item()):
            sys.exit(f"Loss is {losses.item()}, stopping training")
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        images_seen += len(images)
        losses_seen.append(losses.item())
    seconds = (time.perf_counter() - start) / len(losses_seen)
    loss = sum(losses_seen) / len(losses_seen)
    print(f"epoch {epoch}: {images_seen} images, {seconds:.2f} s a step, loss {loss:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a detector with torchvision's interface.")
    parser.add_argument("folder", nargs="?", help="a dataset; default: a generated sample")
    parser.add_argument("--model", default="tiny", help="such as fasterrcnn_resnet50_fpn; default: tiny")
    parser.add_argument("--size", type=int, default=160, help="shorter side of the images in pixels")
    parser.add_argument("--max-size", type=int, default=240, help="limit of their longer side")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="limit of the steps of an epoch")
    parser.add_argument("--lr", type=float, help="learning rate; default: 1e-3 for the tiny detector, else 1e-4")
    options = parser.parse_args()
    options.lr = options.lr or (1e-3 if options.model == "tiny" else 1e-4)
    masks, keypoints = (options.model.startswith(kind) for kind in ("maskrcnn", "keypointrcnn"))
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = Cache(training_cache(options.folder, masks, keypoints))
    # was: torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2, collate_fn=utils.collate_fn)
    data_loader = FastLoader(
        dataset,
        batch_size=options.batch_size,
        shuffle=True,
        num_workers=2,
        collate_fn=collate_fn,
        dtype=torch.float32,
        transforms=[ShortestEdge(options.size, max_size=options.max_size), RandomFlip()],
        skip_crowd=options.model != "tiny",
        skip_empty=options.model != "tiny",
        masks=masks,
    )
    model = make_model(options.model, dataset, options.size, options.max_size).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=options.lr)
    for epoch in range(options.epochs):
        train_one_epoch(model, optimizer, islice(data_loader, options.steps), device, epoch)


if __name__ == "__main__":
    main()
