"""Formats of images: what is refused, and that kernels and `Normalize` give torch's (image - mean) / std to the bit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastload._core import testing
from fastload.engines.native import core_format
from fastload.errors import ArgumentError
from fastload.pixel_format import IMAGENET_MEAN, IMAGENET_STD, MEMORY_FORMATS, Normalize, PixelFormat

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)  # every level of every channel
PLAIN = PixelFormat(torch.float32)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
mean_values = st.tuples(*[st.floats(-1000, 1000, width=32)] * 3)
# Deviations of any size: some have a reciprocal that is no normal number.
std_values = st.tuples(st.floats(1, 300, width=32), *[st.floats(2.0**-100, 2.0**126, width=32)] * 2)
formats = st.builds(PixelFormat, st.sampled_from(FLOATS), mean_values, std_values, st.sampled_from(MEMORY_FORMATS))


def by_torch(images: Tensor, pixels: PixelFormat) -> Tensor:
    """The definition, for images (..., 3, H, W)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    return ((images.float() - mean) / std).to(pixels.dtype)


def equal_bits(one: Tensor, other: Tensor) -> bool:
    """Zeros have a sign."""
    return one.dtype == other.dtype and torch.equal(one, other) and torch.equal(one.signbit(), other.signbit())


def converted(rgb: np.ndarray, pixels: PixelFormat, level: str) -> Tensor:
    """A row (W, 3) by a kernel, as (3, W)."""
    found = torch.from_numpy(testing.convert_row(rgb, core_format(pixels), level)).view(pixels.dtype)
    return found.view(3, -1) if pixels.is_planar else found.view(-1, 3).T


@given(formats, st.integers(1, 200), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_kernels_are_torchs_formula_to_the_bit(pixels, width, random):
    """On every SIMD level, for any mean, std and width: (x.float() - mean) / std, rounded once more to the dtype."""
    rgb = np.frombuffer(random.randbytes(3 * width), np.uint8).reshape(width, 3)
    expected = by_torch(torch.tensor(rgb.T[:, None]), pixels)[:, 0]
    for level in testing.simd_levels():
        assert equal_bits(converted(rgb, pixels, level), expected), level


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", testing.simd_levels())
def test_kernels_give_every_level(dtype, level):
    """All 256 levels of each channel, with ImageNet's constants and with the defaults, which are image / 255."""
    rgb = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    row = torch.tensor(rgb.T[:, None])
    for pixels in (PixelFormat(dtype, IMAGENET_MEAN, IMAGENET_STD), PixelFormat(dtype)):
        assert equal_bits(converted(rgb, pixels, level), by_torch(row, pixels)[:, 0])
    assert equal_bits(converted(rgb, PixelFormat(dtype), level), (row[:, 0] / 255).to(dtype))


@given(formats)
@settings(deadline=None, max_examples=50)
def test_normalize_is_the_formula_to_the_bit(pixels):
    """On a CPU, from either memory format, batches and single images, in the memory format that is wanted."""
    for layout in MEMORY_FORMATS:
        found = Normalize(pixels)(LEVELS.contiguous(memory_format=layout))
        assert equal_bits(found, by_torch(LEVELS, pixels))
        assert found.is_contiguous(memory_format=pixels.memory_format)
    assert equal_bits(Normalize(pixels)(LEVELS[0]), by_torch(LEVELS[0], pixels))


@pytest.mark.parametrize("layout", MEMORY_FORMATS, ids=str)
def test_normalize_in_parts(layout):
    """Images of more rows than are made at a time."""
    images = torch.randint(256, (3, 3, 301, 7), dtype=torch.uint8)
    pixels = PixelFormat(torch.bfloat16, IMAGENET_MEAN, IMAGENET_STD, layout)
    assert equal_bits(Normalize(pixels)(images), by_torch(images, pixels))


@pytest.mark.parametrize("layout", MEMORY_FORMATS, ids=str)
def test_bytes_stay_bytes(layout):
    """uint8 images take the memory format and nothing else; floating-point images pass."""
    found = Normalize(PixelFormat(memory_format=layout))(LEVELS)
    assert torch.equal(found, LEVELS) and found.is_contiguous(memory_format=layout)
    floats = LEVELS.half()
    assert Normalize(PLAIN)(floats) is floats


@needs_gpu
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", MEMORY_FORMATS, ids=str)
def test_normalize_on_a_gpu(dtype, layout):
    """There the difference is the rounding of the constants, and one step of the dtype."""
    pixels = PixelFormat(dtype, IMAGENET_MEAN, IMAGENET_STD, layout)
    found, expected = Normalize(pixels).cuda()(LEVELS.cuda()), by_torch(LEVELS, pixels)
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found.cpu(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_formats_complete_themselves():
    """Without a dtype, mean or std ask for float32; without these, levels become 0 to 1; nothing at all is uint8."""
    assert PixelFormat().dtype == torch.uint8 and not PixelFormat().is_planar
    assert PixelFormat(std=IMAGENET_STD) == PixelFormat(torch.float32, [0, 0, 0], list(IMAGENET_STD))
    assert PixelFormat(torch.float32, std=(255, 255, 255)) == PLAIN and hash(PLAIN) == hash(PixelFormat(torch.float32))
    assert pickle.loads(pickle.dumps(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"dtype": torch.int8}, "dtype is one of"),
        ({"memory_format": torch.preserve_format}, "memory_format is one of"),
        ({"mean": (0.48, 0.45, 0.4), "std": (0.22, 0.22, 0.22)}, "multiply .* by 255"),
        ({"mean": (1.0,)}, "mean needs"),
        ({"std": (1.0, 2, 3, 4)}, "std needs"),
        ({"std": (1.0, float("nan"), 3)}, "std needs"),
        ({"std": (1.0, 0, 1)}, "above 0"),
        ({"dtype": torch.uint8, "std": (1.0, 2, 1)}, "remove mean and std"),
    ],
)
def test_impossible_formats_are_refused(arguments, complaint):
    """Values for images of 0 to 1, too few of them, deviations of zero, constants for bytes: each says what to do."""
    with pytest.raises(ArgumentError, match=complaint):
        PixelFormat(**arguments)
