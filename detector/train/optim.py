"""Optimizers, the learning rate schedule and averaged weights."""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from detector.config import Config
from detector.model.detector import Detector
from detector.train.muon import Muon

M = TypeVar("M", bound=nn.Module)

MUON_SHARE = 2.0  # of the learning rate: its steps may be longer than AdamW's


def make_optimizers(model: Detector, config: Config, device: torch.device) -> list[torch.optim.Optimizer]:
    """SGD, or AdamW, or AdamW and Muon.

    Muon trains the weights of the neck and of the head's hidden layers, but not the backbone, which is usually
    pretrained, not the layers that make predictions, and not depthwise convolutions, which are no matrices.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return [torch.optim.SGD(_groups(model, trained, config), config.lr, config.momentum, fused=fused)]
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(_groups(model, trained, config), config.lr, fused=fused)]
    hidden = nn.ModuleList([model.fpn, *model.head.towers()])
    matrices = [weight for weight in hidden.parameters() if weight.ndim > 1 and weight.shape[1] > 1]
    for_muon = {id(weight) for weight in matrices}
    others = [parameter for parameter in trained if id(parameter) not in for_muon]
    groups = [{**group, "share": MUON_SHARE} for group in _groups(model, matrices, config)]
    return [torch.optim.AdamW(_groups(model, others, config), config.lr, fused=fused), Muon(groups, config.lr)]


def _groups(model: Detector, parameters: Sequence[Tensor], config: Config) -> list[dict[str, Any]]:
    """Up to four parameter groups: backbone or not, with weight decay (convolutions) or without (others)."""
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault((id(parameter) in backbone, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "share": config.backbone_lr if in_backbone else 1.0,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), members in groups.items()
    ]


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of update `step` (from 0) of `steps`: linear warmup, then cosine or multistep."""
    progress = step / steps
    if config.schedule == "cosine":
        factor = (1 + math.cos(math.pi * progress)) / 2
    else:
        factor = 0.1 ** bisect_right(sorted(config.milestones), progress)
    return config.lr * factor * min(1.0, (step + 1) / (config.warmup + 1))


def set_learning_rate(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["share"]


class EMA(Generic[M]):
    """An exponential moving average of weights, in a copy of the model.

    The decay rises from 0.2 to `decay` as (1 + updates) / (10 + updates), so that the average of a short run does not
    contain its random start.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: M, updates: int) -> None:
        """Average in the weights of `model` after its update number `updates` (from 1)."""
        weight = 1 - min(self.decay, (1 + updates) / (10 + updates))
        pairs = zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        averages, values = zip(*[(average, new) for average, new in pairs if average.is_floating_point()], strict=True)
        torch._foreach_lerp_(averages, values, weight)
