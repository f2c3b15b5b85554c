"""A training script in the style of torchvision's detection references, with one line changed.

    python examples/train_torchvision.py              # on a generated sample dataset
    python examples/train_torchvision.py coco/

The loop is that of such scripts: a list of images, a list of target dicts, a dict of losses. Images come as
torchvision's detectors take them: in [0, 1], each of its own size. Any of these detectors can replace TinyDetector.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import torch
from tiny import TinyDetector, training_cache
from torch import nn

from fastload import FastLoader, RandomFlip, ShortestEdge


def collate_fn(batch: list[Any]) -> tuple[Any, ...]:
    """As in torchvision's references: returns a tuple of images and a tuple of targets."""
    return tuple(zip(*batch, strict=True))


def train_one_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data_loader: Iterable[Any], device: torch.device, epoch: int
) -> None:
    model.train()
    losses_seen, images_seen = [], 0
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
    print(f"epoch {epoch}: {images_seen} images, loss {sum(losses_seen) / len(losses_seen):.2f}")


def main() -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = training_cache()
    # was: torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2, collate_fn=utils.collate_fn)
    data_loader = FastLoader(
        dataset,
        batch_size=8,
        shuffle=True,
        num_workers=2,
        collate_fn=collate_fn,
        dtype=torch.float32,
        transforms=[ShortestEdge(160, max_size=240), RandomFlip()],
    )
    model = TinyDetector().to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for epoch in range(3):
        train_one_epoch(model, optimizer, data_loader, device, epoch)


if __name__ == "__main__":
    main()
