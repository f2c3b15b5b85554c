"""Checks FastLoader's arguments; each error says what to write instead."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from fastload.class_batch import TARGET_KINDS
from fastload.engines.auto import ENGINES
from fastload.errors import ArgumentError
from fastload.loader.finisher import SampleFunction
from fastload.plan.align import Collator
from fastload.plan.transforms import Transform

if TYPE_CHECKING:
    from fastload.loader.fast_loader import FastLoader


def check_arguments(loader: FastLoader[Any]) -> None:
    """Raise ArgumentError for invalid values, and warn of arguments that have no effect on a cache."""
    if loader.on_error not in ("raise", "skip"):
        raise ArgumentError(f'on_error is "raise" or "skip", not {loader.on_error!r}')
    if loader.verify_checksums not in ("first", "always", "never"):
        raise ArgumentError(f'verify_checksums is "first", "always" or "never", not {loader.verify_checksums!r}')
    if loader.engine not in (*ENGINES, "auto"):
        raise ArgumentError(f"engine is one of {', '.join(ENGINES)} and auto, not {loader.engine!r}")
    if loader.targets not in TARGET_KINDS:
        raise ArgumentError(f"targets is one of {', '.join(TARGET_KINDS)}, not {loader.targets!r}")
    if loader.mask_stride < 1:
        raise ArgumentError(f"mask_stride is a number of pixels from 1, not {loader.mask_stride}")
    if not loader.masks and (loader.mask_stride != 1 or loader.boxes_from_masks):
        raise ArgumentError("mask_stride and boxes_from_masks need masks=True")
    given = {
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "timeout": loader.timeout,
    }
    if ignored := [name for name, value in given.items() if value]:
        warnings.warn(
            f"{', '.join(ignored)}: ignored, since FastLoader reads a cache without worker processes", stacklevel=4
        )
    if loader.pin_memory and not torch.cuda.is_available():
        warnings.warn("pin_memory: ignored, since there is no accelerator", stacklevel=4)
    if loader.pin_memory_device:
        warnings.warn("pin_memory_device: ignored, since `device` says where batches are", stacklevel=4)
    if loader.function_workers < 0:
        raise ArgumentError(f"function_workers is a number of threads, not {loader.function_workers}")


def refuse_what_needs_a_cache(loader: FastLoader[Any]) -> None:
    """Raise ArgumentError if the dataset is not a cache and an argument needs one."""
    given = {
        "transforms": loader.transforms,
        "group_by_aspect": loader.group_by_aspect,
        "on_error": loader.on_error != "raise",
        "verify_checksums": loader.verify_checksums != "first",
        "scaled_decoding": not loader.scaled_decoding,
        "engine": loader.engine != "native",
        "function_workers": loader.function_workers,
        "skip_crowd": loader.skip_crowd,
        "skip_empty": loader.skip_empty,
        "masks": loader.masks,
        "targets": loader.targets != "objects",
        "mask_stride": loader.mask_stride != 1,
        "boxes_from_masks": loader.boxes_from_masks,
    }
    if refused := [name for name, value in given.items() if value]:
        raise ArgumentError(
            f"{', '.join(refused)}: only for caches, and the dataset is a {type(loader.dataset).__name__}. "
            "Build a cache of it with `fastload build-cache`, or remove these arguments."
        )


def split_transforms(
    transforms: Sequence[Transform | SampleFunction],
) -> tuple[list[Transform], list[SampleFunction]]:
    """Split into Transforms, which edit the plan, and the functions on samples that follow them."""
    if not isinstance(transforms, Sequence):
        raise ArgumentError(f"transforms is a list of fastload Transforms and functions, not {transforms!r}")
    edits: list[Transform] = []
    functions: list[SampleFunction] = []
    for transform in transforms:
        refuse_class(transform, "transforms")
        if not isinstance(transform, Transform):
            functions.append(transform)
        elif functions:
            raise ArgumentError(
                f"{transform!r} follows a plain function in transforms: put all fastload transforms first"
            )
        else:
            edits.append(transform)
    if wrong := [function for function in functions if not callable(function)]:
        raise ArgumentError(f"{wrong[0]!r} in transforms is neither a fastload Transform nor a function")
    return edits, functions


def refuse_class(given: Any, argument: str) -> None:
    """Raise ArgumentError if a Transform or Collator class is given instead of an object: `()` is easily forgotten."""
    if isinstance(given, type) and issubclass(given, Transform | Collator):
        raise ArgumentError(f"{given.__name__} in {argument} is a class: write {given.__name__}(...)")
