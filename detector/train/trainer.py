"""One step of training, and the state that it changes: the network, averaged weights and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detector import distributed
from detector.config import Config
from detector.errors import ConfigError, TrainingError
from detector.model.backbone import load_pretrained
from detector.model.detector import Detector
from detector.model.grid import region_of
from detector.model.head import Losses, Output
from detector.runtime import autocast, pick_dtype, pick_memory_format
from detector.train.optim import EMA, learning_rate, make_optimizers, set_learning_rate


class Trainer:
    """Trains a network step by step. The host does not wait for the device: losses are tensors on the device.

        trainer = Trainer(config, classes=80, steps=90_000, device=torch.device("cuda"))
        for batch in loader:
            losses = trainer.update([batch])

    Args:
        config: the settings of the network, the optimizers and the schedule.
        classes: number of classes.
        steps: number of steps of the whole run, for the schedule.
        device: the device of the network.

    Raises:
        ConfigError: layers that are not trained have random weights.
        CheckpointError: the backbone's weights cannot be read.
    """

    def __init__(self, config: Config, classes: int, steps: int, device: torch.device) -> None:
        if config.weights == "none" and (config.frozen_stages or config.frozen_norm):
            raise ConfigError(
                "Frozen layers would stay random with --weights none: train the whole backbone with --frozen-stages 0 "
                "--no-frozen-norm, or give weights."
            )
        torch.manual_seed(config.seed)
        model = Detector.from_config(config, classes)
        if config.weights != "none" and not config.resume:
            load_pretrained(model.backbone, config.weights)
        self.dtype = pick_dtype(config, device)
        self.memory_format = pick_memory_format(config, device, self.dtype)
        model = distributed.sync_batch_norm(model, device)
        model = model.to(device, memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's types lack it
        self.config, self.steps, self.device = config, steps, device
        self.step = 0
        self.model = model
        self.parallel_model = distributed.data_parallel(model, device)
        self.compiled_model: Callable[[Tensor, Tensor], Output] = (
            torch.compile(self.parallel_model) if config.compile else self.parallel_model
        )
        self.ema = EMA(model, config.ema) if config.ema else None
        self.optimizers = make_optimizers(model, config, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    @property
    def eval_model(self) -> Detector:
        """The network to evaluate, in evaluation mode, with averaged weights if there are any."""
        return (self.ema.model if self.ema else self.model).eval()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self.config, self.step, self.steps)

    def update(self, batches: list[Any]) -> Losses:
        """Make one step on the gradients of all `batches`. Returns the loss and its parts by name, as scalars."""
        self.model.train()
        set_learning_rate(self.optimizers, self.lr)
        found = []
        for i, (images, targets) in enumerate(batches):
            with distributed.reduce_gradients(self.parallel_model, i == len(batches) - 1):
                parts = self.loss(images, targets)
                losses = {"loss": sum(parts.values(), torch.zeros((), device=self.device)), **parts}
                self.scaler.scale(losses["loss"] / len(batches)).backward()
            found.append({name: value.detach() for name, value in losses.items()})
        self._apply_gradients()
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def _apply_gradients(self) -> None:
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if self.config.clip_value:
            nn.utils.clip_grad_value_(self.model.parameters(), self.config.clip_value)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema:
            self.ema.update(self.model, self.step)

    def loss(self, images: Tensor, targets: Any) -> Losses:
        """Forward pass and losses of one batch of a FastLoader. Crowd boxes are ignored."""
        images = self.model.normalize(images.to(self.device, non_blocking=True))
        images = images.contiguous(memory_format=self.memory_format)
        targets = targets.to(self.device, non_blocking=True)
        with autocast(self.device, self.dtype):
            output = self.compiled_model(images, region_of(targets))
            return self.model.loss(output, targets.boxes, targets.labels, (targets.labels >= 0) & ~targets.crowd)

    def check_finite(self) -> None:
        """Raise TrainingError if a weight is not finite, so that it is not saved in a checkpoint."""
        norms = torch.stack(torch._foreach_norm([p.detach() for p in self.model.parameters()]))
        if not norms.isfinite().all():
            raise TrainingError(f"After step {self.step} some weights are not finite. {ADVICE}")

    def state_dict(self) -> dict[str, Any]:
        """The state that a step changes, and that of torch's random generators."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "rng": {"cpu": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            state["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict()` of a trainer with the same configuration."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)


ADVICE = (
    "Train again in another folder with --out and a lower --lr, a longer --warmup or a smaller --clip-norm. The last "
    "checkpoint is from before this."
)
