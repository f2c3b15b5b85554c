"""A typical DataLoader, as the baseline of the demo and the benchmarks.

Worker processes decode files by Pillow, scale and flip each image and convert it to a tensor; a collate function pads
the batch, as in torchvision's detection reference. Images are not grouped by shape.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastload.sources.base import Sample

SHORT_EDGE, LONG_EDGE, DIVISOR = 512, 736, 32
FILL = (124, 116, 104)  # RGB of the padding, as in FastLoader's collators
Item = tuple[Tensor, dict[str, Tensor]]


class BaselineDataset(Dataset[Item]):
    """Images scaled to a short edge of 512 pixels (long edge at most 736) and flipped at random, with their boxes.

    An item is (image (3, h, w) uint8, {"boxes": (n, 4) xyxy in its pixels, "labels": (n) category ids}).
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        image, scale = self.read(sample.path)
        boxes = torch.from_numpy((sample.columns["boxes"] * scale).astype(np.float32))
        if random.random() < 0.5:
            image = image[:, ::-1]
            boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return tensor, {"boxes": boxes, "labels": torch.from_numpy(sample.columns["label"])}

    def read(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        """Return the scaled image (h, w, 3) RGB of a file, and its scale."""
        image = Image.open(path).convert("RGB")
        scale = scale_of(*image.size)
        size = scaled_size(*image.size)
        return np.array(image.resize(size, Image.Resampling.BILINEAR)), scale


def scale_of(width: int, height: int) -> float:
    """Return the scale that makes the short edge 512, or less to keep the long edge within 736."""
    return min(SHORT_EDGE / min(width, height), LONG_EDGE / max(width, height))


def scaled_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height at that scale, rounded half up like `ShortestEdge`."""
    scale = scale_of(width, height)
    return int(width * scale + 0.5), int(height * scale + 0.5)


def pad_batch(items: Sequence[Item]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Collate images into (B, 3, H, W), aligned top-left; H and W are the largest, rounded up to multiples of 32."""
    height, width = (max(image.shape[axis] for image, _ in items) for axis in (1, 2))
    height, width = (-(-edge // DIVISOR) * DIVISOR for edge in (height, width))
    batch = torch.tensor(FILL, dtype=torch.uint8).reshape(1, 3, 1, 1).repeat(len(items), 1, height, width)
    for slot, (image, _) in zip(batch, items, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch, [target for _, target in items]


def baseline_loader(dataset: Dataset[Item], batch_size: int, workers: int) -> DataLoader[Any]:
    """Return the DataLoader of a dataset, with workers that stay alive between epochs."""
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=pad_batch,
        persistent_workers=workers > 0,
    )
