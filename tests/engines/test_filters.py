"""The filters of axis-aligned rows: Pillow's, torch's, and the reference's by the native engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastload import PlanError, _core
from fastload.cache.format.layout import Encoding
from fastload.engines.native import NativeEngine
from fastload.engines.reference import ReferenceEngine, resampling_matrix
from fastload.plan.batch_plan import FILTERS, BatchPlan
from tests.engines.test_engines import KINDS, jpeg_of_kind, noise, place_top_left, smooth
from tests.support.engines import execute, submit
from tests.support.records import cache_of, record

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
}
SIZES = [(331, 257), (331, 90), (17, 13), (800, 611), (60, 700), (166, 129), (1, 1)]


def resized(width: int, height: int, size: tuple[int, int], name: str, flip: bool = False) -> BatchPlan:
    plan = BatchPlan.of(np.array([0]), np.array([[width, height]], np.int32))
    plan.resize(np.array([size], np.int32))
    plan.flip_horizontally(np.array([flip]))
    plan.use_filter(name)
    return place_top_left(plan)


def drawn(data: bytes, plan: BatchPlan) -> np.ndarray:
    return execute(NativeEngine(cache_of([record(data)]), 0, scaled_decoding=False), plan)[0].astype(int)


def pixels_of(data: bytes) -> np.ndarray:
    """The decoded samples of a gray or RGB JPEG, as (H, W, 3)."""
    planes, _, _ = _core.decode_record(record(data))
    return np.stack(planes * (3 // len(planes)), -1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["grey", "rgb"])
@pytest.mark.parametrize("name", PILLOW)
def test_filters_are_pillows(name: str, kind: str, size: tuple[int, int]) -> None:
    """Within a level of Pillow on smooth images, and half a level on average; nearest samples are equal."""
    data = jpeg_of_kind(smooth(257, 331), kind)
    expected = np.asarray(Image.fromarray(pixels_of(data)).resize(size, PILLOW[name]))
    difference = np.abs(drawn(data, resized(331, 257, size, name)) - expected)
    assert difference.max() <= 1
    assert difference.mean() <= 0.5 or size == (1, 1)
    assert name != "nearest" or difference.max() == 0


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_bilinear_without_antialiasing_is_torchs(size: tuple[int, int], flip: bool) -> None:
    """Within rounding of F.interpolate, for noise too, whether the image is enlarged or shrunk."""
    data = jpeg_of_kind(noise(257, 331), "rgb")
    source = torch.from_numpy(pixels_of(data)).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(source, size=size[::-1], mode="bilinear")[0].permute(1, 2, 0).numpy()
    canvas = drawn(data, resized(331, 257, size, "bilinear-no-antialias", flip))
    assert np.abs(canvas - (expected[:, ::-1] if flip else expected)).max() <= 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 90), st.integers(0, 90))
@settings(max_examples=20, deadline=None)
def test_antialiasing_changes_nothing_when_enlarging(width: int, height: int, right: int, below: int) -> None:
    """The same bits with and without."""
    data, size = jpeg_of_kind(noise(height, width), "4:2:0"), (2 * width + right, 2 * height + below)
    with_it, without = (drawn(data, resized(width, height, size, name)) for name in FILTERS[:2])
    np.testing.assert_array_equal(with_it, without)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_native_is_within_a_level_of_reference(kind: str, name: str, data: st.DataObject) -> None:
    """Any subsampling, crop, scale from .05 to 20 and flip, for noise too."""
    side, scale = st.integers(1, 120), st.floats(-3, 3).map(np.exp)
    width, height = data.draw(side), data.draw(side)
    plan = BatchPlan.of(np.array([0]), np.array([[width, height]], np.int32))
    if data.draw(st.booleans()):
        left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        box = [left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))]
        plan.crop_to(np.array([box], np.int32))
    plan.resize(np.clip(plan.size * [[data.draw(scale), data.draw(scale)]], 1, 400).astype(np.int32))
    plan.flip_horizontally(np.array([data.draw(st.booleans())]))
    plan.use_filter(name)
    place_top_left(plan)
    source = data.draw(st.sampled_from([noise, smooth]))(height, width)
    cache = cache_of([record(jpeg_of_kind(source, kind), data.draw(st.sampled_from(Encoding)))])
    engines = NativeEngine(cache, 0, scaled_decoding=False), ReferenceEngine(cache)
    native, expected = (execute(engine, plan).astype(int) for engine in engines)
    assert np.abs(native - expected).max() <= 1


@pytest.mark.parametrize(("source", "size"), [((5000, 3), (250, 2)), ((3, 5000), (1, 5000)), ((5000, 1), (1, 1))])
@pytest.mark.parametrize("name", FILTERS)
def test_long_strips(name: str, source: tuple[int, int], size: tuple[int, int]) -> None:
    """Strips of 5,000 pixels are within a level of the reference, shrunk or as they are."""
    cache = cache_of([record(jpeg_of_kind(smooth(*source[::-1]), "4:2:0"))])
    plan = resized(*source, size, name)
    engines = NativeEngine(cache, 0, scaled_decoding=False), ReferenceEngine(cache)
    native, expected = (execute(engine, plan).astype(int) for engine in engines)
    assert np.abs(native - expected).max() <= 1


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
@pytest.mark.parametrize("size", [(64, 48), (13, 9), (211, 190)])
@pytest.mark.parametrize("name", FILTERS)
def test_even_images_keep_their_level(name: str, size: tuple[int, int], level: int) -> None:
    """Weights sum to one: no filter brightens, darkens or overflows."""
    data = jpeg_of_kind(np.full((48, 64, 3), level, np.uint8), "rgb")
    assert (drawn(data, resized(64, 48, size, name)) == level).all()


def test_bicubic_overshoots_and_is_clipped() -> None:
    """Beside a sharp edge the cubic is steeper than the line, without wrapping around at black and white."""
    half = np.repeat(np.array([0, 255], np.uint8), 16)[None].repeat(32, 0)
    for edge in (half, half.T, 255 - half):
        data = jpeg_of_kind(np.repeat(edge[..., None], 3, 2), "rgb")
        expected = np.asarray(Image.fromarray(pixels_of(data)).resize((150, 150), PILLOW["bicubic"]))
        assert np.abs(drawn(data, resized(32, 32, (150, 150), "bicubic")) - expected).max() <= 1


@pytest.mark.parametrize("name", FILTERS)
def test_rows_of_the_matrix_sum_to_one(name: str) -> None:
    """Also where the crop reaches beyond the source."""
    for start, extent in ((0, 20), (-30, 90), (19.5, 0.1), (-5, 2)):
        np.testing.assert_allclose(resampling_matrix(20, 7, start, extent, name).sum(1), 1)


@pytest.mark.parametrize("engine", [NativeEngine, ReferenceEngine])
def test_other_filters_are_refused(engine: type) -> None:
    """A number that names no filter is an error before anything is decoded."""
    plan = resized(20, 10, (20, 10), "nearest")
    plan.filter = np.array([len(FILTERS)], np.uint8)
    with pytest.raises(PlanError, match="filter is not a position in FILTERS"):
        submit(engine(cache_of([record(jpeg_of_kind(smooth(10, 20), "rgb"))]), 0), plan)
