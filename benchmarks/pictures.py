"""The images of a dataset for the contenders, as files or in caches of any encoding."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fastload import Cache
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.resize import Reduction
from fastload.sources.base import Sample, Source
from fastload.sources.detect import Dataset, find_datasets

AS_IS = Reduction()


class Pictures:
    """The images of `source` that a cache can hold. Caches are built once, in the folder `scratch`."""

    def __init__(self, name: str, source: Source, scratch: Path, console: Console) -> None:
        self.name = name
        self.scratch = scratch
        self._source, self._console = source, console
        self._caches: dict[tuple[Encoding, Reduction], Cache] = {}

    @cached_property
    def samples(self) -> list[Sample]:
        """The images in the order of the caches."""
        by_id = {sample.image_id: sample for sample in self._source.samples() if sample.skip_reason is None}
        return [by_id[image_id] for image_id in self.cache(Encoding.ORIGINAL).image_ids.tolist()]

    def cache(self, encoding: Encoding, reduction: Reduction = AS_IS) -> Cache:
        """The cache of the images in an encoding, with reduced size or quality."""
        key = encoding, reduction
        if key not in self._caches:
            self._caches[key] = self._build(encoding, reduction)
        return self._caches[key]

    def _build(self, encoding: Encoding, reduction: Reduction) -> Cache:
        name = f"{encoding.label}{'-reduced' if reduction else ''}"
        with Progress(console=self._console, transient=True) as bars:
            task = bars.add_task(f"Building the cache {name}", total=len(self._source))
            report = build_cache(
                self._source,
                self.scratch / f"{len(self._caches)}-{name}.lmdb",
                BuildOptions(encoding, reduction),
                lambda done, total: bars.update(task, completed=done),
            )
        return Cache(report.path)


def open_pictures(data: Path, scratch: Path, console: Console) -> Pictures:
    """The images in a dataset's folder, or in the image folder of one of its splits."""
    dataset = _choose(data)
    return Pictures(dataset.split, dataset.load(), scratch, console)


def _choose(data: Path) -> Dataset:
    """The split with the image folder `data`; else the dataset's training split, or its first split."""
    data = data.resolve()
    if (data.parent / "annotations" / f"instances_{data.name}.json").is_file():
        return find_datasets(data.parent, splits=[data.name])[0]
    datasets = find_datasets(data)
    return next((dataset for dataset in datasets if "train" in dataset.split), datasets[0])
