"""The DALI pipeline that turns JPEG bytes and geometry into tiles of canvases.

DALI is imported when the first pipeline is made. Its errors become fastload's own.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.errors import EngineError

PACKAGES = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110")
MEMORY_WORDS = ("out of memory", "out_of_memory", "bad_alloc", "allocation failed", "can't allocate")


class TileError(Exception):
    """DALI could not make the tiles of a batch. It does not report which row failed."""


@dataclass(frozen=True)
class Graph:
    """The settings that a pipeline is built for; a plan with other settings needs another pipeline."""

    rows: int  # the most tiles in a batch
    fill: tuple[int, int, int]
    recolor: bool


@dataclass
class Tiles:
    """R tiles to make. Each shows one image: the part from `start` to `end` is scaled to `size` and cut to `window`.

    If the image is mirrored, `start` is past `end`. A window larger than the image shows the fill color around it.
    """

    jpegs: list[NDArray[np.uint8]]
    start: NDArray[np.float32]  # (R, 2) y, x in source pixels
    end: NDArray[np.float32]  # (R, 2)
    size: NDArray[np.float32]  # (R, 2) height, width
    color: NDArray[np.float32]  # (R, 3, 4)
    corner: NDArray[np.int32]  # (R, 2) y, x of the window
    window: NDArray[np.int32]  # (R, 2) height, width


class DaliPipeline:
    """Makes tiles, which are collected in the order they were started.

    Args:
        graph: the settings to build for.
        threads: CPU threads.
        device_id: the GPU to run on; None: the CPU.

    Raises:
        EngineError: DALI is missing, does not fit the driver or lacks memory.
    """

    def __init__(self, graph: Graph, threads: int, device_id: int | None) -> None:
        import_dali()
        self.graph = graph
        self._device_id = device_id
        try:
            self._pipeline = _build(graph, threads, device_id)
        except Exception as error:
            raise _refusal(error, device_id) from None
        _LIVE.add(self)

    def start(self, tiles: Tiles) -> None:
        """Queue tiles; returns at once."""
        for name, values in vars(tiles).items():
            if name != "color" or self.graph.recolor:
                self._pipeline.feed_input(name, values)
        self._pipeline.schedule_run()

    def collect(self) -> Any:
        """Wait for the tiles that were started first.

        Returns:
            DALI's list of R uint8 tensors (h, w, 3). Their memory lives as long as anything refers to it; on a GPU it
            belongs to torch's current stream.

        Raises:
            TileError, EngineError: DALI failed. No more tiles can be collected.
        """
        try:
            (tiles,) = self._pipeline.share_outputs(self._stream())
            self._pipeline.release_outputs()
        except Exception as error:
            if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MEMORY_WORDS):
                raise EngineError(
                    f"DALI ran out of memory on a batch of up to {self.graph.rows} images: {_reason(error)}. Use "
                    "smaller batches or images, or fewer batches at a time (prefetch_factor)"
                ) from None
            raise TileError(_reason(error)) from None
        return tiles

    def leave_to_parent(self) -> None:
        """Never end this pipeline in a forked child: DALI would wait for its threads, which only the parent has."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._pipeline._pipe))
        self._pipeline._pipe = None

    def _stream(self) -> Any:
        if self._device_id is None:
            return None
        import torch

        return torch.cuda.current_stream(self._device_id)


_LIVE: weakref.WeakSet[DaliPipeline] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for pipeline in list(_LIVE):
        pipeline.leave_to_parent()
    _LIVE.clear()


os.register_at_fork(after_in_child=_leave_all_to_parent)


def import_dali() -> None:
    """Import DALI. Raises EngineError that says what to install if that fails."""
    try:
        import nvidia.dali.fn
        import nvidia.dali.pipeline  # noqa: F401
    except Exception as error:  # a broken installation raises more than ImportError
        if installed := dali_version():
            raise EngineError(
                f"{installed} does not load: {_reason(error)}. Install it again, or another version"
            ) from None
        raise EngineError(
            "NVIDIA DALI is not installed: `pip install nvidia-dali-cuda120` (or cuda130, to match your driver), or "
            'choose engine="native"'
        ) from None


def dali_version() -> str | None:
    """The package and version of the installed DALI, or None."""
    for package in PACKAGES:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


def _build(graph: Graph, threads: int, device_id: int | None) -> Any:
    from nvidia.dali.pipeline import Pipeline

    # One batch ahead per operator is enough to keep all of them busy.
    pipeline = Pipeline(graph.rows, max(threads, 1), device_id, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(_tiles(graph, "cpu" if device_id is None else "mixed"))
    pipeline.build()
    return pipeline


def _tiles(graph: Graph, decoder: str) -> Any:
    """DALI's operators from the columns of `Tiles` to tiles."""
    from nvidia.dali import fn, types

    def given(name: str, dtype: Any = types.FLOAT, ndim: int = 1) -> Any:
        return fn.external_source(name=name, dtype=dtype, ndim=ndim)

    # No EXIF rotation: boxes are in the coordinates of the stored pixels.
    image = fn.decoders.image(
        given("jpegs", types.UINT8), device=decoder, output_type=types.RGB, adjust_orientation=False
    )
    image = fn.resize(
        image,
        roi_start=given("start"),
        roi_end=given("end"),
        size=given("size"),
        interp_type=types.INTERP_LINEAR,
        dtype=types.FLOAT if graph.recolor else types.UINT8,
    )
    if graph.recolor:  # in floating point, since integers would wrap around
        image = fn.cast(fn.coord_transform(image, MT=given("color", ndim=2)), dtype=types.UINT8)
    return fn.slice(
        image,
        start=given("corner", types.INT32),
        shape=given("window", types.INT32),
        axes=(0, 1),
        out_of_bounds_policy="pad",
        fill_values=list(graph.fill),
    )


def _refusal(error: Exception, device_id: int | None) -> EngineError:
    where = "the CPU" if device_id is None else f"GPU {device_id}"
    advice = (
        ""
        if device_id is None
        else ". It needs an NVIDIA driver for the CUDA in its package's name: see `nvidia-smi` and `fastload doctor`, "
        'install the DALI that fits, or choose engine="native"'
    )
    return EngineError(f"{dali_version()} cannot run on {where}: {_reason(error)}{advice}")


def _reason(error: Exception) -> str:
    """DALI's message on one line, without its stack trace."""
    lines = [line.strip() for line in str(error).split("encountered:")[-1].splitlines()]
    frame = ("Critical error", "Current pipeline", "C++ context", "[frame", "Stacktrace")
    return " ".join(line for line in lines if line and not line.startswith(frame)).rstrip(" .:")
