"""The loaders that the benchmark compares. A class added to CONTENDERS is run, printed and written to the results.

All do the same work: read every image once in random order, scale it to a short edge of 512 (long edge at most 736),
flip half of them, pad batches to the largest image, rounded up to multiples of 32, and return uint8 batches and boxes.
`note` says if a contender does less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pictures import AS_IS, Pictures
from torch.utils.data import Subset

from fastload import FastLoader, RandomFlip, ShortestEdge
from fastload.cache.format.layout import Encoding
from fastload.cache.write.resize import Reduction
from fastload.sources.base import Sample
from fastload.tools.baseline import LONG_EDGE, SHORT_EDGE, BaselineDataset, baseline_loader, scale_of, scaled_size

Q90 = Reduction(quality=90, subsampling="420")


@dataclass(frozen=True)
class Work:
    """The work of each contender: the images `order`, once, in any order."""

    pictures: Pictures
    order: Sequence[int]  # the images of one epoch: repeats make it long enough to be timed
    batch_size: int
    threads: int

    @property
    def samples(self) -> list[Sample]:
        """The images of the dataset as files; `order` indexes them."""
        return self.pictures.samples


class Contender:
    """Base class. An epoch of `batches` is timed; `__init__` is not."""

    name: ClassVar[str]
    title: ClassVar[str]  # a description for README
    note: ClassVar[str] = ""  # how its work differs from that of the others

    def __init__(self, work: Work) -> None:
        raise NotImplementedError

    def batches(self) -> Iterable[tuple[Any, Any]]:
        """One epoch of (images, targets)."""
        raise NotImplementedError

    def bytes_per_image(self) -> float:
        """The mean size of a stored image, on disk unless `note` says otherwise."""
        raise NotImplementedError


class DataLoaderPillow(Contender):
    """Like torchvision's detection reference: worker processes, Pillow, no grouping by shape."""

    name = "dataloader-pillow"
    title = "DataLoader, Pillow"
    dataset: ClassVar[type[BaselineDataset]] = BaselineDataset

    def __init__(self, work: Work) -> None:
        self.samples = work.samples
        self.loader = baseline_loader(Subset(self.dataset(work.samples), work.order), work.batch_size, work.threads)

    def batches(self) -> Iterable[tuple[Any, Any]]:
        return self.loader

    def bytes_per_image(self) -> float:
        return float(np.mean([sample.path.stat().st_size for sample in self.samples]))


class OpenCVDataset(BaselineDataset):
    """Decodes and scales with OpenCV."""

    def read(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        cv2.setNumThreads(0)  # its threads and the worker processes slow each other down
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        height, width = image.shape[:2]
        scaled = cv2.resize(image, scaled_size(width, height), interpolation=cv2.INTER_LINEAR)
        return cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB), scale_of(width, height)


class DataLoaderOpenCV(DataLoaderPillow):
    name = "dataloader-opencv"
    title = "DataLoader, OpenCV"
    note = "does not antialias"
    dataset = OpenCVDataset


class FastLoaderOriginal(Contender):
    """FastLoader on a cache of the original JPEGs; images grouped by shape, its default when shuffling."""

    name = "fastload"
    title = "FastLoader, original JPEGs"
    encoding: ClassVar[Encoding] = Encoding.ORIGINAL
    reduction: ClassVar[Reduction] = AS_IS
    dtype: ClassVar[torch.dtype] = torch.uint8

    def __init__(self, work: Work) -> None:
        self.cache = work.pictures.cache(self.encoding, self.reduction)
        self.loader = FastLoader(
            self.cache.subset(work.order),
            work.batch_size,
            shuffle=True,
            num_workers=work.threads,
            transforms=[ShortestEdge(SHORT_EDGE, max_size=LONG_EDGE), RandomFlip()],
            dtype=self.dtype,
        )

    def batches(self) -> Iterable[tuple[Any, Any]]:
        return self.loader

    def bytes_per_image(self) -> float:
        return float(self.cache.lengths.mean())


class FastLoaderDct(FastLoaderOriginal):
    name = "fastload-dct"
    title = "FastLoader, dct"
    encoding = Encoding.DCT


class FastLoaderDctFast(FastLoaderOriginal):
    name = "fastload-dct-fast"
    title = "FastLoader, dct-fast"
    encoding = Encoding.DCT_FAST


class FastLoaderQ90Dct(FastLoaderOriginal):
    name = "fastload-q90-dct"
    title = "FastLoader, dct of quality 90"
    note = "images re-encoded at quality 90, 4:2:0"
    encoding = Encoding.DCT
    reduction = Q90


class FastLoaderPlanes(FastLoaderOriginal):
    name = "fastload-planes"
    title = "FastLoader, planes"
    note = "images re-encoded at quality 90, 4:2:0"
    encoding = Encoding.PLANES
    reduction = Q90


def in_dtype(kind: type[FastLoaderOriginal], dtype: torch.dtype) -> type[FastLoaderOriginal]:
    """The same contender with floating-point images."""
    word = str(dtype).removeprefix("torch.")
    more = {"name": f"{kind.name}-{word}", "title": f"{kind.title}, {word}", "dtype": dtype}
    return type(f"{kind.__name__}{word.capitalize()}", (kind,), more)


CONTENDERS: tuple[type[Contender], ...] = (
    DataLoaderPillow,
    DataLoaderOpenCV,
    FastLoaderOriginal,
    FastLoaderDct,
    FastLoaderDctFast,
    FastLoaderQ90Dct,
    FastLoaderPlanes,
)
