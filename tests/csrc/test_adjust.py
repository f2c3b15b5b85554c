"""The core's kernels that change the colors of pixels: one result on all levels, close to the specification."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fastload._core import testing
from fastload.engines import adjust
from tests.engines.test_adjust import images

LEVELS = testing.simd_levels()
CHANGES = {
    "all": (0.1, 0.8, 0.05, 1.2, -3),
    "hue": (0.013, 1, 0, 1, 0),
    "half-a-turn": (0.5, 1.7, 0, 1.4, 0),
    "many-turns": (-7.3, 8, -1, 8, -800),
    "saturation": (0, 1.3, -0.05, 0.9, 4.2),
    "saturation-of-gray": (0, 1, 0.1, 1, 0),
    "value": (0, 1, 0, 0.8, 10.3),
    "nothing": (0, 1, 0, 1, 0),
    "yolox": (5 / 180, 1, 30 / 255, 1, -30),
    "gray": (0.2, 0, 0, 1, 0),
    "black": (0, 1, 0, 0, 0),
    "full": (0.3, 0, 1, 0, 255),
}


def many_colors() -> NDArray[np.uint8]:
    """Every third level of each channel, and all pairs of a value and a chroma in all sectors of the hue."""
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    high, low = np.tril_indices(256)
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]])
    edges = np.where(corners, high[:, None, None], low[:, None, None]).astype(np.uint8).reshape(-1, 3)
    return np.concatenate([grid, edges])


COLORS = many_colors()


def hsv_of(name: str) -> NDArray[np.float32]:
    return np.array(CHANGES[name], np.float32)


def random_color(rng: np.random.Generator, limit: float) -> NDArray[np.float32]:
    factors, offset = rng.uniform(-limit, limit, (3, 3)), rng.uniform(-100, 100, (3, 1))
    return np.concatenate([factors, offset], 1).astype(np.float32)


@pytest.mark.parametrize("name", CHANGES)
def test_hsv_differs_from_the_specification_by_a_level_at_most(name: str) -> None:
    """Rarely, too: by a rounding error that is far below half a level."""
    found = testing.adjust_hsv(COLORS, hsv_of(name), "scalar").astype(int)
    difference = np.abs(found - adjust.hsv_changed(COLORS, hsv_of(name)))
    assert difference.max() <= 1
    assert (difference > 0).mean() < (0.05 if name == "saturation-of-gray" else 0.01)  # where many results are halves


@pytest.mark.parametrize("kept", [(0, 1, 0, 1, 0), (1, 1, 0, 1, 0), (0, 1, -1e-9, 1, 0), (1e-9, 1, 1e-9, 1, 1e-9)])
def test_hsv_without_a_change_keeps_pixels(kept: tuple[float, ...]) -> None:
    """No kind of change adds an error of its own."""
    assert (testing.adjust_hsv(COLORS, np.array(kept, np.float32), "scalar") == COLORS).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHANGES)
def test_hsv_has_the_same_bits_on_all_levels(name: str, level: str) -> None:
    """For every quotient that occurs."""
    expected = testing.adjust_hsv(COLORS, hsv_of(name), "scalar")
    assert (testing.adjust_hsv(COLORS, hsv_of(name), level) == expected).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("limit", [0.5, 1.2, 3, 8])
def test_recolor_differs_from_the_specification_by_a_level_at_most(limit: float, level: str) -> None:
    """For factors of any size, with the same bits on all levels."""
    rng = np.random.default_rng(3)
    for _ in range(4):
        color = random_color(rng, limit)
        found = testing.recolor(COLORS, color, level)
        difference = np.abs(found.astype(int) - adjust.recolored(COLORS, color))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.005
        assert (found == testing.recolor(COLORS, color, "scalar")).all()


@pytest.mark.parametrize("level", LEVELS)
def test_the_largest_matrix_does_not_overflow(level: str) -> None:
    """Factors of 8 and offsets of 2048, of either sign."""
    for sign in (1, -1):
        color = np.array([[8 * sign] * 3 + [2048 * sign]] * 3, np.float32)
        assert (testing.recolor(COLORS, color, level) == (255 if sign > 0 else 0)).all()


@pytest.mark.parametrize("level", LEVELS)
def test_look_up_replaces_levels(level: str) -> None:
    """By the table of each channel."""
    table = np.random.default_rng(4).integers(0, 256, (3, 256), dtype=np.uint8)
    assert (testing.look_up(COLORS, table, level) == adjust.looked_up(COLORS, table)).all()


@pytest.mark.parametrize("level", LEVELS)
def test_any_number_of_pixels_is_changed(level: str) -> None:
    """Rows that end within a vector, and rows without a pixel."""
    table = np.arange(768, dtype=np.uint8).reshape(3, 256)[:, ::-1].copy()
    color = random_color(np.random.default_rng(6), 2)
    for count in range(140):
        row = COLORS[1000 : 1000 + count].copy()
        assert (testing.adjust_hsv(row, hsv_of("all"), level) == testing.adjust_hsv(row, hsv_of("all"), "scalar")).all()
        assert (testing.recolor(row, color, level) == testing.recolor(row, color, "scalar")).all()
        assert (testing.look_up(row, table, level) == adjust.looked_up(row, table)).all()


@pytest.mark.parametrize("number", range(len(images())))
def test_tables_are_those_of_the_specification(number: int) -> None:
    """Of autocontrast and equalize, which are those of Pillow."""
    pixels = images()[number].reshape(-1, 3)
    assert (testing.autocontrast_table(pixels) == adjust.autocontrast_table(pixels)).all()
    assert (testing.equalize_table(pixels) == adjust.equalize_table(pixels)).all()


def test_autocontrast_is_that_of_the_specification_for_all_ranges() -> None:
    """Double precision is rounded alike, for every lowest and highest level."""
    for low in range(0, 256, 5):
        for high in range(low, 256, 3):
            pixels = np.array([[low, high, low], [high, low, low]], np.uint8)
            assert (testing.autocontrast_table(pixels) == adjust.autocontrast_table(pixels)).all()
