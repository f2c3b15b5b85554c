"""Train a ResNet to classify images, from a folder for each class, on one device or several.

    python examples/train_imagenet.py imagenet/                       # with train/CLASS/*.jpg and val/CLASS/*.jpg
    python examples/train_imagenet.py train.lmdb val.lmdb --out runs/a --resume
    torchrun --nproc-per-node 8 examples/train_imagenet.py imagenet/ --mixup 0.2 --cutmix 1 --ema 0.9999

Missing caches are built. Crops grow with the epochs, from --first-size to --size. The checkpoint of --out is written
after each epoch and every --save-every steps; --resume continues with the next batch, on any number of devices.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DistributedSampler

from fastload import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BatchCutMix,
    BatchMixUp,
    BuildOptions,
    ByEpoch,
    Cache,
    CenterCrop,
    FastLoader,
    OneOf,
    RandomFlip,
    RandomResizedCrop,
    ShortestEdge,
    build_cache,
    find_datasets,
    size_ramp,
)

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(inputs, outputs, 3, stride), nn.ReLU(), convolution(outputs, outputs, 3))
        self.shortcut = convolution(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def resnet18(classes: int, width: int) -> nn.Module:
    layers: list[nn.Module] = [convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    for inputs, outputs in pairwise(widths):
        layers += [Block(inputs, outputs, 1 if inputs == outputs else 2), Block(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes))


def model_of(options: argparse.Namespace, classes: int) -> nn.Module:
    if options.model == "resnet18":
        return resnet18(classes, options.width)
    import timm

    return timm.create_model(options.model, num_classes=classes)


def caches_of(paths: list[Path]) -> tuple[Cache, Cache]:
    """The caches of training and evaluation; the first process builds those that are missing."""
    if len(paths) == 1:
        splits = {dataset.split[:3]: dataset for dataset in find_datasets(paths[0])}
        if not splits.keys() >= {"tra", "val"}:
            raise SystemExit(f"{paths[0]} needs the folders train/ and val/, with a folder for each class")
        for dataset in splits.values():
            if RANK == 0 and not dataset.cache.exists():
                build_cache(dataset.load(), dataset.cache, BuildOptions())
        paths = [splits["tra"].cache, splits["val"].cache]
    if WORLD > 1:
        dist.barrier()
    return Cache(paths[0]), Cache(paths[1])


def loaders_of(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> tuple[FastLoader, FastLoader]:
    train, val = caches_of(options.data)
    shared: dict[str, Any] = {"num_workers": options.workers, "device": device, "dtype": dtype}
    shared |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    sizes = size_ramp(options.first_size, options.size, options.epochs // 4, max(options.epochs * 3 // 4, 1))
    mixes = [BatchMixUp(alpha=options.mixup, p=1)] if options.mixup else []
    mixes += [BatchCutMix(alpha=options.cutmix, p=1)] if options.cutmix else []
    train_loader = FastLoader(
        train,
        options.batch_size,
        sampler=DistributedSampler(train, WORLD, RANK, seed=options.seed),
        drop_last=True,
        generator=torch.Generator().manual_seed(options.seed),
        targets="soft_labels" if mixes else "class_ids",
        transforms=[
            ByEpoch({epoch: RandomResizedCrop(size) for epoch, size in sizes.items()}),
            RandomFlip(),
            *([OneOf(mixes, per_batch=True)] if mixes else []),
        ],
        on_error="skip",
        **shared,
    )
    val_loader = FastLoader(
        val.subset(range(RANK, len(val), WORLD)),  # unlike a DistributedSampler, it repeats no image
        options.batch_size,
        targets="class_ids",
        transforms=[ShortestEdge(options.size * 8 // 7, round_down=True), CenterCrop(options.size)],
        **shared,
    )
    return train_loader, val_loader


def optimizer_of(model: nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]  # biases and normalization
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0}]
    return torch.optim.SGD(groups, lr=0, momentum=0.9, nesterov=True)


def learning_rate(options: argparse.Namespace, step: float, steps: int) -> float:
    """At a step of all: up for a twentieth of them, then down along a cosine."""
    peak, done = options.lr * options.batch_size * WORLD / 256, step / steps
    return peak * min(done / 0.05, 0.5 + 0.5 * math.cos(math.pi * done))


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Any], device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """The shares of images whose class is the first, and among the first five, of all processes' images."""
    model.eval()
    counts = torch.zeros(3, device=device)
    for images, class_ids in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores = model(images)
        right = scores.topk(min(5, scores.shape[1])).indices == class_ids[:, None]
        counts += torch.stack([right[:, 0].sum(), right.sum(), torch.tensor(len(images), device=device)])
    if WORLD > 1:
        dist.all_reduce(counts)
    model.train()
    first, five, images = counts.tolist()
    return first / images, five / images


