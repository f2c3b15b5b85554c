"""Every setting of the detector, its default, and three presets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from detector.errors import CheckpointError, ConfigError
from detector.loss.fcos_loss import QualityKind
from detector.model.backbone import BackboneName
from detector.model.fcos import Norm

PresetName = Literal["fcos_tiny", "fcos_r18_rt", "fcos_r50"]
Align = Literal["center", "top-left", "random"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


# The allowed range of each setting. Checked at once, since some are first used after an epoch.
RANGES = {
    **dict.fromkeys(("channels", "width", "sizes", "max_size", "test_size", "test_max_size"), (1, math.inf)),
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "log_every", "eval_every"), (1, math.inf)),
    **dict.fromkeys(("candidates", "max_detections"), (1, math.inf)),
    **dict.fromkeys(("workers", "depth", "warmup", "lr", "backbone_lr", "weight_decay", "clip_norm"), (0, math.inf)),
    **dict.fromkeys(("flip", "momentum", "milestones", "ema", "score_threshold", "nms_threshold"), (0, 1)),
    "frozen_stages": (0, 5),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Config:
    """The settings of a training run. A checkpoint keeps them. See `PRESETS` for sets that go together."""

    data: Path | None = None
    """A COCO folder: annotations/instances_*.json and the images. Without one: the sample set, made on first use."""
    preset: PresetName = "fcos_tiny"
    """Where the defaults come from: fcos_tiny (for CPUs), fcos_r18_rt (real time) or fcos_r50."""
    out: Path = Path("runs/fcos")
    """The run folder."""
    resume: bool = False
    """Go on from the run folder's last checkpoint, exactly where it stopped."""
    train_split: str = ""
    """Which annotations/instances_NAME.json to train on; empty: the one that begins with "train"."""
    val_split: str = ""
    """Likewise for evaluation: the one that begins with "val"."""
    seed: int = 0
    """Of the random weights, the order of images and their augmentation."""
    workers: int = 2
    """Native threads that decode images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    # The network.
    backbone: BackboneName = "efficientnet_lite0"
    """resnet18, resnet34, resnet50 or efficientnet_lite0."""
    weights: str = "imagenet"
    """What the backbone starts from: imagenet (EfficientNet-Lite0 only), a torchvision or timm file, or none."""
    frozen_stages: int = 3
    """How many of the backbone's stem and four stages are not trained."""
    frozen_norm: bool = True
    """Keep the backbone's batch norms as they are."""
    strides: tuple[int, ...] = (8, 16, 32, 64)
    """One feature level each: 8 16 32, and 64 and 128 after them."""
    channels: int = 64
    """Of the feature pyramid."""
    width: int = 64
    """Of the head's towers."""
    depth: int = 3
    """Convolutions of each tower."""
    norm: Norm = "bn"
    """In the towers: gn, bn (statistics of its own for each level) or none."""
    quality: QualityKind = "iou"
    """What scores are multiplied with: centerness or iou, the predicted overlap."""

    # Images. Edges are in pixels.
    sizes: tuple[int, ...] = (192, 224, 256, 288, 320, 352, 384)
    """Short edges to train at; each batch draws one."""
    max_size: int = 576
    """The long edge may not be longer."""
    test_size: int = 448
    """The short edge to evaluate at."""
    test_max_size: int = 672
    """The longest long edge to evaluate at."""
    flip: float = 0.5
    """The share of images that are mirrored."""
    align: Align = "center"
    """Where an image lies on its canvas: center, top-left or random."""

    # The schedule. One step is one update of the weights.
    epochs: int = 12
    """Times that every training image is seen."""
    batch_size: int = 4
    """Images a step, over all processes and accumulated batches together."""
    accumulate: int = 1
    """Batches a step is made of."""
    optimizer: Literal["sgd", "adamw", "muon"] = "muon"
    """SGD with momentum, AdamW, or Muon for the convolutions of pyramid and towers and AdamW for all else."""
    lr: float = 1.5e-3
    """The highest learning rate (Muon's is twice that); it belongs to `batch_size` and is not scaled with it."""
    backbone_lr: float = 0.2
    """The backbone's learning rate, as a share of `lr`."""
    momentum: float = 0.9
    """For SGD."""
    weight_decay: float = 0.05
    """Of convolutions' weights; norms, biases and scales have none."""
    schedule: Literal["cosine", "multistep"] = "cosine"
    """How the learning rate falls."""
    warmup: int = 20
    """Steps over which the learning rate rises linearly."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """For multistep: shares of the run after which the learning rate drops tenfold."""
    clip_norm: float = 10.0
    """The gradient's norm is cut to this; 0: never."""
    ema: float = 0.998
    """Decay of the averaged weights, which are the ones evaluated; 0: no average."""
    precision: Precision = "auto"
    """auto: bf16 where the hardware multiplies it, else fp16 on a GPU and fp32 on a CPU."""
    compile: bool = False
    """Compile the network with torch.compile; canvases then come in a few sizes only."""

    # Inference.
    score_threshold: float = 0.05
    """Class scores below are not looked at."""
    candidates: int = 1000
    """Of each level, before suppression."""
    nms_threshold: float = 0.6
    """Boxes of one class that overlap by more IoU are one object."""
    max_detections: int = 100
    """Of an image."""

    log_every: int = 20
    """Steps between two lines of metrics. Only then does the host wait for the device."""
    eval_every: int = 6
    """Epochs between two evaluations; the last epoch is always evaluated."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not values or not all(low <= one <= high for one in values):
                limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ConfigError(f"--{name.replace('_', '-')} must be {limits}, not {value}.")
        if self.width % 8:
            raise ConfigError(f"--width must be a multiple of 8 (group norm's groups), not {self.width}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises CheckpointError if the settings are from another version of fastload."""
        known = {field.name for field in fields(Config)}
        if unknown := sorted(set(values) ^ known):
            raise CheckpointError(f"its settings are of another version of fastload: {', '.join(unknown)}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        data = values["data"] and Path(values["data"])
        return Config(**{**values, "data": data, "out": Path(values["out"])})


_RT = Config(
    preset="fcos_r18_rt",
    backbone="resnet18",
    weights="none",
    frozen_stages=0,
    frozen_norm=False,
    strides=(8, 16, 32),
    channels=256,
    width=256,
    depth=4,
    norm="gn",
    quality="centerness",
    sizes=tuple(range(256, 609, 32)),
    max_size=900,
    test_size=512,
    test_max_size=736,
    epochs=36,
    batch_size=16,
    optimizer="sgd",
    lr=0.01,
    backbone_lr=1.0,
    weight_decay=1e-4,
    schedule="multistep",
    warmup=1000,
    clip_norm=0.0,
    ema=0.0,
    workers=8,
    log_every=50,
    eval_every=5,
)
PRESETS: dict[str, Config] = {
    "fcos_tiny": Config(),
    "fcos_r18_rt": _RT,
    "fcos_r50": replace(
        _RT,
        preset="fcos_r50",
        backbone="resnet50",
        frozen_stages=2,
        frozen_norm=True,
        strides=(8, 16, 32, 64, 128),
        sizes=(640, 672, 704, 736, 768, 800),
        max_size=1333,
        test_size=800,
        test_max_size=1333,
        epochs=12,
    ),
}


# Settings that may change when a run is resumed, because the result does not depend on them.
MAY_CHANGE = ("data", "out", "resume", "workers", "device", "log_every")


def differences(before: Config, now: Config) -> list[str]:
    """The settings that differ so that a run of `before` cannot be resumed with `now`, as command-line options."""
    a, b = before.to_dict(), now.to_dict()
    names = [name for name in a if name not in MAY_CHANGE and a[name] != b[name]]
    return [f"--{name.replace('_', '-')} {a[name]} (now {b[name]})" for name in names]
