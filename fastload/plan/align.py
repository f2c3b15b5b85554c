"""Collators: they choose the canvas size of a batch and the position of each image on it.

FastLoader plans with a collator before it decodes images. For datasets that are not caches, a collator is an ordinary
`collate_fn` for a list of (image, target) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastload.errors import ArgumentError, PlanError
from fastload.pixel_format import PixelFormat
from fastload.plan.batch_plan import BatchPlan

IMAGENET_MEAN = (124, 116, 104)  # about 0 after normalization with ImageNet's mean, as the padding of published recipes
UNIT = PixelFormat(torch.float32)  # values in [0, 1]

Canvas = tuple[int, int] | NDArray[np.int32]  # (width, height), or (B, 2) for each image


def spans_batches(offsets: Any) -> Any:
    """Decorator of an `offsets` method that treats each image independently.

    The method is then called once for several batches, with a canvas for each image. Methods without this decorator are
    called once per batch.
    """
    offsets.spans_batches = True
    return offsets


class Collator:
    """Base class of collators, which pad the images of a batch to one canvas.

    Subclasses override `offsets` to position the images, and may override `canvas` to choose the canvas size:

        class BottomLeft(Collator):
            def offsets(self, sizes, canvas, rng):
                return (np.asarray(canvas) - sizes) * [0, 1]

    Args:
        divisor: the canvas is as large as the largest width and height in the batch, rounded up to a multiple of this
            many pixels. Default: 32.
        fill: the padding in levels of 0 to 255, gray or (red, green, blue). Default: the ImageNet mean.
        canvas_sizes: fixed canvas sizes that replace `divisor`: (height, width) in pixels, the edge of a square, or a
            list of (height, width). The one with the smallest area that fits the batch is used. Default: none.

    Raises:
        ArgumentError: an argument is out of range.
    """

    def __init__(
        self,
        divisor: int = 32,
        fill: int | Sequence[int] = IMAGENET_MEAN,
        canvas_sizes: int | tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    ) -> None:
        if divisor < 1:
            raise ArgumentError(f"{type(self).__name__} needs a divisor of at least 1, not {divisor}")
        self.divisor = divisor
        self.fill = _rgb(fill)
        self.canvas_sizes = None if canvas_sizes is None else _ascending(canvas_sizes)

    @property
    def spans_batches(self) -> bool:
        """Whether `place` accepts several batches: each image and each batch is treated independently."""
        return type(self).canvas is Collator.canvas and hasattr(self.offsets, "spans_batches")

    def canvas(self, sizes: NDArray[np.int32]) -> tuple[int, int]:
        """Return the canvas size of a batch.

        Args:
            sizes: (B, 2) width, height of each image in pixels.

        Returns:
            (width, height) in pixels.

        Raises:
            PlanError: none of `canvas_sizes` fits.
        """
        width, height = self._canvases(sizes.max(0)[None])[0].tolist()
        return width, height

    def _canvases(self, largest: NDArray[np.int32]) -> NDArray[np.int32]:
        """Canvas sizes (n, 2) of n batches whose largest width, height are `largest` (n, 2)."""
        if self.canvas_sizes is None:
            rounded: NDArray[np.int32] = -(-largest // self.divisor) * self.divisor
            return rounded
        choices = np.array(self.canvas_sizes, np.int32)[:, ::-1]
        fits: NDArray[np.bool_] = np.all(largest[:, None] <= choices, axis=2)
        too_large = largest[~np.any(fits, axis=1)]
        if len(too_large):
            width, height = too_large[0].tolist()
            raise PlanError(
                f"a batch with images up to {height} high and {width} wide fits none of the canvas sizes "
                f"{self.canvas_sizes} (height, width): add a larger one, or shrink the images with "
                "ShortestEdge(..., max_size=...)"
            )
        chosen: NDArray[np.int32] = choices.take(fits.argmax(1), 0)
        return chosen

    def offsets(self, sizes: NDArray[np.int32], canvas: Any, rng: np.random.Generator) -> NDArray[np.int32]:
        """Return the position of the upper left corner of each image on its canvas. Subclasses override this.

        Args:
            sizes: (B, 2) width, height of each image in pixels.
            canvas: (width, height), or (B, 2) for each image.
            rng: the source of all random numbers.

        Returns:
            (B, 2) x, y in pixels.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override offsets(sizes, canvas, rng)")

    def place(self, plan: BatchPlan, rng: np.random.Generator, ends: Sequence[int] | None = None) -> None:
        """Position the images of a plan on their canvases.

        Args:
            plan: a plan of one batch, or of several if `spans_batches`.
            rng: the source of all random numbers.
            ends: the slot after the last one of each batch. Default: one batch.
        """
        fill = np.array(self.fill, np.uint8)
        if not self.spans_batches:
            assert ends is None or len(ends) == 1
            canvas = self.canvas(plan.size)
            plan.place(canvas, self.offsets(plan.size, canvas, rng), fill)
            return
        edges = np.array([0, *(ends or [len(plan.size)])])
        canvases = self._canvases(np.maximum.reduceat(plan.size, edges[:-1])).repeat(np.diff(edges), 0)
        plan.place(canvases, self.offsets(plan.size, canvases, rng), fill)

    def __call__(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Tensor, list[Any]]:
        """Collate (image, target) pairs as a `collate_fn`, seeded by torch's generator. See `collate`."""
        seed = int(torch.randint(2**63 - 1, ()).item())
        return self.collate(samples, np.random.default_rng(seed))

    def collate(
        self, samples: Sequence[tuple[Any, Any]], rng: np.random.Generator, floats: PixelFormat = UNIT
    ) -> tuple[Tensor, list[Any]]:
        """Pad images to one canvas and shift their targets accordingly.

        Args:
            samples: (image, target) pairs. Images are (3, H, W) tensors, or PIL images, which become uint8. If a target
                is a dict, its copy has shifted `boxes` (n, 4) xyxy and `keypoints` (n, k, 2 or 3), padded `masks`
                (n, H, W), and a new `offset` (x, y). Other targets are returned unchanged.
            rng: the source of all random numbers.
            floats: the format of floating-point images, in which they are padded with `fill`. Default: values in
                [0, 1], so the padding is `fill` / 255. Use `fill=0` in a `collate_fn` for images in other formats.

        Returns:
            The images (B, 3, H, W), in the dtype of the first one, and the targets.

        Raises:
            ArgumentError: an image is neither a (3, H, W) tensor nor a PIL image.
            PlanError: none of `canvas_sizes` fits.
        """
        images = [_as_tensor(image) for image, _ in samples]
        sizes = np.array([(image.shape[-1], image.shape[-2]) for image in images], np.int32)
        width, height = canvas = self.canvas(sizes)
        offsets = np.asarray(self.offsets(sizes, canvas, rng)).tolist()
        batch = _blank(images[0], (len(images), 3, height, width), self.fill, floats)
        for slot, image, (x, y) in zip(batch, images, offsets, strict=True):
            slot[:, y : y + image.shape[1], x : x + image.shape[2]] = image
        targets = [_shifted(target, x, y, canvas) for (_, target), (x, y) in zip(samples, offsets, strict=True)]
        return batch, targets

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class TopLeftAlign(Collator):
    """Place images in the upper left corner and pad on the right and below, as torchvision and detectron2 do.

    See `Collator` for the arguments.
    """

    @spans_batches
    def offsets(self, sizes: NDArray[np.int32], canvas: Canvas, rng: np.random.Generator) -> NDArray[np.int32]:
        return np.zeros(sizes.shape, np.int32)


