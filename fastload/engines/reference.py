"""The reference engine: the specification of plans, in NumPy. It is slow and written to be read.

It interpolates the decoded Y, Cb and Cr planes in floating point, then converts to RGB. Pillow converts first and
interpolates afterwards, which differs in rounding, in clipping and in the upsampling of subsampled chroma: by a
fraction of a level on average, and by more in single saturated pixels.
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
from fastload.engines.validate import check_plan
from fastload.pixel_format import PixelFormat
from fastload.plan.batch_plan import FILL, BatchPlan
from fastload.plan.geometry import unmap_points

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache

# By how much chroma is smaller than luma in (x, y), for each of TurboJPEG's subsampling numbers.
CHROMA_DIVISOR = ((1, 1), (2, 1), (2, 2), (1, 1), (1, 2), (4, 1))

# ITU-T T.871 (JFIF): RGB from Y, Cb - 128, Cr - 128.
YCBCR_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])


def resampling_matrix(source: int, size: int, start: float, extent: float) -> NDArray[np.float64]:
    """Return weights (size, source) that resample the interval [start, start + extent) of `source` samples to `size`.

    The filter is a triangle of radius max(scale, 1) samples, where scale = extent / size, normalized over the samples
    within the source. This is Pillow's BILINEAR.
    """
    scale = extent / size
    radius = max(scale, 1.0)
    center = np.clip(start + (np.arange(size) + 0.5) * scale, 0.5 if radius == 1 else 0, source - (radius == 1) * 0.5)
    distance = np.abs(np.arange(source) + 0.5 - center[:, None])
    weights: NDArray[np.float64] = np.maximum(0, 1 - distance / radius)
    weights /= weights.sum(1, keepdims=True)
    return weights


@dataclass(frozen=True)
class Source:
    """A decoded image, as `_core.decode_record` returns it.

    Args:
        planes: one array (h, w) per plane; chroma may be smaller.
        subsampling: TurboJPEG's subsampling number.
        rgb: whether the planes are R, G, B instead of Y, Cb, Cr.
    """

    planes: list[NDArray[np.uint8]]
    subsampling: int
    rgb: bool

    def divisor(self, c: int) -> tuple[int, int]:
        """By how much plane `c` is smaller than the image, in x and y."""
        return CHROMA_DIVISOR[self.subsampling] if c else (1, 1)

    def to_rgb(self, samples: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Convert samples (h, w) of each plane to RGB (h, w, 3)."""
        if len(samples) == 1:
            return np.repeat(samples[0][..., None], 3, 2)
        pixels = np.stack(samples, -1)
        return pixels if self.rgb else (pixels - (0, 128, 128)) @ YCBCR_TO_RGB.T


BLACK = Source([np.zeros((1, 1), np.uint8)], 0, False)  # the source of rows without one


def draw_aligned(source: Source, crop: NDArray[np.float32], size: tuple[int, int], flip: bool) -> NDArray[np.float64]:
    """Resample `crop` (x, y, w, h) of a source to `size` (width, height) and return RGB (h, w, 3)."""
    width, height = size
    samples = []
    for c, plane in enumerate(source.planes):
        x, y, w, h = crop.astype(np.float64) / np.array(source.divisor(c) * 2)
        across = resampling_matrix(plane.shape[1], width, x, w)
        down = resampling_matrix(plane.shape[0], height, y, h)
        samples.append(down @ plane @ across.T)
    pixels = source.to_rgb(samples)
    return pixels[:, ::-1] if flip else pixels


