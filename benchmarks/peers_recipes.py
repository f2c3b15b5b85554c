"""Measures published training loaders, each run as its own repository runs it, and prints images/s as JSON.

It needs torchvision, OpenCV, psutil and what the repositories import, so it runs in an environment of its own, with
checkouts of pytorch/vision, YOLOX and D-FINE (see published.py), on a dataset in COCO's layout:

    python benchmarks/peers_recipes.py --repositories repositories/ --data coco/ --recipe yolox --workers 2

Each loader uses its repository's dataset, transforms, batch sampler, collate function and `DataLoader`; only paths, the
number of workers and the batch size are set. Images are repeated, so that a round is one epoch. A round is timed from
the moment that the workers are busy. Loaders of one recipe take turns. `cpu_ms` is the processor time of all processes
for an image: on a machine that others use too, it says more than the images/s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import published
import torch
import torchvision
from cpu_time import cpu_seconds

REPEATS = 40  # of the dataset, so that no round needs a second epoch


@dataclass(frozen=True)
class Setup:
    """What every loader is told.

    Args:
        repositories: the folder of the checkouts.
        data: a folder with `train2017/` and `annotations/instances_train2017.json`.
        recipe: a name of RECIPES.
        workers: worker processes.
        batch_size: images in a batch.
        loaders: the names of the recipe's loaders to run.
    """

    repositories: Path
    data: Path
    recipe: str
    workers: int
    batch_size: int
    loaders: list[str]


Loader = Iterable[tuple[Any, ...]]


def torchvision_loader(setup: Setup, backend: str, use_v2: bool, uint8: bool) -> Loader:
    """The loader of references/detection/train.py, with `--aspect-ratio-group-factor 3`, its default.

    Args:
        setup: the folders and sizes.
        backend: `pil` (the default of train.py) or `tv_tensor`.
        use_v2: `--use-v2`. Without it, train.py also draws and transforms the mask of every object, whatever the model;
            an object without an outline gets that of its box.
        uint8: leave out the last transform, which converts to float32.
    """
    presets = published.torchvision_reference(setup.repositories, "presets")
    coco_utils = published.torchvision_reference(setup.repositories, "coco_utils")
    grouping = published.torchvision_reference(setup.repositories, "group_by_aspect_ratio")
    utils = published.torchvision_reference(setup.repositories, "utils")
    preset = presets.DetectionPresetTrain(data_augmentation=setup.recipe, backend=backend, use_v2=use_v2)
    if uint8:
        steps = preset.transforms.transforms
        steps[:] = [step for step in steps if type(step).__name__ != "ToDtype"]
    dataset = coco_utils.get_coco(str(setup.data), "train", preset, use_v2=use_v2)
    for annotation in dataset.dataset.coco.anns.values():
        x, y, w, h = annotation["bbox"]
        annotation.setdefault("segmentation", [[x, y, x + w, y, x + w, y + h, x, y + h]])
    dataset.indices = list(dataset.indices) * REPEATS
    sampler = torch.utils.data.RandomSampler(dataset)
    groups = grouping.create_aspect_ratio_groups(dataset, k=3)
    batches = grouping.GroupedBatchSampler(sampler, groups, setup.batch_size)
    return torch.utils.data.DataLoader(
        dataset, batch_sampler=batches, num_workers=setup.workers, collate_fn=utils.collate_fn
    )


def yolox_loader(setup: Setup) -> Loader:
    """The loader of YOLOX's base experiment: mosaic, affine, MixUp, HSV, flip, all in 640 x 640; it never ends."""
    published.yolox(setup.repositories, "yolox.utils").configure_module()
    experiment = published.yolox(setup.repositories, "yolox.exp").Exp()
    experiment.data_dir = str(setup.data)
    experiment.data_num_workers = setup.workers
    return experiment.get_data_loader(setup.batch_size, is_distributed=False)


def dfine_loader(setup: Setup) -> Loader:
    """The loader of D-FINE-L on COCO, in an epoch with all transforms and multi-scale batches."""
    published.dfine(setup.repositories)
    core = published.dfine(setup.repositories, "src.core")
    config = core.YAMLConfig(
        str(setup.repositories / "D-FINE" / "configs" / "dfine" / "dfine_hgnetv2_l_coco.yml"),
        train_dataloader={
            "dataset": {
                "img_folder": str(setup.data / "train2017"),
                "ann_file": str(setup.data / "annotations" / "instances_train2017.json"),
            },
            "num_workers": setup.workers,
            "total_batch_size": setup.batch_size,
        },
    )
    loader = config.train_dataloader
    loader.dataset.ids = loader.dataset.ids * REPEATS
    loader.set_epoch(0)
    return loader


