"""Run lengths of masks: the same bytes and boxes as pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastload.sources.run_lengths import box_of, compress, decompress


def runs_of(mask: np.ndarray) -> np.ndarray:
    """The run lengths of a mask (H, W), by their definition."""
    pixels = mask.T.ravel().astype(np.int8)
    steps = np.flatnonzero(np.diff(pixels, prepend=0))
    return np.diff(np.concatenate([[0], steps, [pixels.size]]))


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = [np.zeros((5, 7)), np.ones((5, 7)), np.ones((1, 1)), np.eye(300), np.ones((2000, 3000))]
    for _ in range(300):
        mask = rng.random(rng.integers(1, 90, 2)) < rng.random() ** 3
        made.append(mask)
    for _ in range(30):
        mask = np.zeros(rng.integers(2, 3000, 2))
        x, y = np.sort(rng.integers(0, mask.shape[1], 2)), np.sort(rng.integers(0, mask.shape[0], 2))
        mask[y[0] : y[1] + 1, x[0] : x[1] + 1] = 1
        made.append(mask)
    return made


def test_they_are_those_of_pycocotools():
    """Bytes, runs and boxes of empty, full, speckled and large masks."""
    for mask in masks():
        expected = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        runs = runs_of(mask)
        assert compress(runs) == expected["counts"]
        assert decompress(expected["counts"]).tolist() == runs.tolist()
        x, y, width, height = coco_mask.toBbox(expected)
        assert box_of(runs, len(mask)) == (x, y, x + width, y + height)


@pytest.mark.parametrize("text", [b"\0", b"P", b"0P", b"a" * 15, b"\xff0", b"ooooooooooooooooooo0"])
def test_text_that_is_no_mask_is_an_error(text):
    """Bytes outside of the alphabet, and numbers that are cut off or too long."""
    with pytest.raises(ValueError, match="run lengths"):
        decompress(text)


def test_nothing_is_nothing():
    """No runs, no bytes, no box."""
    assert compress(np.zeros(0, np.int64)) == b"" and len(decompress(b"")) == 0
    assert box_of(np.zeros(0, np.int64), 5) == (0, 0, 0, 0)
