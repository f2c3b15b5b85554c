"""Runs rounds of published loaders of classified images, one for each line of its standard input.

It is started by classification.py in an environment of its own, with torchvision or with FFCV:

    python benchmarks/peers_classification.py classes/ --loaders torchvision --workers 2

The folder has a folder for each class. A line of input is the name of a loader; the answer is a line of JSON with
`images_per_second` and `cpu_ms`, the processor time of all processes for an image. All loaders give uint8 batches (B,
3, 224, 224) of random resized crops, half of them flipped. A round is timed after each worker has made two batches.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from cpu_time import cpu_seconds

SIZE = 224
Loader = Iterable[Any]  # of batches that begin with the images


def torchvision_loader(options: argparse.Namespace, images: int) -> Loader:
    """ImageFolder, Pillow and torchvision's transforms in DataLoader, as its reference scripts have them."""
    from torchvision import datasets, transforms

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    folder = datasets.ImageFolder(options.folder, transforms.Compose(steps))
    repeated = torch.utils.data.Subset(folder, list(islice(cycle(range(len(folder))), images)))
    return torch.utils.data.DataLoader(
        repeated, options.batch_size, shuffle=True, num_workers=options.workers, drop_last=True
    )


def ffcv_loader(options: argparse.Namespace, images: int, **image_field: Any) -> Loader:
    """FFCV's loader of a file that is written first; `image_field` are the arguments of its RGBImageField."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter
    from PIL import Image

    files = sorted(options.folder.glob("*/*"))
    classes = sorted({file.parent.name for file in files})

    class Images:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            return Image.open(files[i]).convert("RGB"), classes.index(files[i].parent.name)

    written = options.scratch / ("-".join(map(str, image_field.values())) + ".beton")
    if not written.exists():
        fields = {"image": RGBImageField(**image_field), "label": IntField()}
        DatasetWriter(str(written), fields, num_workers=options.workers).from_indexed_dataset(Images())
    return Loader(
        str(written),
        options.batch_size,
        num_workers=options.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        indices=list(islice(cycle(range(len(files))), images)),
        drop_last=True,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((SIZE, SIZE)),
                RandomHorizontalFlip(),
                ToTensor(),
                ToTorchImage(),
            ],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )


LOADERS: dict[str, Callable[[argparse.Namespace, int], Loader]] = {
    "torchvision": torchvision_loader,
    "ffcv-q90": partial(ffcv_loader, write_mode="jpg", jpeg_quality=90),
    "ffcv-q90-500": partial(ffcv_loader, write_mode="jpg", jpeg_quality=90, max_resolution=500),
    "ffcv-raw-500": partial(ffcv_loader, write_mode="raw", max_resolution=500),
}


def measure_round(loader: Loader, skipped: int, batches: int) -> dict[str, float]:
    """Measure the `batches` after the first `skipped`, of an epoch with more: worker processes end with the last."""
    start, before, done, found = 0.0, {}, 0, {}
    for number, batch in enumerate(loader, 1):
        if number == skipped:
            start, before = time.perf_counter(), cpu_seconds()
        elif skipped < number <= skipped + batches:
            done += len(batch[0])
        if number == skipped + batches:
            seconds, after = time.perf_counter() - start, cpu_seconds()
            spent = sum(after[process] - before[process] for process in after.keys() & before.keys())
            found = {"images_per_second": done / seconds, "cpu_ms": 1000 * spent / done}
    return found


def main() -> None:
    """Answer each line of input by a round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with a folder of images for each class")
    parser.add_argument("--scratch", type=Path, default=Path("."), help="folder for files that FFCV reads")
    parser.add_argument("--loaders", nargs="+", choices=list(LOADERS), required=True, help="loaders to prepare")
    parser.add_argument("--workers", type=int, default=2, help="worker processes or threads (default: 2)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (default: 64)")
    parser.add_argument("--images", type=int, default=600, help="least images in a round (default: 600)")
    options = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # FFCV prints
    skipped, batches = 2 * options.workers, -(-options.images // options.batch_size)
    images = (skipped + batches + 1) * options.batch_size
    loaders = {name: LOADERS[name](options, images) for name in options.loaders}
    for line in sys.stdin:
        print(json.dumps(measure_round(loaders[line.strip()], skipped, batches)), file=answers, flush=True)


if __name__ == "__main__":
    main()
