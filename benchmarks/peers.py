"""Other loaders, run only if named. Each is set up as its documentation recommends."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from contenders import CONTENDERS, Contender, DataLoaderPillow, OpenCVDataset, Work
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Subset

from fastload.cache.format.layout import Encoding
from fastload.sources.base import Sample
from fastload.tools.baseline import (
    FILL,
    LONG_EDGE,
    SHORT_EDGE,
    BaselineDataset,
    baseline_loader,
    pad_batch,
    scale_of,
    scaled_size,
)


class Peer(Contender):
    """Base class. `packages` maps the modules it needs to the names of their packages."""

    packages: ClassVar[dict[str, str]] = {}


class SimpleJpegDataset(OpenCVDataset):
    """Decodes with simplejpeg, which releases the GIL, and files that it cannot read with OpenCV."""

    def read(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        import simplejpeg

        cv2.setNumThreads(0)  # the pipeline's threads are enough
        try:
            image = simplejpeg.decode_jpeg(path.read_bytes())
        except ValueError:
            return super().read(path)
        height, width = image.shape[:2]
        size = scaled_size(width, height)
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), scale_of(width, height)


class Spdl(Peer):
    """A pipeline of threads, whose functions release the GIL."""

    name = "spdl"
    title = "SPDL, simplejpeg and OpenCV"
    note = "does not antialias"
    packages: ClassVar = {"spdl": "spdl", "simplejpeg": "simplejpeg"}

    def __init__(self, work: Work) -> None:
        self.work = work
        self.dataset = SimpleJpegDataset(work.samples)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        from spdl.pipeline import PipelineBuilder

        builder = (
            PipelineBuilder()
            .add_source(random.sample(self.work.order, len(self.work.order)))
            .pipe(self.dataset.__getitem__, concurrency=self.work.threads)
            .aggregate(self.work.batch_size)
            .pipe(pad_batch)
            .add_sink(3)
        )
        pipeline = builder.build(num_threads=self.work.threads)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    def bytes_per_image(self) -> float:
        return float(np.mean([sample.path.stat().st_size for sample in self.work.samples]))


class Dali(Peer):
    """A CPU pipeline that reads COCO's format; the annotations of an epoch are written to the scratch folder."""

    name = "dali"
    title = "DALI on the CPU"
    packages: ClassVar = {"nvidia.dali": "nvidia-dali-cuda120"}

    def __init__(self, work: Work) -> None:
        from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

        self.samples = work.samples
        root = Path(os.path.commonpath([sample.path.parent for sample in work.samples]))
        annotations = work.pictures.scratch / "dali.json"
        annotations.write_text(json.dumps(coco_of(work, root)))
        self.loader = DALIGenericIterator(
            self.pipeline(work, root, annotations),
            ["images", "boxes", "labels"],
            reader_name="reader",
            auto_reset=True,
            last_batch_policy=LastBatchPolicy.PARTIAL,
        )

    def pipeline(self, work: Work, root: Path, annotations: Path) -> Any:
        """Batches of images (B, H, W, 3), boxes and labels, padded with -1."""
        from nvidia.dali import fn, pipeline_def

        @pipeline_def(batch_size=work.batch_size, num_threads=work.threads, device_id=None)
        def define() -> Any:
            jpegs, boxes, labels = fn.readers.coco(
                file_root=str(root),
                annotations_file=str(annotations),
                ltrb=True,
                ratio=True,
                random_shuffle=True,
                name="reader",
            )
            images = fn.decoders.image(jpegs, device="cpu", adjust_orientation=False)
            images = fn.resize(images, resize_shorter=SHORT_EDGE, max_size=LONG_EDGE)
            flipped = fn.random.coin_flip()
            images = fn.flip(images, horizontal=flipped)
            boxes = fn.bb_flip(boxes, horizontal=flipped, ltrb=True)
            images = fn.pad(images, axes=(0, 1), align=(32, 32), fill_value=FILL[1])
            return images, fn.pad(boxes, fill_value=-1), fn.pad(labels, fill_value=-1)

        return define()

    def batches(self) -> Iterator[tuple[Any, Any]]:
        for (batch,) in self.loader:
            yield batch.pop("images"), batch

    def bytes_per_image(self) -> float:
        return float(np.mean([sample.path.stat().st_size for sample in self.samples]))


