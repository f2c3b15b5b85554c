"""The reference engine: the specification of what a plan means, in NumPy. Slow, and meant to be read.

It interpolates the decoded Y, Cb and Cr planes in floating point, then converts to RGB. Converting first and
interpolating afterwards, as Pillow does, differs by rounding, by where colours are clipped and, for subsampled
chroma, by the upsampling: a fraction of a level on average, more in single saturated pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload import _core
from fastload.device.normalize import PixelFormat
from fastload.engines.validate import check_plan
from fastload.plan.batch_plan import BatchPlan

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache

# Chroma is smaller than luma by (x, y), by TurboJPEG's subsampling number.
CHROMA_DIVISOR = ((1, 1), (2, 1), (2, 2), (1, 1), (1, 2), (4, 1))

# ITU-T T.871 (JFIF): RGB from Y, Cb - 128, Cr - 128.
YCBCR_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])


def resampling_matrix(source: int, size: int, start: float, extent: float) -> NDArray[np.float64]:
    """Weights (size, source) that show the interval [start, start + extent) of `source` samples in `size`.

    A triangle filter of radius max(scale, 1) samples, scale = extent / size, normalised over the samples there are:
    Pillow's BILINEAR.
    """
    scale = extent / size
    radius = max(scale, 1.0)
    center = np.clip(start + (np.arange(size) + 0.5) * scale, 0.5 if radius == 1 else 0, source - (radius == 1) * 0.5)
    distance = np.abs(np.arange(source) + 0.5 - center[:, None])
    weights: NDArray[np.float64] = np.maximum(0, 1 - distance / radius)
    weights /= weights.sum(1, keepdims=True)
    return weights


def render(
    planes: list[NDArray[np.uint8]],
    subsampling: int,
    rgb: bool,
    crop: NDArray[np.float32],
    size: tuple[int, int],
    flip: bool,
    color: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Show `crop` (x, y, w, h) of decoded planes as (h, w, 3) pixels; `size` is width, height."""
    width, height = size
    resampled = []
    for c, plane in enumerate(planes):
        divisor = CHROMA_DIVISOR[subsampling] if c else (1, 1)
        x, y, w, h = crop.astype(np.float64) / np.array(divisor * 2)
        across = resampling_matrix(plane.shape[1], width, x, w)
        down = resampling_matrix(plane.shape[0], height, y, h)
        resampled.append(down @ plane @ across.T)
    if len(planes) == 1:
        pixels = np.repeat(resampled[0][..., None], 3, 2)
    else:
        pixels = np.stack(resampled, -1)
        if not rgb:
            pixels = (pixels - (0, 128, 128)) @ YCBCR_TO_RGB.T
    if flip:
        pixels = pixels[:, ::-1]
    pixels = pixels @ color[:, :3].T.astype(np.float64) + color[:, 3]
    return np.floor(np.clip(pixels, 0, 255) + 0.5).astype(np.uint8)


def in_format(canvases: NDArray[np.uint8], pixels: PixelFormat) -> Tensor:
    """Canvases (B, H, W, 3) as images (B, 3, H, W) in a format."""
    if pixels.dtype == torch.uint8:
        images = torch.from_numpy(canvases)
    else:
        mean, std = np.array(pixels.mean, np.float32), np.array(pixels.std, np.float32)
        images = torch.from_numpy((canvases.astype(np.float32) - mean) / std).to(pixels.dtype)
    return images.permute(0, 3, 1, 2).contiguous(memory_format=pixels.memory_format)


@dataclass(eq=False)
class ReferenceJob:
    """A batch to be executed; its canvases (B, H, W, 3) from when it was until they are taken."""

    plan: BatchPlan
    canvases: NDArray[np.uint8] | None = None


class ReferenceEngine:
    """Executes plans in the calling thread when they are waited for. The oracle of every other engine.

    Images are made in the format `pixels`. It verifies every record's checksum every time.
    """

    def __init__(
        self, cache: Cache, threads: int = 0, check: str = "always", pixels: PixelFormat | None = None
    ) -> None:
        self._cache = cache
        self._pixels = pixels or PixelFormat()

    def submit(self, plan: BatchPlan, ends: Sequence[int]) -> list[ReferenceJob]:
        """See `Engine.submit`."""
        check_plan(plan, len(self._cache.lengths))
        self._cache.ensure(plan.index)
        return [ReferenceJob(batch) for batch in plan.split(ends)]

    def wait(self, ticket: list[ReferenceJob], number: int) -> dict[int, str]:
        """See `Engine.wait`."""
        job = ticket[number]
        plan = job.plan
        out = job.canvases = np.empty((len(plan.size), *plan.canvas, 3), np.uint8)
        out[:] = plan.fill
        failures: dict[int, str] = {}
        for row in range(len(plan.index)):
            try:
                planes, subsampling, rgb = _core.decode_record(self._cache.record_bytes(int(plan.index[row])))
            except ValueError as error:
                failures[row] = str(error)
                continue
            x, y, w, h = plan.rect[row]
            pixels = render(planes, subsampling, rgb, plan.crop[row], (w, h), bool(plan.flip[row]), plan.color[row])
            out[plan.slot[row], y : y + h, x : x + w] = pixels
        for row in failures:
            out[plan.slot[row]] = plan.fill
        return failures

    def images(self, ticket: list[ReferenceJob], number: int) -> Tensor | None:
        """See `Engine.images`."""
        canvases, ticket[number].canvases = ticket[number].canvases, None
        return None if canvases is None else in_format(canvases, self._pixels)

    def share(self) -> ReferenceEngine:
        """See `Engine.share`: nothing is kept between batches."""
        return self

    def done(self, ticket: list[ReferenceJob], number: int) -> bool:
        """See `Engine.done`: all of the work is done in `wait`."""
        return False

    def close(self) -> None:
        """Nothing to end."""
