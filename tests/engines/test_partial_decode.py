"""The native engine decodes only what is shown of an image, at a smaller size if it shrinks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload import _core
from fastload._core import testing
from fastload.cache.format.layout import Encoding
from fastload.plan.batch_plan import FILTERS
from tests.csrc.test_dct import JPEGS, opencv_jpeg, picture
from tests.engines.test_engines import KINDS, jpeg_of_kind, smooth
from tests.plan.test_geometry import rotation
from tests.support.records import record

LEVELS = testing.simd_levels()  # the last one is "scalar"
FILES = {path.stem: path.read_bytes() for path in JPEGS}
SOURCES = (*KINDS, "restarts", *FILES)


@cache
def source(kind: str, width: int, height: int, encoding: Encoding) -> tuple[bytes, int, int]:
    """A record, and its size."""
    if kind in FILES:
        made = record(FILES[kind], encoding)
    elif kind == "restarts":
        made = record(opencv_jpeg(picture(height, width), "420", restart=3), encoding)
    else:
        made = record(jpeg_of_kind(picture(height, width), kind), encoding)
    return made, int.from_bytes(made[8:12], "little"), int.from_bytes(made[12:16], "little")


@dataclass
class Row:
    """The arguments of `testing.draw_row`."""

    record: bytes
    crop: np.ndarray
    clip: np.ndarray
    flip: bool = False
    filter: int = 0
    warp: np.ndarray | None = None
    level: str = LEVELS[0]
    whole: bool = False
    scaled: bool = False
    poison: int = 0

    def drawn(self, **changes: object) -> np.ndarray:
        """Its pixels (H, W, 3) after changes of arguments."""
        return testing.draw_row(**vars(replace(self, **changes)))


def random_row(kind: str, encoding: Encoding, seed: int, warped: bool, most: float = 3) -> Row:
    """A part of an image, mostly within it, drawn in a size of up to twice its own, or `most` times smaller."""
    rng = np.random.default_rng(seed)
    data, width, height = source(kind, *(int(side) for side in rng.integers(1, 150, 2)), encoding)
    size = np.array([width, height])
    extent = size * rng.uniform(0.02, 1, 2)
    start = rng.uniform(-0.2, 1.2, 2) * (size - extent) if rng.random() < 0.9 else rng.uniform(-2, 3, 2) * size
    drawn = np.clip(np.ceil(extent / np.exp(rng.uniform(-0.7, np.log(most), 2))), 1, 400)
    row = Row(
        data, np.concatenate([start, extent]).astype(np.float32), np.concatenate([rng.integers(0, 9, 2), drawn]),
        bool(rng.integers(2)), int(rng.integers(len(FILTERS))),
    )  # fmt: skip
    row.clip = row.clip.astype(np.int32)
    if warped:
        row.flip = False
        linear = rotation(rng.uniform(0, 360))[:, :2] @ np.diag(drawn / extent)
        shift = row.clip[:2] + drawn * rng.uniform(0, 1, 2) - linear @ (start + extent * rng.uniform(0, 1, 2))
        row.warp = np.column_stack([linear, shift]).astype(np.float32)
    return row


@pytest.mark.parametrize("kind", SOURCES)
@given(st.sampled_from(Encoding), st.integers(0, 1 << 30), st.booleans(), st.sampled_from(LEVELS))
@settings(max_examples=40, deadline=None)
def test_what_is_not_shown_need_not_be_decoded(
    kind: str, encoding: Encoding, seed: int, warped: bool, level: str
) -> None:
    """Any crop, filter, flip and warp of any image: the same bits as if all of it was decoded."""
    row = random_row(kind, encoding, seed, warped)
    expected = row.drawn(whole=True, level=LEVELS[-1])
    for poison in (0, 255):
        np.testing.assert_array_equal(row.drawn(poison=poison, level=level), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", [Encoding.DCT, Encoding.DCT_FAST])
def test_streams_are_decoded_to_the_end_of_what_is_shown(encoding: Encoding, kind: str) -> None:
    """Bands at any height of a larger image of odd size, whose coded streams end within any of their four parts."""
    data, width, height = source(kind, 451, 613, encoding)
    for bottom in range(5, height + 40, 41):
        top = max(bottom - 64, 0)
        crop = np.array([3, top, width - 9, bottom - top], np.float32)
        row = Row(data, crop, np.array([0, 0, width - 9, bottom - top], np.int32))
        expected = row.drawn(whole=True, level=LEVELS[-1])
        for level in LEVELS:
            np.testing.assert_array_equal(row.drawn(poison=255, level=level), expected)


def test_damage_below_what_is_shown_does_no_harm() -> None:
    """Bits flipped in a packed image: its upper part may be drawn as before, though all of it is refused."""
    data, width, _ = source("4:2:0", 451, 613, Encoding.DCT)
    upper = Row(data, np.array([0, 0, width, 60], np.float32), np.array([0, 0, width, 60], np.int32))
    expected, rng, outcomes = upper.drawn(), np.random.default_rng(0), set()
    for place in rng.integers(len(data) // 4, len(data) - 64, 200):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        row = replace(upper, record=bytes(damaged))
        outcomes.add((drawn_or_refused(row, expected), drawn_or_refused(replace(row, whole=True), expected)))
    assert {("same", "same"), ("same", "refused"), ("refused", "refused")} <= outcomes
    assert not outcomes & {("refused", "same"), ("refused", "changed"), ("changed", "same")}


def drawn_or_refused(row: Row, expected: np.ndarray) -> str:
    """Say "same" if a row has the expected pixels, else "changed", and "refused" if its record is damaged."""
    try:
        return "same" if np.array_equal(row.drawn(), expected) else "changed"
    except _core.DctError:
        return "refused"


@pytest.mark.parametrize("kind", SOURCES)
@given(st.sampled_from(Encoding), st.integers(0, 1 << 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_smaller_sizes_are_the_same_at_all_levels(kind: str, encoding: Encoding, seed: int, warped: bool) -> None:
    """Images that shrink by up to 20: every set of vector instructions gives the same bits, all of them decoded."""
    row = random_row(kind, encoding, seed, warped, most=20)
    expected = row.drawn(scaled=True, level=LEVELS[-1])
    for level in LEVELS:
        np.testing.assert_array_equal(row.drawn(scaled=True, poison=255, level=level), expected)


@pytest.mark.parametrize("shrink", [2.9, 3, 3.3, 4, 6, 8, 13])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", [Encoding.ORIGINAL, Encoding.DCT, Encoding.DCT_FAST])
def test_a_smaller_size_is_close_to_the_exact_resize(encoding: Encoding, kind: str, shrink: float) -> None:
    """Smooth images of odd sizes: a few levels from the full decode; the same bits if they shrink by less than 3."""
    size = np.array([331, 257])
    data = record(jpeg_of_kind(smooth(257, 331), kind), encoding)
    drawn = np.round(size / shrink).astype(np.int32)
    row = Row(data, np.array([0, 0, *size], np.float32), np.array([0, 0, *drawn], np.int32))
    most, mean = (6, 0.8) if shrink < 8 else (20, 3)  # the source's features are two pixels wide then
    for name in ("bilinear", "bicubic"):
        row.filter = FILTERS.index(name)
        difference = np.abs(row.drawn(scaled=True).astype(int) - row.drawn(whole=True))
        assert difference.max() <= most and difference.mean() <= mean, (name, difference.max(), difference.mean())
        assert shrink >= 3 or not difference.any()


@pytest.mark.parametrize("name", ["nearest", "bilinear-no-antialias"])
def test_filters_without_antialiasing_never_use_a_smaller_size(name: str) -> None:
    """What they draw are samples of the image at its own size."""
    data = record(jpeg_of_kind(picture(257, 331), "4:2:0"), Encoding.DCT)
    row = Row(data, np.array([0, 0, 331, 257], np.float32), np.array([0, 0, 60, 50], np.int32))
    row.filter = FILTERS.index(name)
    np.testing.assert_array_equal(row.drawn(scaled=True), row.drawn(whole=True))


def test_both_axes_must_shrink() -> None:
    """An image that shrinks on one axis only is decoded at its own size."""
    data = record(jpeg_of_kind(picture(257, 331), "4:4:4"), Encoding.DCT)
    row = Row(data, np.array([0, 0, 331, 257], np.float32), np.array([0, 0, 60, 240], np.int32))
    np.testing.assert_array_equal(row.drawn(scaled=True), row.drawn(whole=True))
