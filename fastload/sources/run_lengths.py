"""COCO's run lengths of masks: numbers of pixels, column by column, in turn outside and inside of the object.

The compressed form is that of pycocotools (`rleToString` in maskApi.c): the difference of each run from the one before
the last, in digits of 5 bits, the lowest first, of which all but the last have a sixth bit. A digit is written as the
character of its value + 48.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DIGITS = 13  # in 64 bits


def encode(mask: NDArray[np.bool_]) -> bytes:
    """Return the compressed run lengths of a mask (H, W)."""
    flat = np.ascontiguousarray(mask.T).reshape(-1)
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0, 0] if flat[:1].any() else [0]  # a run of no pixels comes first
    edges: NDArray[np.int64] = np.concatenate([starts, ends, [flat.size]]).astype(np.int64)
    return compress(edges[1:] - edges[:-1])


def decode(data: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) of compressed run lengths.

    Raises:
        ValueError: they are no compressed mask, or one of another size.
    """
    runs = decompress(data)
    if ((runs < 0) | (runs > height * width)).any() or runs.sum() != height * width:
        raise ValueError(f"its run lengths are not those of a mask of {width} x {height} pixels")
    ones = np.arange(len(runs)) % 2 == 1
    return np.repeat(ones, runs).reshape(width, height).T


def compress(runs: NDArray[np.int64]) -> bytes:
    """Return runs (n) in COCO's compressed form."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    shifted = values[:, None] >> np.arange(0, 5 * _DIGITS, 5)
    # A number ends with the first digit whose sign bit is that of all further digits.
    ends = (shifted >> 4 == 0) | (shifted >> 4 == -1)
    used = np.arange(_DIGITS) <= ends.argmax(1)[:, None]
    digits = (shifted & 31) | np.where(ends, 0, 32)
    return bytes((digits[used] + 48).astype(np.uint8))


def decompress(text: bytes) -> NDArray[np.int64]:
    """Return the runs (n) of a compressed mask.

    Raises:
        ValueError: `text` is no compressed mask.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits < 32)
    if len(digits) and (digits.min() < 0 or digits.max() > 63 or digits[-1] >= 32):
        raise ValueError("its run lengths are no compressed mask")
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    if np.max(ends - starts, initial=0) >= _DIGITS:
        raise ValueError("its run lengths are too large")
    position = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    values: NDArray[np.int64] = np.zeros(0, np.int64)
    if len(ends):
        values = np.add.reduceat((digits & 31) << (5 * position), starts)
    negative = (digits[ends] & 16) != 0
    values -= negative.astype(np.int64) << np.minimum(5 * (ends - starts + 1), 62)
    values[1::2], values[2::2] = values[1::2].cumsum(), values[2::2].cumsum()
    return values


def box_of(runs: NDArray[np.int64], height: int) -> tuple[int, int, int, int]:
    """Return the box x0, y0, x1, y1 around a mask of the `height`, as pycocotools' `toBbox`; zeros if it is empty."""
    ends = runs.cumsum()[: len(runs) // 2 * 2].reshape(-1, 2)
    ends = ends[ends[:, 1] > ends[:, 0]]
    if not len(ends):
        return 0, 0, 0, 0
    first, last = ends[:, 0], ends[:, 1] - 1
    x0, x1 = int(first[0] // height), int(last[-1] // height) + 1
    if np.any(first // height != last // height):
        return x0, 0, x1, height
    return x0, int((first % height).min()), x1, int((last % height).max()) + 1
