"""The detectors' benchmarks: every network is measured, at every batch size."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tests.benchmarks.test_benchmark import ROOT, run


@pytest.mark.parametrize(
    ("preset", "size"),
    [("fcos_r18_bifpn", "64"), ("centernet_r18_rt", "64"), ("centernet2_r18_rt", "256")],  # for several proposals
)
def test_inference_is_timed_whatever_the_head(tmp_path, preset, size):
    """Forward and post-processing of each form, with more candidates where more points pass."""
    path = tmp_path / "inference.json"
    small = ("--size", size, "--rounds", "1", "--batch-size", "1", "2", "--passing", "0.1", "0.5")
    done = run("inference.py", "--preset", preset, *small, "--json", path)
    assert done.returncode == 0, done.stderr
    networks = json.loads(path.read_text())["networks"]
    assert {f"{preset}, fp32", f"{preset}, batch norm fused, fp32"} <= set(networks)
    for figures in networks.values():
        assert list(figures) == ["batch 1", "batch 2"]
        for batch in figures.values():
            few, many = batch["post-processing"]
            assert batch["forward_ms"] > 0 and few["ms"] > 0 and 0 < few["candidates"] < many["candidates"]


@pytest.mark.long  # each of the four contenders loads torch
@pytest.mark.parametrize(
    ("head", "only"),
    [("fcos", ()), ("centernet", ()), ("centernet2", ("--only", "ours"))],  # stock needs torchvision
)
def test_a_training_step_is_timed_beside_its_convolutions_alone(tmp_path, head, only):
    """Stock and ours take their steps in processes of their own; a step's convolutions take a part of its time."""
    path = tmp_path / "step.json"
    sizes = ("--size", "64", "--batch-size", "2", "--rounds", "1")
    done = run("train_step.py", "--head", head, *only, *sizes, "--json", path)
    assert done.returncode == 0, done.stderr
    steps = json.loads(path.read_text())["steps"]
    ours = [step for name, step in steps.items() if name.startswith("ours")]
    assert next(iter(steps.values()))["speedup"] == 1 and len(ours) == 3
    assert all(step["convolutions_ms"] > 0 and step["step_ms"] > 0 for step in ours)


def test_the_convolutions_alone_are_those_of_the_step(monkeypatch):
    """Recorded forward and backward, with the same arguments; nothing else of the step is computed again."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from train_step import Convolutions

    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
    recorded = Convolutions()
    with recorded:
        second(first(torch.randn(2, 3, 6, 6)).relu()).square().sum().backward()
    assert [function.name() for function, _ in recorded.calls] == ["aten::convolution"] * 2 + [
        "aten::convolution_backward"
    ] * 2
    assert [[x.shape for x in args if isinstance(x, torch.Tensor)] for _, args in recorded.calls] == [
        [(2, 3, 6, 6), (8, 3, 3, 3), (8,)],
        [(2, 8, 6, 6), (4, 8, 1, 1), (4,)],
        [(2, 4, 6, 6), (2, 8, 6, 6), (4, 8, 1, 1)],
        [(2, 8, 6, 6), (2, 3, 6, 6), (8, 3, 3, 3)],
    ]
    with Convolutions() as again:
        recorded.run()
    assert [function for function, _ in again.calls] == [function for function, _ in recorded.calls]
