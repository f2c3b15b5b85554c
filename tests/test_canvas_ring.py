"""The ring of canvases: memory comes back when, and only when, nobody sees it."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import torch

from fastload.canvas_ring import CanvasRing

SHAPE = (2, 8, 8, 3)


def address(canvas: np.ndarray) -> int:
    return canvas.ctypes.data


def test_memory_is_used_again_once_nobody_sees_it():
    """A dropped canvas's memory is the next one's."""
    ring = CanvasRing(keep=2)
    first = address(ring.lease(SHAPE))
    assert address(ring.lease(SHAPE)) == first


def test_views_of_a_tensor_keep_the_lease():
    """Any view, of any view, of a tensor on the canvas holds the memory."""
    ring = CanvasRing(keep=2)
    canvas = ring.lease(SHAPE)
    held = address(canvas)
    part = torch.from_numpy(canvas).permute(0, 3, 1, 2)[1, :, 2:4].unbind(0)[0].numpy()[1:]
    del canvas
    assert address(ring.lease(SHAPE)) != held
    del part
    assert address(ring.lease(SHAPE)) == held


def test_views_of_an_array_keep_the_lease():
    """So does any NumPy view, and a tensor on one."""
    ring = CanvasRing(keep=2)
    canvas = ring.lease(SHAPE)
    held = address(canvas)
    part = canvas.transpose(0, 3, 1, 2)[1:]
    del canvas
    assert address(ring.lease(SHAPE)) != held
    part = torch.from_numpy(part)[:, 1]
    assert address(ring.lease(SHAPE)) != held
    del part
    assert address(ring.lease(SHAPE)) == held


def test_leases_never_share_memory():
    """Canvases lent at the same time do not overlap, whatever came before."""
    ring, rng = CanvasRing(keep=3), np.random.default_rng(0)
    lent: list[np.ndarray] = []
    for _ in range(300):
        lent.append(ring.lease((int(rng.integers(1, 4)), int(rng.integers(1, 30)), 8, 3)))
        lent[-1][:] = len(lent) % 251
        if len(lent) > 4:
            del lent[int(rng.integers(len(lent)))]
        spans = sorted((address(canvas), canvas.nbytes) for canvas in lent)
        assert all(a + size <= b for (a, size), (b, _) in pairwise(spans))
        assert lent[-1].ctypes.data % 64 == 0


def test_only_so_much_is_kept():
    """Beyond `keep`, returned memory is let go."""
    ring = CanvasRing(keep=2)
    lent = [ring.lease(SHAPE) for _ in range(6)]
    del lent
    assert len(ring._free) == 2


def test_canvases_may_be_dropped_in_any_thread():
    """Memory comes back from threads too."""
    ring = CanvasRing(keep=8)

    def work() -> None:
        for _ in range(200):
            canvas = ring.lease(SHAPE)
            canvas[:] = threading.get_ident() % 251
            assert (canvas == threading.get_ident() % 251).all()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert 1 <= len(ring._free) <= 8
