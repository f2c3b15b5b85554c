"""The reference engine: the specification of plans, in NumPy. It is slow and written to be read.

It interpolates the decoded Y, Cb and Cr planes in floating point, then converts to RGB. A row with a warp is drawn
axis-aligned first, as a *tile*, whose pixels are then interpolated. Pillow converts first and interpolates afterwards,
which differs in rounding, in clipping and in the upsampling of subsampled chroma: by a fraction of a level on average,
and by more in single saturated pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastload import _core
from fastload.engines import adjust
from fastload.engines.validate import check_plan, check_whole
from fastload.pixel_format import PixelFormat
from fastload.plan.batch_plan import ADJUST, AUTOCONTRAST, EQUALIZE, FILL, FILTERS, NO_TABLE, BatchPlan
from fastload.plan.geometry import unmap_points

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache

# By how much chroma is smaller than luma in (x, y), for each of TurboJPEG's subsampling numbers.
CHROMA_DIVISOR = ((1, 1), (2, 1), (2, 2), (1, 1), (1, 2), (4, 1))

# ITU-T T.871 (JFIF): RGB from Y, Cb - 128, Cr - 128.
YCBCR_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])

TILE_PIXELS = 1 << 27  # of one warped row: the native engine draws only the visible part


def resampling_matrix(
    source: int, size: int, start: float, extent: float, filter: str = "bilinear"
) -> NDArray[np.float64]:
    """Return weights (size, source) that resample the interval [start, start + extent) of `source` samples to `size`.

    "bilinear" and "bicubic" are Pillow's BILINEAR and BICUBIC: a triangle of radius 1 and Keys' cubic (a = -0.5) of
    radius 2, both as many times larger as the interval shrinks, normalized over the samples within the source.
    "bilinear-no-antialias" does not enlarge the triangle. "nearest" takes the sample that contains the center.
    """
    center = start + (np.arange(size) + 0.5) * extent / size
    middle = np.arange(source) + 0.5
    if filter == "nearest":
        chosen: NDArray[np.int64] = np.clip(np.floor(center), 0, source - 1).astype(np.int64)
        return np.eye(source)[chosen]
    scale = 1.0 if filter == "bilinear-no-antialias" else max(extent / size, 1.0)
    margin = 0.5 if scale == 1 and filter != "bicubic" else 0  # between samples the outermost are repeated
    distance = np.abs(middle - np.clip(center, margin, source - margin)[:, None]) / scale
    weights: NDArray[np.float64] = _cubic(distance) if filter == "bicubic" else np.maximum(0, 1 - distance)
    weights /= weights.sum(1, keepdims=True)
    return weights


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -0.5 (Cubic convolution interpolation for digital image processing, 1981)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


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


def draw_aligned(
    source: Source, crop: NDArray[np.float32], size: tuple[int, int], flip: bool, filter: str = "bilinear"
) -> NDArray[np.float64]:
    """Resample `crop` (x, y, w, h) of a source to `size` (width, height) and return RGB (h, w, 3).

    Between x and y samples are clipped to 0 to 255, as Pillow does: bicubic may leave this range.
    """
    width, height = size
    samples = []
    for c, plane in enumerate(source.planes):
        x, y, w, h = crop.astype(np.float64) / np.array(source.divisor(c) * 2)
        across = resampling_matrix(plane.shape[1], width, x, w, filter)
        down = resampling_matrix(plane.shape[0], height, y, h, filter)
        samples.append(down @ np.clip(plane @ across.T, 0, 255))
    pixels = source.to_rgb(samples)
    return pixels[:, ::-1] if flip else pixels


def covered(plan: BatchPlan, row: int) -> NDArray[np.bool_]:
    """Return which pixels (H, W) of its canvas a row covers: of its clip those whose centers lie in its crop."""
    width, height = plan.canvas
    x, y, w, h = plan.clip[row].tolist()
    mask = np.zeros((height, width), np.bool_)
    inside = mask[y : y + h, x : x + w]
    if _is_aligned(plan, row):
        inside[:] = True
    else:
        crop, points = plan.crop[row].astype(np.float64), source_points(plan, row)
        inside[:] = ((points >= crop[:2]) & (points < crop[:2] + crop[2:])).all(-1)
    return mask


def source_points(plan: BatchPlan, row: int) -> NDArray[np.float64]:
    """Return the points (h, w, 2) of a warped row's source that the centers of its clip's pixels show."""
    x, y, w, h = plan.clip[row].tolist()
    centers = np.stack(np.meshgrid(x + np.arange(w) + 0.5, y + np.arange(h) + 0.5), -1)
    points: NDArray[np.float64] = unmap_points(plan.matrix[row].astype(np.float64), centers)
    return points


def tile_size(crop: NDArray[np.float32], matrix: NDArray[np.float32], filter: str) -> tuple[int, int]:
    """Return the size (width, height) at which a warped row's crop is drawn before it is sampled.

    A tile has one pixel for each source pixel, or for each canvas pixel along an axis of the source that shrinks, so
    that shrinking is antialiased by the separable filter. For "nearest" it has the source's pixels.
    """
    scale = np.hypot(*matrix[:, :2].astype(np.float64))  # canvas pixels per source pixel, along x and y of the source
    limit = np.ones(2) if filter == "nearest" else np.minimum(scale, 1.0)
    width, height = (max(round(length * s), 1) for length, s in zip(crop[2:].tolist(), limit, strict=True))
    return width, height


def interpolated(pixels: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate pixels (H, W, 3) bilinearly at positions x, y (h, w). The outermost repeat beyond the edges."""
    height, width = pixels.shape[:2]
    x, y = np.clip(x - 0.5, 0, width - 1)[..., None], np.clip(y - 0.5, 0, height - 1)[..., None]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)

    def at(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.uint8]:
        return pixels[row[..., 0], column[..., 0]]

    upper = at(top, left) * (left + 1 - x) + at(top, right) * (x - left)
    lower = at(bottom, left) * (left + 1 - x) + at(bottom, right) * (x - left)
    values: NDArray[np.float64] = upper * (top + 1 - y) + lower * (y - top)
    return values


