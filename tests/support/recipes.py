"""What published recipes do to the sample set: the files of tests/data/recipes, whose maker describes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parents[1] / "data" / "recipes"
RECIPES = ("classification", "torchvision", "yolox", "detr", "dfine", "deim")


@dataclass(frozen=True)
class Case:
    """One result of a published transform.

    Args:
        name: the name of the transform, and a number.
        sources: positions of the images in the `train` split.
        draws: the numbers that the transform drew, by name.
        size: width, height of the result.
        boxes: (M, 4) float32 x0 y0 x1 y1 in pixels of the result, as `labels` (M) and `objects` (M): the positions in
            the arrays of `SampleObjects`. None if the transform knows no boxes.
        thumbnail: (16, 16, 3) uint8, the result resized by Pillow's BOX.
        crops_at: (C, 2) x, y of `crops` (C, n, n, 3) uint8 in the result.
    """

    name: str
    sources: list[int]
    draws: dict[str, Any]
    size: tuple[int, int]
    thumbnail: NDArray[np.uint8] = field(repr=False)
    crops_at: NDArray[np.int64] = field(repr=False)
    crops: NDArray[np.uint8] = field(repr=False)
    boxes: NDArray[np.float32] | None = None
    objects: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None

    def differences(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the absolute differences of the crops and of the thumbnail of an image (H, W, 3) of this size."""
        assert image.shape[1::-1] == self.size
        side = self.crops.shape[1]
        crops = np.stack([image[y : y + side, x : x + side] for x, y in self.crops_at])
        thumbnail = shrink(image, 16)
        return abs(crops.astype(int) - self.crops), abs(thumbnail.astype(int) - self.thumbnail)


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize by Pillow's BOX."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))


def published(recipe: str, prefix: str = "") -> list[Case]:
    """Return the cases of a recipe whose names start with `prefix`."""
    described = json.loads((FOLDER / f"{recipe}.json").read_text())
    with np.load(FOLDER / f"{recipe}.npz") as pixels:
        thumbnails, crops = pixels["thumbnails"], pixels["crops"]
    cases, first = [], 0
    for number, (name, case) in enumerate(described.items()):
        last = first + len(case["crops_at"])
        found = {}
        if "boxes" in case:
            found["boxes"] = np.array(case["boxes"], np.float32).reshape(-1, 4)
            found |= {key: np.array(case[key], np.int64) for key in ("objects", "labels")}
        at = np.array(case["crops_at"], np.int64)
        shown = {"thumbnail": thumbnails[number], "crops_at": at, "crops": crops[first:last]}
        cases.append(Case(name, case["sources"], case["draws"], tuple(case["size"]), **shown, **found))
        first = last
    return [case for case in cases if case.name.startswith(prefix)]


@dataclass(frozen=True)
class SampleObjects:
    """The `train` split of the sample set of 48 images, as the published code saw it.

    Args:
        sizes: (S, 2) width, height.
        checksums: (S) CRC-32 of the decoded RGB pixels.
        thumbnails: (S, 8, 8, 3) uint8.
        boxes: (N, 4) float32 x0 y0 x1 y1 of all objects that are not crowds.
        labels: (N) classes, counted from 0.
        offsets: (S + 1) the objects of image i are those from offsets[i] to offsets[i + 1].
    """

    sizes: NDArray[np.int32]
    checksums: NDArray[np.uint32]
    thumbnails: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int32]


def sample_objects() -> SampleObjects:
    """Read tests/data/recipes/images.npz."""
    with np.load(FOLDER / "images.npz") as arrays:
        return SampleObjects(**arrays)
