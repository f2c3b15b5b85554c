"""Averaged weights, and the memory that steps share."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from detector.train.optim import EMA


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_averaged_weights_follow_at_once_and_then_decay_as_told(decay):
    """After update n the average keeps min(decay, (1 + n) / (10 + n)) of itself, of statistics as of weights."""
    model = nn.BatchNorm1d(2)
    averaged = EMA(model, decay)
    weight, mean = model.weight.detach().double(), model.running_mean.double()
    for n in range(1, 40):
        with torch.no_grad():
            model.weight += torch.randn(2)
            model.running_mean += torch.randn(2)
            model.num_batches_tracked += 1
        averaged.update(model, n)
        keep = min(decay, (1 + n) / (10 + n))
        weight = keep * weight + (1 - keep) * model.weight.detach().double()
        mean = keep * mean + (1 - keep) * model.running_mean.double()
    torch.testing.assert_close(averaged.model.weight.double(), weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(averaged.model.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
    assert averaged.model.num_batches_tracked == 0 and not averaged.model.weight.requires_grad


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("threaded", [False, True])
def test_memory_that_is_kept_is_not_mapped_anew(keep, threaded):
    """Ten tensors of 64 MB, one after another, touch fresh pages ten times over, or hardly any once memory is warm;
    in a thread beside the main one too."""
    code = f"""
import ctypes, resource, threading, torch
from detector.runtime import keep_freed_memory
if {keep}:
    keep_freed_memory()
torch.set_num_threads(1)
def touch():
    for _ in range(20):
        torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(1 << 24)
    pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
    print(pages / (1 << 26), hasattr(ctypes.CDLL(None), "mallopt"))
if {threaded}:
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
else:
    touch()
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    shares, is_glibc = out.split()
    if is_glibc == "False":
        pytest.skip("not glibc")
    assert (float(shares) < 3) == keep