def draw_warped(
    source: Source, crop: NDArray[np.float32], matrix: NDArray[np.float32], clip: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw a row with a `warp`.

    If a plane shrinks along an axis, it is first resampled along this axis by the triangle filter, so that one sample
    has the size of one canvas pixel. Samples are then interpolated bilinearly, and the outermost are repeated beyond
    the edges.

    Args:
        source: the source of the row.
        crop: (x, y, w, h) in source pixels.
        matrix: (2, 3) map from the source to the canvas.
        clip: (x, y, w, h) on the canvas.

    Returns:
        RGB (h, w, 3) of the clip, and (h, w) whether each pixel lies in the crop.
    """
    x, y, w, h = clip.tolist()
    centers = np.stack(np.meshgrid(x + np.arange(w) + 0.5, y + np.arange(h) + 0.5), -1)
    points = unmap_points(matrix.astype(np.float64), centers)
    inside: NDArray[np.bool_] = ((points >= crop[:2]) & (points < crop[:2] + crop[2:])).all(-1)
    scale = np.hypot(*matrix[:, :2].astype(np.float64))  # canvas pixels per source pixel, along x and y of the source
    samples = []
    for c, plane in enumerate(source.planes):
        divisor = np.array(source.divisor(c))
        across, x_of = _shrunk(
            plane.shape[1], crop[0::2] / divisor[0], scale[0] * divisor[0], points[..., 0] / divisor[0]
        )
        down, y_of = _shrunk(
            plane.shape[0], crop[1::2] / divisor[1], scale[1] * divisor[1], points[..., 1] / divisor[1]
        )
        samples.append(_interpolated(down @ plane @ across.T, x_of, y_of))
    return source.to_rgb(samples), inside


def _shrunk(
    length: int, extent: NDArray[np.float64], scale: float, position: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrix that resamples an axis before interpolation, and positions after this resampling.

    Args:
        length: samples of the axis.
        extent: start and length of the visible interval, in samples.
        scale: canvas pixels per sample.
        position: positions on the axis, in samples.
    """
    if scale >= 1:
        return np.eye(length), position
    start, shown = extent.tolist()
    size = max(round(shown * scale), 1)
    return resampling_matrix(length, size, start, shown), (position - start) * size / shown


def _interpolated(plane: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate a plane bilinearly at positions x, y."""
    height, width = plane.shape
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    upper = plane[top, left] * (left + 1 - x) + plane[top, right] * (x - left)
    lower = plane[bottom, left] * (left + 1 - x) + plane[bottom, right] * (x - left)
    values: NDArray[np.float64] = upper * (top + 1 - y) + lower * (y - top)
    return values


def in_format(canvases: NDArray[np.uint8], pixels: PixelFormat) -> Tensor:
    """Convert canvases (B, H, W, 3) to images (B, 3, H, W) in a format."""
    if pixels.dtype == torch.uint8:
        images = torch.from_numpy(canvases)
    else:
        mean, std = np.array(pixels.mean, np.float32), np.array(pixels.std, np.float32)
        images = torch.from_numpy((canvases.astype(np.float32) - mean) / std).to(pixels.dtype)
    return images.permute(0, 3, 1, 2).contiguous(memory_format=pixels.memory_format)


@dataclass(eq=False)
class ReferenceJob:
    """A batch. Its canvases (B, H, W, 3) are set by `wait` and removed by `images`."""

    plan: BatchPlan
    canvases: NDArray[np.uint8] | None = None


class ReferenceEngine:
    """Executes plans in the thread that waits for them. Tests compare all other engines with it.

    Args:
        cache: the cache that the plans refer to.
        threads: ignored.
        check: ignored; checksums are always verified.
        pixels: the format of images. Default: uint8.
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
        width, height = plan.canvas
        out = job.canvases = np.empty((len(plan.size), height, width, 3), np.uint8)
        out[:] = plan.fill
        failures: dict[int, str] = {}
        for row in range(len(plan.index)):
            try:
                self._draw(plan, row, out[plan.slot[row]])
            except ValueError as error:
                failures[row] = str(error)
        for row in failures:
            out[plan.slot[row]] = plan.fill
        return failures

    def _draw(self, plan: BatchPlan, row: int, canvas: NDArray[np.uint8]) -> None:
        """Draw a row over the present content of a canvas (H, W, 3).

        Raises:
            ValueError: the record does not decode.
        """
        x, y, w, h = plan.clip[row].tolist()
        under, inside = canvas[y : y + h, x : x + w], np.ones((h, w), np.bool_)
        aligned = plan.warp is None or plan.is_aligned[row]
        index = int(plan.index[row])
        source = BLACK if index == FILL else Source(*_core.decode_record(self._cache.record_bytes(index)))
        if aligned:
            pixels = draw_aligned(source, plan.crop[row], (w, h), bool(plan.flip[row]))
        else:
            pixels, inside = draw_warped(source, plan.crop[row], plan.matrix[row], plan.clip[row])
        color, alpha = plan.color[row], 1.0 if plan.alpha is None else float(plan.alpha[row])
        pixels = np.clip(pixels @ color[:, :3].T.astype(np.float64) + color[:, 3], 0, 255)
        blended = np.floor(alpha * pixels + (1 - alpha) * under + 0.5).astype(np.uint8)
        np.copyto(under, blended, where=inside[..., None])

    def images(self, ticket: list[ReferenceJob], number: int) -> Tensor | None:
        """See `Engine.images`."""
        canvases, ticket[number].canvases = ticket[number].canvases, None
        return None if canvases is None else in_format(canvases, self._pixels)

    def share(self) -> ReferenceEngine:
        """See `Engine.share`. This engine has no state between batches."""
        return self

    def done(self, ticket: list[ReferenceJob], number: int) -> bool:
        """See `Engine.done`. All work is done in `wait`."""
        return False

    def close(self) -> None:
        """See `Engine.close`. There are no threads."""
