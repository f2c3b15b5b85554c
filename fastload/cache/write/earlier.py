"""Taking the images of an earlier build whose source files have not changed since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastload.cache.format.problems import read_problems
from fastload.cache.format.source_files import NO_FILE, Stamp
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.read.mapping import open_mapping
from fastload.cache.write.ingest import IngestedImage, make_entry, stamp_of
from fastload.errors import CacheError
from fastload.sources.base import CHANGED, NOTES, Problem, Sample, Source, files_of


class EarlierBuild:
    """A cache that was built from the same source with the same options, and perhaps from other image files.

    Args:
        path: the cache.
        source_problems: the problems of the source that belong to no sample.

    Raises:
        CacheError: the cache cannot be opened, or its list of source files is damaged.
    """

    def __init__(self, path: Path, source_problems: Sequence[Problem]) -> None:
        self.cache = CacheFile(path)
        files = open_mapping(path).source_files()
        self.stamps: dict[int, Stamp] = dict(zip(files.image_ids, files.stamps, strict=False)) if files else {}
        self._index = {image_id: i for i, image_id in enumerate(self.cache.image_ids.tolist())}
        self._problems: defaultdict[int, list[Problem]] = defaultdict(list)
        for problem in read_problems(path):
            if problem.kind not in (CHANGED, *NOTES) and problem not in source_problems:
                self._problems[problem.image_id].append(problem)

    def changed(self, source: Source) -> Iterator[Sample]:
        """Yield the samples whose files have changed since. A cache without a list of source files has none."""
        for sample in files_of(source) if self.stamps else ():
            if self._is_changed(sample, stamp_of(sample)):
                yield sample

    def _is_changed(self, sample: Sample, stamp: Stamp) -> bool:
        """Return whether the file of a sample has changed. An image whose file has vanished is kept."""
        return stamp not in (NO_FILE, self.stamps.get(sample.image_id))

    def ingested(self, sample: Sample) -> IngestedImage | None:
        """Return what the earlier build made of a sample; None if its file has changed or its record is damaged."""
        if sample.image_id not in self.stamps or self._is_changed(sample, stamp_of(sample)):
            return None
        stamp = self.stamps[sample.image_id]
        i = self._index.get(sample.image_id)
        if i is None:
            return IngestedImage(None, None, self._problems[sample.image_id], stamp)
        try:
            self.cache.check_record(i)
            record, columns = bytes(self.cache.record_bytes(i)), self.cache.columns_of(i)
            color = self.cache.color_of(i)
            self.cache.check_unchanged()
            width, height = self.cache.source_sizes[i].tolist()
            entry = make_entry(record, sample.image_id, sample.name, (width, height), columns, color)
        except (CacheError, ValueError):
            return None
        return IngestedImage(record, entry, self._problems[sample.image_id], stamp)
