"""Checkpoints: written atomically, and read without running code that they contain."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector.config import Config
from detector.errors import CheckpointError
from detector.model.detector import Detector
from detector.preprocess import Preprocess
from fastload import Normalize, PixelFormat

FORMAT, VERSION = "fastload-detector", 3
READABLE = (2, VERSION)  # version 2 has no "preprocess": it follows from the configuration
Categories = list[tuple[int, str]]  # (the dataset's id, name) of each class, in the order of labels


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`, replacing the file only after everything is on disk."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, into host memory. Raises CheckpointError if it cannot be read."""
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of this detector. Weights of a backbone are for the --weights of a new run."
        )
    if state["version"] not in READABLE:
        raise CheckpointError(
            f"{path} has version {state['version']} of the format; this fastload reads {READABLE[0]} to {VERSION}. "
            "Use the fastload that wrote it, or train again."
        )
    return state


def config_of(state: dict[str, Any], path: Path) -> Config:
    """The configuration a checkpoint was trained with."""
    try:
        return Config.from_dict(state["config"])
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}. Use the fastload that wrote it.") from error


def preprocess_of(state: dict[str, Any], path: Path) -> Preprocess:
    """The preprocessing of images that a checkpoint was trained with."""
    if state["version"] == 2:
        return Preprocess.of(config_of(state, path))
    try:
        return Preprocess.from_dict(state["preprocess"])
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}. Use the fastload that wrote it.") from error


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint, ready for inference."""

    model: Detector  # in evaluation mode, with averaged weights if there are any
    config: Config
    preprocess: Preprocess
    categories: Categories


def load_model(path: Path) -> TrainedModel:
    """Load the network of a checkpoint with its settings, preprocessing and classes."""
    state = load(path)
    config, preprocess = config_of(state, path), preprocess_of(state, path)
    model = Detector.from_config(config, len(state["categories"]))
    model.load_state_dict(state["ema"] or state["model"])
    model.normalize = Normalize(PixelFormat(mean=preprocess.mean, std=preprocess.std))
    return TrainedModel(model.eval(), config, preprocess, state["categories"])


def check_categories(path: Path, trained: Categories, found: Categories) -> None:
    """Raise CheckpointError unless a dataset has the same classes, in the same order, as a checkpoint."""
    if list(map(tuple, trained)) == list(map(tuple, found)):
        return
    names = [{name for _, name in categories} for categories in (trained, found)]
    missing, new = sorted(names[0] - names[1]), sorted(names[1] - names[0])
    raise CheckpointError(
        f"{path} was trained on {len(trained)} classes and the dataset has {len(found)}. "
        f"Only in the checkpoint: {', '.join(missing) or 'none'}. Only in the dataset: {', '.join(new) or 'none'}. "
        "The ids and the order must be the same too."
    )
