"""Shared by the examples: a cache to train on, and a detector of three convolutions with torchvision's interface."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastload import BuildOptions, build_cache, find_datasets, make_sample

STRIDE, REACH = 8, 64  # pixels


def training_cache(folder: str | None = None, masks: bool = False, keypoints: bool = False) -> Path:
    """The cache of the first split of a folder or of a sample dataset; built if missing.

    Args:
        folder: the dataset. Default: the first argument of the command line, or the sample.
        masks: whether the cache has masks.
        keypoints: whether it has keypoints.
    """
    folder = folder or next(iter(sys.argv[1:2]), "runs/sample")
    if not Path(folder).exists():
        make_sample(folder, images=100)
    split = find_datasets(folder, masks=masks, keypoints=keypoints)[0]
    extras = "-masks" * masks + "-keypoints" * keypoints
    cache = split.cache.with_name(f"{split.cache.stem}{extras}.lmdb")
    if not cache.exists():
        build_cache(split.load(), cache, BuildOptions())  # what `fastload build-cache` does
    return cache


class TinyDetector(nn.Module):
    """Says in each cell of 8 x 8 pixels whether the center of an object lies there, of which class, and its box."""

    def __init__(self, labels: int = 91) -> None:
        super().__init__()
        layers = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((3, 16), (16, 32), (32, 64))]
        self.backbone = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.head = nn.Conv2d(64, labels + 4, 1)
        nn.init.constant_(self.head.bias[:labels], -4.6)  # a score of 0.01

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses, for images (3, H, W) in [0, 1], of any sizes, and their `boxes` (n, 4) and `labels` (n)."""
        output = self.head(self.backbone(padded([image - 0.5 for image in images]))).permute(0, 2, 3, 1)
        logits, boxes = output[..., :-4], output[..., -4:]
        image = torch.cat([torch.full_like(t["labels"], i) for i, t in enumerate(targets)])
        label, box = torch.cat([t["labels"] for t in targets]), torch.cat([t["boxes"] for t in targets])
        center = (box[:, :2] + box[:, 2:]) / 2
        x, y = (center / STRIDE).long().unbind(1)
        truth = torch.zeros_like(logits)
        truth[image, y, x, label] = 1
        classification = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
        regression = functional.l1_loss(boxes[image, y, x], (box - center.repeat(1, 2)) / REACH, reduction="sum")
        objects = max(len(label), 1)
        return {"classification": classification / objects, "box": regression / objects}


def padded(images: list[Tensor]) -> Tensor:
    """Images (3, H, W) in the top-left corners of a batch (B, 3, H, W), zeros around them."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    return torch.stack([functional.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images])