def coco_of(work: Work, root: Path) -> dict[str, Any]:
    """The images of an epoch in COCO's format. A repeated image gets several ids."""
    cache = work.pictures.cache(Encoding.ORIGINAL)
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": category.id, "name": category.name} for category in cache.categories],
    }
    for number, i in enumerate(work.order):
        width, height = cache.sizes[i].tolist()
        file = str(work.samples[i].path.relative_to(root))
        document["images"].append({"id": number, "file_name": file, "width": width, "height": height})
        first, last = cache.box_offsets[i : i + 2]
        for box, label in zip(cache.boxes[first:last].tolist(), cache.labels[first:last].tolist(), strict=True):
            x0, y0, x1, y1 = box
            annotation = {"id": len(document["annotations"]), "image_id": number, "iscrowd": 0}
            annotation |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": cache.categories[label].id}
            document["annotations"].append(annotation)
    return document


class Pixels:
    """The images of an epoch as (pixels (h, w, 3) RGB, number), for FFCV's writer."""

    def __init__(self, work: Work) -> None:
        self.paths = [sample.path for sample in work.samples]
        self.order = work.order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], int]:
        with Image.open(self.paths[self.order[number]]) as image:
            return np.array(image.convert("RGB")), number


class Ffcv(Peer):
    """JPEGs of quality 90 in FFCV's file format. Its decoders crop and scale to one size, without padding."""

    name = "ffcv"
    title = "FFCV, JPEG"
    note = "center crops of 512 x 512 without boxes instead of whole images; re-encodes at quality 90"
    packages: ClassVar = {"ffcv": "ffcv"}
    storage: ClassVar[dict[str, Any]] = {"write_mode": "jpg", "jpeg_quality": 90}

    def __init__(self, work: Work) -> None:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
        from ffcv.writer import DatasetWriter

        self.images = len(work.order)
        self.path = work.pictures.scratch / f"{self.name}.beton"
        fields = {"image": RGBImageField(**self.storage), "number": IntField()}
        DatasetWriter(str(self.path), fields, num_workers=work.threads).from_indexed_dataset(Pixels(work))
        crop = CenterCropRGBImageDecoder((SHORT_EDGE, SHORT_EDGE), ratio=1)
        self.loader = Loader(
            str(self.path),
            batch_size=work.batch_size,
            num_workers=work.threads,
            order=OrderOption.RANDOM,
            drop_last=False,
            pipelines={
                "image": [crop, RandomHorizontalFlip(), ToTensor(), ToTorchImage()],
                "number": [IntDecoder(), ToTensor()],
            },
        )

    def batches(self) -> Iterable[tuple[Any, Any]]:
        return self.loader

    def bytes_per_image(self) -> float:
        return self.path.stat().st_size / self.images


class FfcvRaw(Ffcv):
    name = "ffcv-raw"
    title = "FFCV, pixels"
    note = "center crops of 512 x 512 without boxes instead of whole images; stores decoded pixels"
    storage: ClassVar = {"write_mode": "raw"}


class DecodedDataset(BaselineDataset):
    """Decodes and scales all images once, and keeps them in memory."""

    def __init__(self, samples: list[Sample], threads: int) -> None:
        super().__init__(samples)
        paths = [sample.path for sample in samples]
        with ThreadPoolExecutor(threads) as pool:
            self.decoded = dict(zip(paths, pool.map(super().read, paths), strict=True))

    def read(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        return self.decoded[path]


class RamCache(DataLoaderPillow):
    """Like Ultralytics' `cache="ram"`: after the first epoch, images come from memory at their final size."""

    name = "ram-cache"
    title = "DataLoader, images kept in memory"
    note = "neither decodes nor scales; needs the whole dataset in memory (the size given)"

    def __init__(self, work: Work) -> None:
        self.dataset = DecodedDataset(work.samples, work.threads)
        self.loader = baseline_loader(Subset(self.dataset, work.order), work.batch_size, work.threads)

    def bytes_per_image(self) -> float:
        return float(np.mean([image.nbytes for image, _ in self.dataset.decoded.values()]))


PEERS: tuple[type[Contender], ...] = (Spdl, Dali, Ffcv, FfcvRaw, RamCache)
BY_NAME = {kind.name: kind for kind in (*CONTENDERS, *PEERS)}


def check_installed(kinds: Iterable[type[Contender]]) -> None:
    """Exit with the command that installs what is missing."""
    packages = {module: name for kind in kinds if issubclass(kind, Peer) for module, name in kind.packages.items()}
    if missing := [name for module, name in packages.items() if not _found(module)]:
        raise SystemExit(f"{', '.join(missing)} missing: run `pip install {' '.join(missing)}`, or leave the peer out.")


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