def nearest(pixels: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) that contain the positions x, y (h, w)."""
    row, column = (
        np.clip(np.floor(at), 0, size - 1).astype(int) for at, size in zip((y, x), pixels.shape, strict=False)
    )
    taken: NDArray[np.uint8] = pixels[row, column]
    return taken


def mixed(over: NDArray[np.uint8], under: NDArray[np.uint8], alpha: float) -> NDArray[np.uint8]:
    """Blend pixels over others with an opacity, which is rounded to 1/256."""
    share = int(alpha * 256 + 0.5)
    blended: NDArray[np.uint8] = (over.astype(int) * share + under.astype(int) * (256 - share) + 128 >> 8).astype(
        np.uint8
    )
    return blended


def adjusted(pixels: NDArray[np.uint8], plan: BatchPlan, row: int) -> NDArray[np.uint8]:
    """Return pixels (M, 3), all that an ADJUST row covers, with the row's colors."""
    pixels = adjust.recolored(pixels, plan.color[row])
    if plan.hsv is not None:
        pixels = adjust.hsv_changed(pixels, plan.hsv[row])
    table = NO_TABLE if plan.table is None else int(plan.table[row])
    if table == NO_TABLE or not len(pixels):
        return pixels
    if table == AUTOCONTRAST:
        return adjust.looked_up(pixels, adjust.autocontrast_table(pixels))
    if table == EQUALIZE:
        return adjust.looked_up(pixels, adjust.equalize_table(pixels))
    assert plan.tables is not None
    return adjust.looked_up(pixels, plan.tables[table])


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
        check_whole(plan)
        self._cache.ensure(plan.index[plan.index >= 0])
        return [ReferenceJob(batch) for batch in plan.split(ends)]

    def wait(self, ticket: list[ReferenceJob], number: int) -> dict[int, str]:
        """See `Engine.wait`."""
        job = ticket[number]
        plan = job.plan
        width, height = plan.canvas
        out = job.canvases = np.empty((len(plan.size), height, width, 3), np.uint8)
        failures: dict[int, str] = {}
        for slot, canvas in enumerate(out):
            canvas[:] = plan.fill
            first, end = plan.slot.searchsorted([slot, slot + 1]).tolist()
            failed = self._draw(plan, range(first, end), canvas)
            if failed:
                canvas[:] = plan.fill
            failures |= failed
        return failures

    def _draw(self, plan: BatchPlan, rows: range, canvas: NDArray[np.uint8]) -> dict[int, str]:
        """Draw rows over the present content of a canvas (H, W, 3).

        Returns:
            Why rows could not be drawn.
        """
        failures: dict[int, str] = {}
        for layer, run in groupby(rows, lambda row: 0 if plan.layer is None else int(plan.layer[row])):
            if layer == 0:
                failures |= self._draw_rows(plan, run, canvas)
                continue
            ground, *others = run
            mask, content = covered(plan, ground), np.empty_like(canvas)
            content[mask] = self._shown(plan, ground, content, mask)
            failures |= self._draw_rows(plan, others, content, mask)
            canvas[mask] = mixed(content[mask], canvas[mask], _alpha(plan, ground))
        return failures

    def _draw_rows(
        self,
        plan: BatchPlan,
        rows: Iterable[int],
        canvas: NDArray[np.uint8],
        limit: NDArray[np.bool_] | Literal[True] = True,
    ) -> dict[int, str]:
        """Draw rows one after another over a canvas (H, W, 3), where the mask `limit` (H, W) is set."""
        failures: dict[int, str] = {}
        for row in rows:
            mask = covered(plan, row) & limit
            try:
                pixels = self._shown(plan, row, canvas, mask)
            except ValueError as error:
                failures[row] = str(error)
            else:
                canvas[mask] = mixed(pixels, canvas[mask], _alpha(plan, row))
        return failures

    def _shown(
        self, plan: BatchPlan, row: int, canvas: NDArray[np.uint8], mask: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """Return what a row shows where `mask` is set: (M, 3).

        Raises:
            ValueError: the record does not decode, or is too large for a warp.
        """
        index, color = int(plan.index[row]), plan.color[row]
        if index == FILL:
            return adjust.recolored(np.zeros((int(mask.sum()), 3)), color)
        if index == ADJUST:
            return adjusted(canvas[mask], plan, row)
        source = Source(*_core.decode_record(self._cache.record_bytes(index)))
        crop, (x, y, w, h) = plan.crop[row], plan.clip[row].tolist()
        if _is_aligned(plan, row):
            drawn = draw_aligned(source, crop, (w, h), bool(plan.flip[row]), _filter(plan, row))
            pixels = adjust.recolored(drawn, color)
        else:
            filter = _filter(plan, row)
            size = tile_size(crop, plan.matrix[row], filter)
            if size[0] * size[1] > TILE_PIXELS:
                raise ValueError("it is too large to be rotated or sheared: reduce it first")
            tile = adjust.recolored(draw_aligned(source, crop, size, False, filter), color)
            place = np.moveaxis((source_points(plan, row) - crop[:2]) * (size / crop[2:].astype(np.float64)), -1, 0)
            pixels = nearest(tile, *place) if filter == "nearest" else adjust.to_levels(interpolated(tile, *place))
        return pixels[mask[y : y + h, x : x + w]]

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


def _is_aligned(plan: BatchPlan, row: int) -> bool:
    return plan.warp is None or bool(plan.is_aligned[row])


def _filter(plan: BatchPlan, row: int) -> str:
    return FILTERS[0 if plan.filter is None else plan.filter[row]]


def _alpha(plan: BatchPlan, row: int) -> float:
    return 1.0 if plan.alpha is None else float(plan.alpha[row])
