"""The detectors' benchmarks: every network is measured, at every batch size."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.test_benchmark import run


@pytest.mark.parametrize("preset", ["fcos_r18_bifpn", "centernet_r18_rt"])
def test_inference_is_timed_whatever_the_head(tmp_path, preset):
    """Forward and post-processing of each form, with more candidates where more points pass."""
    path = tmp_path / "inference.json"
    small = ("--size", "64", "--rounds", "1", "--batch-size", "1", "2", "--passing", "0.1", "0.5")
    done = run("inference.py", "--preset", preset, *small, "--json", path)
    assert done.returncode == 0, done.stderr
    networks = json.loads(path.read_text())["networks"]
    assert {f"{preset}, fp32", f"{preset}, batch norm fused, fp32"} <= set(networks)
    for figures in networks.values():
        assert list(figures) == ["batch 1", "batch 2"]
        for batch in figures.values():
            few, many = batch["post-processing"]
            assert batch["forward_ms"] > 0 and few["ms"] > 0 and 0 < few["candidates"] < many["candidates"]