V1 = {"backend": "pil", "use_v2": False}
V2 = {"backend": "pil", "use_v2": True}
V2_TENSOR = {"backend": "tv_tensor", "use_v2": True}


def torchvision_loaders(**versions: dict[str, Any]) -> dict[str, Callable[[Setup], Loader]]:
    """Each version of train.py's transforms as published and, as `uint8`, without the conversion to float32."""
    return {
        f"torchvision-{name}{'-uint8' if uint8 else ''}": partial(torchvision_loader, uint8=uint8, **options)
        for name, options in versions.items()
        for uint8 in (False, True)
    }


RECIPES: dict[str, dict[str, Callable[[Setup], Loader]]] = {
    "multiscale": torchvision_loaders(v1=V1, v2=V2, v2_tensor=V2_TENSOR),
    "lsj": torchvision_loaders(v1=V1),  # its FixedSizeCrop loses the box type that v2 needs, and fills no tensors
    "ssd": torchvision_loaders(v1=V1, v2=V2, v2_tensor=V2_TENSOR),
    "dfine": {"d-fine": dfine_loader},
    "yolox": {"yolox": yolox_loader},
}


def measure_round(loader: Loader, images: int, setup: Setup) -> tuple[float, float]:
    """Load `images` images after each worker has made two batches. Return images/s and processor ms for an image."""
    start, before, done, skipped = 0.0, {}, 0, 2 * max(setup.workers, 1)
    for number, batch in enumerate(loader):
        if number == skipped:
            start, before = time.perf_counter(), cpu_seconds()
        elif number > skipped:
            done += len(batch[0])
        if done >= images:
            seconds, after = time.perf_counter() - start, cpu_seconds()
            spent = sum(after[process] - before[process] for process in after.keys() & before.keys())
            return round(done / seconds, 1), round(1000 * spent / done, 2)
    raise SystemExit(f"the epoch has fewer than {images} images after the warm-up: lower --images")


def measure(setup: Setup, images: int, rounds: int) -> dict[str, Any]:
    """Measure the loaders of a recipe in turns."""
    found: dict[str, list[tuple[float, float]]] = {}
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):  # the repositories print
        loaders = {name: RECIPES[setup.recipe][name](setup) for name in setup.loaders}
        for _ in range(rounds):
            for name, loader in loaders.items():
                found.setdefault(name, []).append(measure_round(loader, images, setup))
    results = {}
    for name, pairs in found.items():
        speeds, costs = zip(*pairs, strict=True)
        results[name] = {"images_per_second": median(speeds), "rounds": speeds, "cpu_ms": median(costs)}
    software = {"torch": torch.__version__, "torchvision": torchvision.__version__, "OpenCV": cv2.__version__}
    return {
        "recipe": setup.recipe,
        "workers": setup.workers,
        "batch_size": setup.batch_size,
        "images": images,
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "software": software | {"python": sys.version.split()[0]},
        "loaders": results,
    }


def main() -> None:
    """Measure one recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repositories", type=Path, required=True, help="folder of the checkouts")
    parser.add_argument("--data", type=Path, required=True, help="dataset in COCO's layout, with train2017/")
    parser.add_argument("--recipe", choices=list(RECIPES), required=True, help="recipe to measure")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--images", type=int, default=600, help="images in a round (default: 600)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch (default: 16)")
    parser.add_argument("--loaders", nargs="+", metavar="NAME", help="loaders of the recipe (default: all)")
    given = parser.parse_args()
    names = list(RECIPES[given.recipe])
    if unknown := set(given.loaders or ()) - set(names):
        parser.error(f"{given.recipe} has no loader {', '.join(sorted(unknown))}: use some of {', '.join(names)}")
    setup = Setup(given.repositories, given.data, given.recipe, given.workers, given.batch_size, given.loaders or names)
    print(json.dumps(measure(setup, given.images, given.rounds), indent=1))


if __name__ == "__main__":
    main()