class _GridCollator(Collator):
    """A collator whose offsets are multiples of `grid` pixels."""

    def __init__(
        self,
        divisor: int = 32,
        grid: int = 1,
        fill: int | Sequence[int] = IMAGENET_MEAN,
        canvas_sizes: int | tuple[int, int] | Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(divisor, fill, canvas_sizes)
        if grid < 1:
            raise ArgumentError(f"{type(self).__name__} needs a grid of at least 1, not {grid}")
        self.grid = grid


class CenterAlign(_GridCollator):
    """Place images in the middle of the canvas.

    Args:
        divisor, fill, canvas_sizes: see `Collator`.
        grid: offsets are rounded down to multiples of this many pixels. Default: 1.

    Raises:
        ArgumentError: an argument is out of range.
    """

    @spans_batches
    def offsets(self, sizes: NDArray[np.int32], canvas: Canvas, rng: np.random.Generator) -> NDArray[np.int32]:
        return _slack(sizes, canvas) // 2 // self.grid * self.grid


class RandomAlign(_GridCollator):
    """Place each image at random on the canvas, uniformly over the offsets that are multiples of `grid` pixels.

    Args:
        divisor, fill, canvas_sizes: see `Collator`.
        grid: offsets are multiples of this many pixels. Default: 1.

    Raises:
        ArgumentError: an argument is out of range.
    """

    @spans_batches
    def offsets(self, sizes: NDArray[np.int32], canvas: Canvas, rng: np.random.Generator) -> NDArray[np.int32]:
        choices = _slack(sizes, canvas) // self.grid + 1
        return (rng.random(sizes.shape) * choices).astype(np.int32) * self.grid


def _slack(sizes: NDArray[np.int32], canvas: Canvas) -> NDArray[np.int32]:
    """(B, 2) by how many pixels the canvas is wider and higher than each image."""
    return np.asarray(canvas, np.int32) - sizes


def _rgb(fill: int | Sequence[int]) -> tuple[int, int, int]:
    values = [fill] * 3 if isinstance(fill, int) else list(fill)
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise ArgumentError(f"fill must be one value or three (red, green, blue) from 0 to 255, not {fill!r}")
    return int(values[0]), int(values[1]), int(values[2])


def _ascending(canvas_sizes: Any) -> list[tuple[int, int]]:
    """Canvas sizes (height, width), by ascending area."""
    sizes = np.atleast_2d(np.asarray([canvas_sizes] * 2 if isinstance(canvas_sizes, int) else canvas_sizes))
    if sizes.ndim != 2 or sizes.shape[1] != 2 or sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise ArgumentError(
            f"canvas_sizes must be one (height, width) in pixels or a list of them, not {canvas_sizes!r}"
        )
    return sorted(((int(height), int(width)) for height, width in sizes), key=lambda size: size[0] * size[1])


def _as_tensor(image: Any) -> Tensor:
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3:
        return image
    shape = f" of shape {tuple(image.shape)}" if isinstance(image, Tensor) else ""
    raise ArgumentError(f"fastload's collators take (3, H, W) tensors or PIL images, not {type(image).__name__}{shape}")


def _blank(like: Tensor, shape: tuple[int, ...], fill: tuple[int, int, int], floats: PixelFormat) -> Tensor:
    """Images of `shape` (B, 3, H, W) filled with the padding, in the dtype and memory format of `like`."""
    packed = torch.channels_last if like.stride(0) == 1 else torch.contiguous_format
    batch = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=packed)
    color = torch.tensor(fill, dtype=torch.float32)
    if like.is_floating_point():
        color = (color - torch.tensor(floats.mean)) / torch.tensor(floats.std)
    return batch.copy_(color.to(batch)[:, None, None].expand_as(batch))


def _shifted(target: Any, x: int, y: int, canvas: tuple[int, int]) -> Any:
    if not isinstance(target, Mapping):
        return target
    moved = {**target, "offset": torch.tensor([x, y])}
    if "boxes" in moved:
        moved["boxes"] = moved["boxes"] + torch.tensor([x, y, x, y]).to(moved["boxes"])
    if "keypoints" in moved:
        keypoints = moved["keypoints"]
        shift = torch.tensor([x, y, 0][: keypoints.shape[-1]]).to(keypoints)
        labeled = keypoints[..., 2:] != 0 if keypoints.shape[-1] == 3 else 1  # unlabeled ones stay (0, 0, 0)
        moved["keypoints"] = keypoints + shift * labeled
    if "masks" in moved:
        masks = moved["masks"]
        padded = masks.new_zeros((len(masks), *canvas[::-1]))
        padded[:, y : y + masks.shape[1], x : x + masks.shape[2]] = masks
        moved["masks"] = padded
    return moved
