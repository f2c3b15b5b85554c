"""Finds operations that make the host wait for the device."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal.", "aten.is_nonzero")


class NoWaits(TorchDispatchMode):
    """Fails on operations whose result the host would have to wait for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        waits = name.startswith(WAITS)
        if name.startswith(("aten.index.", "aten.index_put")):
            waits = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        assert not waits, f"{name} makes the host wait"
        return function(*args, **(kwargs or {}))
