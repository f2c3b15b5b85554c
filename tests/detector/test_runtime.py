"""What a process computes with, if nothing is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detector.runtime import pick_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_computes_in_bf16_if_it_has_instructions_for_it(tiny, monkeypatch, has_bf16, expected):
    """AVX512_BF16, which every CPU with AMX has too, decides; a precision that is asked for is used anyway."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    assert pick_dtype(replace(tiny, precision="auto"), CPU) == expected
    assert pick_dtype(replace(tiny, precision="fp32"), CPU) == torch.float32
    assert pick_dtype(replace(tiny, precision="bf16"), CPU) == torch.bfloat16


def test_a_cpu_of_which_torch_knows_nothing_computes_in_fp32(tiny, monkeypatch):
    """Versions of torch that cannot tell what the CPU has are used too."""
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert pick_dtype(replace(tiny, precision="auto"), CPU) == torch.float32
