"""All settings of the detectors with their defaults, and presets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from detector.errors import CheckpointError, ConfigError
from detector.loss.fcos_loss import QualityKind
from detector.model.backbone import BackboneName
from detector.model.grid import SIZE_DIVISOR
from detector.model.norm import GROUP, Norm

PresetName = Literal[
    "fcos_tiny",
    "fcos_r18_rt",
    "fcos_r18_bifpn",
    "fcos_r50",
    "centernet_r18_rt",
    "centernet_r50",
    "centernet2_tiny",
    "centernet2_r18_rt",
    "centernet2_r50",
]
Align = Literal["center", "top-left", "random"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


# Settings that checkpoints of FCOS may lack, because they were written before there were others, with the values then.
ADDED: dict[str, Any] = {
    **{"head": "fcos", "neck": "fpn", "bifpn_repeats": 3, "bifpn_separable": False, "masked_norm": False},
    **{"more_positives": True, "ignore_high": 0.0, "crop": 0, "clip_value": 0.0},
    **{"cascade_stages": 3, "cascade_width": 256, "rois": 128, "train_proposals": 500, "proposals": 128},
}

# The allowed range of each setting. Checked at once, since some are first used after an epoch.
RANGES = {
    **dict.fromkeys(("channels", "width", "sizes", "max_size", "test_size", "test_max_size"), (1, math.inf)),
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "log_every", "eval_every", "bifpn_repeats"), (1, math.inf)),
    **dict.fromkeys(("candidates", "max_detections"), (1, math.inf)),
    **dict.fromkeys(("cascade_width", "rois", "train_proposals", "proposals"), (1, math.inf)),
    "cascade_stages": (1, 3),
    **dict.fromkeys(("workers", "depth", "warmup", "lr", "backbone_lr", "weight_decay"), (0, math.inf)),
    **dict.fromkeys(("clip_norm", "clip_value", "crop"), (0, math.inf)),
    **dict.fromkeys(("flip", "momentum", "milestones", "ema", "score_threshold", "nms_threshold"), (0, 1)),
    "ignore_high": (0, 1),
    "frozen_stages": (0, 5),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Config:
    """The settings of a training run, stored in its checkpoints. `PRESETS` holds complete configurations."""

    data: Path | None = None
    """COCO folder: annotations/instances_*.json and the images. Default: a sample dataset, generated on first use."""
    preset: PresetName = "fcos_tiny"
    """Source of the defaults: fcos, centernet or centernet2 with _r18_rt (real time) or _r50; fcos_tiny and
    centernet2_tiny (for CPUs); or fcos_r18_bifpn."""
    out: Path = Path("runs/fcos")
    """Run folder."""
    resume: bool = False
    """Resume from the last checkpoint of the run folder, at the exact step."""
    train_split: str = ""
    """NAME of the training annotations/instances_NAME.json. Default: the one that begins with "train"."""
    val_split: str = ""
    """NAME of the validation annotations/instances_NAME.json. Default: the one that begins with "val"."""
    seed: int = 0
    """Random seed of the initial weights, the order of images and their augmentation."""
    workers: int = 2
    """Number of native threads that decode images."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, ..."""

    # The network.
    backbone: BackboneName = "efficientnet_lite0"
    """Backbone: resnet18, resnet34, resnet50 or efficientnet_lite0."""
    weights: str = "imagenet"
    """Initial weights of the backbone: imagenet (EfficientNet-Lite0 only), a torchvision or timm file, or none."""
    frozen_stages: int = 3
    """Number of frozen backbone stages, counting from the stem (0 to 5)."""
    frozen_norm: bool = True
    """Freeze the backbone's batch norms."""
    strides: tuple[int, ...] = (8, 16, 32, 64)
    """Strides of the feature levels: 8 16 32, optionally followed by 64 and 128."""
    neck: Literal["fpn", "bifpn"] = "fpn"
    """Feature pyramid: fpn or bifpn (EfficientDet's)."""
    bifpn_repeats: int = 3
    """Number of cells of a BiFPN."""
    bifpn_separable: bool = False
    """Use depthwise separable convolutions in a BiFPN."""
    channels: int = 64
    """Channels of the feature pyramid."""
    head: Literal["fcos", "centernet", "centernet2"] = "fcos"
    """Detection head: fcos, centernet (CenterNet*) or centernet2 (whose second stage is a cascade)."""
    width: int = 64
    """Channels of the head's towers."""
    depth: int = 3
    """Number of convolutions in each tower."""
    norm: Norm = "bn"
    """Normalization in towers and BiFPN: gn, bn (separate statistics for each level), frozen (untrained bn) or none."""
    masked_norm: bool = False
    """Leave padding out of the statistics of these norms."""
    quality: QualityKind = "iou"
    """For fcos: predicted quality that multiplies class scores, centerness or iou (overlap with the object)."""
    more_positives: bool = True
    """For centernet: also learn an object's class in cells where its box is predicted well already."""
    ignore_high: float = 0.0
    """For centernet: drop negatives whose predicted probability is at least this; 0 drops none."""
    cascade_stages: int = 3
    """For centernet2: number of stages of the cascade (1 to 3)."""
    cascade_width: int = 256
    """For centernet2: width of each stage's two hidden layers."""
    rois: int = 128
    """For centernet2: regions of each image that the cascade learns from in a step."""
    train_proposals: int = 500
    """For centernet2: maximum number of proposals of an image, in training, from which those regions are drawn."""
    proposals: int = 128
    """For centernet2: maximum number of proposals of an image in inference."""

    # Images.
    sizes: tuple[int, ...] = (192, 224, 256, 288, 320, 352, 384)
    """Shorter edges in training, in pixels; each batch draws one."""
    max_size: int = 576
    """Maximum longer edge in training, in pixels."""
    crop: int = 0
    """Edge of square training images in pixels, scaled by 0.1 to 2 and cropped; 0: scale to `sizes` instead."""
    test_size: int = 448
    """Shorter edge in evaluation, in pixels."""
    test_max_size: int = 672
    """Maximum longer edge in evaluation, in pixels."""
    flip: float = 0.5
    """Probability that an image is flipped horizontally."""
    align: Align = "center"
    """Position of an image on its canvas: center, top-left or random."""

    # The schedule. One step is one update of the weights.
    epochs: int = 12
    """Number of epochs."""
    batch_size: int = 4
    """Images per step, summed over processes and accumulated batches."""
    accumulate: int = 1
    """Number of batches whose gradients are accumulated in a step."""
    optimizer: Literal["sgd", "adamw", "muon"] = "muon"
    """sgd (with momentum), adamw, or muon (Muon for the convolutions of pyramid and towers, AdamW for the rest)."""
    lr: float = 1.5e-3
    """Peak learning rate (Muon uses twice this). It is not scaled with the batch size."""
    backbone_lr: float = 0.2
    """Learning rate of the backbone, as a multiple of the learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.05
    """Weight decay of the convolutions' weights; norms, biases and scales have none."""
    schedule: Literal["cosine", "multistep"] = "cosine"
    """Learning rate schedule: cosine or multistep."""
    warmup: int = 20
    """Number of steps of linear learning rate warmup."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """For multistep: fractions of the run after which the learning rate is divided by 10."""
    clip_norm: float = 10.0
    """Maximum gradient norm; 0 disables clipping."""
    clip_value: float = 0.0
    """Maximum absolute value of each gradient; 0 disables clipping."""
    ema: float = 0.998
    """Decay of the exponential moving average of the weights, which is what is evaluated; 0 disables it."""
    precision: Precision = "auto"
    """auto, fp32, bf16 or fp16. auto: bf16 if the hardware supports it, else fp16 on a GPU and fp32 on a CPU."""
    compile: bool = False
    """Compile the network with torch.compile. Images are then padded to a few fixed sizes."""

    # Inference.
    score_threshold: float = 0.05
    """Minimum class score of a candidate."""
    candidates: int = 1000
    """Maximum number of candidates per level, before suppression."""
    nms_threshold: float = 0.6
    """IoU above which non-maximum suppression removes the lower-scored box of the same class."""
    max_detections: int = 100
    """Maximum number of detections per image."""

    log_every: int = 20
    """Steps between two lines of metrics. The host waits for the device only then."""
    eval_every: int = 6
    """Epochs between evaluations; the last epoch is always evaluated."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not values or not all(low <= one <= high for one in values):
                limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ConfigError(f"--{name.replace('_', '-')} must be {limits}, not {value}.")
        for name in ("width", "channels") if self.neck == "bifpn" else ("width",):
            if getattr(self, name) % GROUP:
                raise ConfigError(
                    f"--{name} must be a multiple of {GROUP} (group norm's groups), not {getattr(self, name)}."
                )
        if self.crop % SIZE_DIVISOR:
            raise ConfigError(f"--crop must be a multiple of {SIZE_DIVISOR}, not {self.crop}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON and checkpoints."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises CheckpointError if the settings are from another version of fastload."""
        known = {field.name for field in fields(Config)}
        values = {**ADDED, **values}
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
_R50 = replace(
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
)
_CENTERNET: dict[str, Any] = {"head": "centernet", "out": Path("runs/centernet"), "warmup": 4000, "clip_value": 1.0}
_CENTERNET2: dict[str, Any] = {
    "head": "centernet2",
    "out": Path("runs/centernet2"),
    "nms_threshold": 0.7,
    "warmup": 4000,
    "clip_value": 1.0,
    "lr": 0.02,
}
_BIFPN: dict[str, Any] = {"neck": "bifpn", "channels": 160, "width": 160}
PRESETS: dict[str, Config] = {
    "fcos_tiny": Config(),
    "fcos_r18_rt": _RT,
    "fcos_r18_bifpn": replace(_RT, preset="fcos_r18_bifpn", **_BIFPN),
    "fcos_r50": _R50,
    "centernet_r18_rt": replace(_RT, preset="centernet_r18_rt", **_CENTERNET),
    "centernet_r50": replace(_R50, preset="centernet_r50", **_CENTERNET),
    "centernet2_tiny": Config(
        preset="centernet2_tiny", head="centernet2", out=Path("runs/centernet2"), nms_threshold=0.7
    ),
    "centernet2_r18_rt": replace(_RT, preset="centernet2_r18_rt", channels=128, width=128, **_CENTERNET2),
    "centernet2_r50": replace(
        _R50,
        preset="centernet2_r50",
        cascade_width=1024,
        rois=512,
        train_proposals=2000,
        proposals=256,
        **_CENTERNET2,
    ),
}


# Settings that may change when a run is resumed, because the result does not depend on them.
MAY_CHANGE = ("data", "out", "resume", "workers", "device", "log_every")


def differences(before: Config, now: Config) -> list[str]:
    """The settings that differ so that a run of `before` cannot be resumed with `now`, as command-line options."""
    a, b = before.to_dict(), now.to_dict()
    names = [name for name in a if name not in MAY_CHANGE and a[name] != b[name]]
    return [f"--{name.replace('_', '-')} {a[name]} (now {b[name]})" for name in names]
