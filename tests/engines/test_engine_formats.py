"""Every engine in every format of images: its own uint8 batch, converted by torch, to the bit."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastload.engines.native import NativeEngine
from fastload.pixel_format import DTYPES, IMAGENET_MEAN, IMAGENET_STD, MEMORY_FORMATS, PixelFormat
from fastload.plan.batch_plan import BatchPlan
from tests.engines.test_engine_parity import case
from tests.engines.test_engines import place_top_left, smooth, whole
from tests.support.engines import ENGINES, open_engine, submit
from tests.support.records import cache_of, jpeg, record
from tests.test_pixel_format import by_torch, equal_bits

NAMES = ("everything", "mosaic", "to a third")
BYTES = PixelFormat()
FORMATS = [
    PixelFormat(dtype, *((None, None) if dtype == torch.uint8 else (IMAGENET_MEAN, IMAGENET_STD)), layout)
    for dtype, layout in product(DTYPES, MEMORY_FORMATS)
]
formats = pytest.mark.parametrize("pixels", FORMATS, ids=lambda p: f"{p.dtype} {p.memory_format}".replace("torch.", ""))


def images(name: str, cache: Any, plan: BatchPlan, pixels: PixelFormat, threads: int = 2) -> tuple[Tensor, list[int]]:
    """A plan of one batch, and the rows that failed."""
    engine = open_engine(name, cache, threads, pixels)
    ticket = submit(engine, plan)
    failures = engine.wait(ticket, 0)
    found = engine.images(ticket, 0)
    assert found is not None and found.dtype == pixels.dtype
    assert found.is_contiguous(memory_format=pixels.memory_format)
    return found, sorted(failures)


def expected_of(levels: Tensor, pixels: PixelFormat) -> Tensor:
    return levels if pixels.dtype == torch.uint8 else by_torch(levels, pixels)


@formats
@pytest.mark.parametrize("engine", ENGINES)
def test_formats_are_the_bytes_converted(engine: str, pixels: PixelFormat) -> None:
    """Crops, colours, padding, rows of several pictures and empty slots."""
    for name in NAMES:
        data, plan = case(name)
        cache = cache_of([record(one) for one in data])
        (levels, _), (found, failed) = (images(engine, cache, plan, each) for each in (BYTES, pixels))
        assert equal_bits(found, expected_of(levels, pixels)) and not failed


@formats
@pytest.mark.parametrize("engine", ENGINES)
def test_what_fails_holds_the_fill(engine: str, pixels: PixelFormat) -> None:
    """A record that does not decode leaves its slot in the fill color, in the format; its neighbors are whole."""
    records = [record(jpeg(smooth(24, 40, i))) for i in range(3)]
    plan = place_top_left(whole([(40, 24)] * 3))
    (levels, _) = images(engine, cache_of(records), plan, BYTES)
    records[1] = records[1][:-9]
    found, failed = images(engine, cache_of(records), plan, pixels)
    fill = torch.tensor(plan.fill.tolist(), dtype=torch.uint8).view(3, 1, 1).expand(3, *plan.canvas[::-1])
    levels = torch.stack([levels[0], fill, levels[2]])
    assert failed == [1] and equal_bits(found, expected_of(levels, pixels))


@formats
@pytest.mark.parametrize("width", [1, 5, 16, 21, 43, 96, 131])
def test_rows_may_begin_anywhere(width: int, pixels: PixelFormat) -> None:
    """Canvases whose rows do not begin at a vector's boundary, of any remainder."""
    data = record(jpeg(smooth(9, 131)))
    plan = BatchPlan.of(np.zeros(2, np.int64), np.full((2, 2), (131, 9), np.int32))
    plan.resize(np.full((2, 2), (width, 9), np.int32))
    plan.place((width, 11), np.zeros((2, 2), np.int32), np.array([1, 2, 3], np.uint8))
    (levels, _), (found, _) = (images("native", cache_of([data]), plan, each) for each in (BYTES, pixels))
    assert equal_bits(found, expected_of(levels, pixels))


@formats
def test_memory_of_other_alignment(pixels: PixelFormat) -> None:
    """Memory that begins at an odd address is filled all the same, and not a byte before or behind it."""
    plan = place_top_left(whole([(40, 24)] * 2))
    cache = cache_of([record(jpeg(smooth(24, 40, i))) for i in range(2)])
    made: list[np.ndarray] = []

    def odd(size: int) -> np.ndarray:
        made.append(np.full(size + 96, 77, np.uint8))
        return made[-1][33 : 33 + size]

    engine = NativeEngine(cache, 0, allocate=odd, pixels=pixels)
    ticket = submit(engine, plan)
    assert engine.wait(ticket, 0) == {} and engine.images(ticket, 0) is not None
    expected = expected_of(images("native", cache, plan, BYTES)[0], pixels)
    memory = next(memory for memory in made if (memory[33:-63] != 77).any())
    assert (memory[:33] == 77).all() and (memory[-63:] == 77).all()
    stored = expected if pixels.is_planar else expected.permute(0, 2, 3, 1)
    assert memory[33:-63].tobytes() == stored.contiguous().view(torch.uint8).numpy().tobytes()