def train(options: argparse.Namespace) -> None:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", LOCAL_RANK) if cuda else torch.device("cpu")
    dtype = (torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16) if cuda else torch.float32
    if WORLD > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    if cuda:
        torch.cuda.set_device(device)
    torch.manual_seed(options.seed)
    batches, val_batches = loaders_of(options, device, dtype)
    plain = model_of(options, len(batches.dataset.categories)).to(device, memory_format=torch.channels_last)
    ema = (
        AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(options.ema), use_buffers=True) if options.ema else None
    )
    optimizer, scaler = optimizer_of(plain, options), torch.amp.GradScaler(enabled=dtype == torch.float16)
    parts: dict[str, Any] = {"model": plain, "optimizer": optimizer, "scaler": scaler, "loader": batches}
    parts |= {"ema": ema} if ema else {}
    checkpoint, position = options.out / "last.pt", {"epoch": 0, "step": 0}
    if options.resume and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        position = saved["loader"]
    options.out.mkdir(parents=True, exist_ok=True)
    model = DistributedDataParallel(plain) if WORLD > 1 else plain
    loss_of = nn.CrossEntropyLoss(label_smoothing=options.smoothing)

    def save() -> None:
        if RANK == 0:
            torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)

    for epoch in range(position["epoch"], options.epochs):
        batches.set_epoch(epoch)
        total, began, first, done = torch.zeros((), device=device), time.perf_counter(), position["step"], 0
        position["step"] = 0
        for step, (images, targets) in enumerate(batches, first):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, epoch * len(batches) + step + 1, options.epochs * len(batches))
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = loss_of(model(images), targets)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if ema:
                ema.update_parameters(plain)
            total, done = total + loss.detach(), done + 1
            if (step + 1) % options.save_every == 0:
                save()
        mean = total.item() / max(done, 1)
        speed = done * options.batch_size * WORLD / (time.perf_counter() - began)
        top1, top5 = evaluate(ema or plain, val_batches, device, dtype)
        save()
        if RANK == 0:
            print(
                f"epoch {epoch}: loss {mean:.3f}, top-1 {top1:.3%}, top-5 {top5:.3%}, {speed:.0f} images/s", flush=True
            )
    if WORLD > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="a folder with train/ and val/, or the caches of both")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint of --out")
    for name, default, text in (
        ("out", Path("runs/imagenet"), "folder of the checkpoint"),
        ("save-every", 1000, "steps between checkpoints"),
        ("model", "resnet18", "resnet18, or a name of timm's models"),
        ("width", 64, "channels of resnet18's first stage"),
        ("epochs", 16, "epochs of the whole training"),
        ("batch-size", 256, "images of a device"),
        ("workers", 8, "threads of a process"),
        ("first-size", 128, "pixels of the first epochs"),
        ("size", 224, "pixels of the last epochs and of evaluation"),
        ("lr", 0.5, "largest learning rate for 256 images"),
        ("weight-decay", 5e-5, "weight decay of matrices"),
        ("smoothing", 0.1, "label smoothing"),
        ("mixup", 0.0, "alpha of MixUp; 0: none"),
        ("cutmix", 0.0, "alpha of CutMix; 0: none"),
        ("ema", 0.0, "decay of averaged weights; 0: none"),
        ("seed", 0, "seed of order, transforms and weights"),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default: {default})")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
