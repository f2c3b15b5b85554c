"""Masks as run lengths: the bytes of pycocotools, and errors for damaged ones."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastload.sources.run_lengths import decode, encode


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 9), (9, 1), (48, 64), (3, 2), (200, 333)]
    random = [rng.random(shape) < share for shape in shapes for share in (0, 0.01, 0.5, 0.99, 1)]
    square = np.zeros((1200, 1600), bool)
    square[100:900, 50:1500] = True
    return [*random, square, ~square]


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: f"{mask.shape}-{mask.sum()}")
def test_the_bytes_are_those_of_pycocotools(mask):
    """A mask becomes the bytes that pycocotools writes, and comes back from them."""
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert encode(mask) == theirs
    assert np.array_equal(decode(theirs, *mask.shape), mask)


def test_an_empty_mask():
    """A mask without pixels has a run of none."""
    assert decode(encode(np.zeros((0, 5), bool)), 0, 5).shape == (0, 5)
    assert decode(b"", 0, 0).shape == (0, 0)


@pytest.mark.parametrize("data", [b"", b"1", b"\x10", b"~", b"PPPP", b"P" * 20 + b"0", b"1O1", b"5"])
def test_damaged_run_lengths_are_an_error(data):
    """Bytes that are no run lengths, or of another size, are refused."""
    with pytest.raises(ValueError, match="run lengths"):
        decode(data, 2, 2)
