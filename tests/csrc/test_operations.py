"""Pooling and suppression in the core, under sanitizers, and what they refuse."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from fastload import _core
from tests.support.native_programs import BOUNDS, POOL, RACES, build_program


@pytest.mark.parametrize(("sanitizer", "rounds"), [(BOUNDS, 3000), (RACES, 300)])
def test_boxes_of_every_kind_under_sanitizers(tmp_path, sanitizer, rounds):
    """Batches with boxes that are empty, endless, huge or not numbers: no report, and means are means."""
    program = build_program("operations", tmp_path, POOL, sanitizer)
    run = subprocess.run([program, str(rounds), "1"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == "done\n", run.stderr[-5000:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((2, 5, 3), np.float32)}, "boxes are"),
        ({"valid": np.zeros((2, 4), bool)}, "valid is"),
        ({"out": np.zeros((2, 5, 7, 6, 4), np.float32)}, "bins are"),
        ({"out": np.zeros((2, 5, 0, 0, 4), np.float32)}, "size is"),
        ({"out": np.zeros((2, 5, 7, 7, 3), np.float32)}, "levels are"),
        ({"levels": [np.zeros((1, 6, 8, 4), np.float32)]}, "levels are"),
        ({"levels": [np.zeros((2, 0, 8, 4), np.float32)]}, "levels have cells"),
        ({"levels": []}, "has a stride"),
        ({"strides": [0]}, "strides are"),
        ({"samples": 257}, "samples is"),
    ],
)
def test_shapes_are_checked_before_anything_is_read(change, message):
    """The core relies on nobody's checks but its own."""
    arguments = {
        "levels": [np.zeros((2, 6, 8, 4), np.float32)],
        "boxes": np.zeros((2, 5, 4), np.float32),
        "valid": np.zeros((2, 5), bool),
        "strides": [8],
        "samples": 2,
        "threads": 1,
        "out": np.zeros((2, 5, 7, 7, 4), np.float32),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        _core.roi_align(**arguments)
    with pytest.raises(ValueError, match=message):
        _core.roi_align_backward(grad=arguments.pop("out"), **arguments)


@pytest.mark.parametrize(
    "out", [np.zeros((2, 5, 7, 7, 4)), np.zeros((2, 5, 4, 7, 7), np.float32).transpose(0, 1, 3, 4, 2)]
)
def test_results_are_not_written_to_a_copy(out):
    """An array of another type or order is refused."""
    levels, boxes, valid = [np.zeros((2, 6, 8, 4), np.float32)], np.zeros((2, 5, 4), np.float32), np.zeros((2, 5), bool)
    with pytest.raises(TypeError):
        _core.roi_align(levels, boxes, valid, [8], 2, 1, out)
