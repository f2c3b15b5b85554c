"""The report at the end of an epoch: warnings of skipped images and of the bottleneck."""

from __future__ import annotations

import warnings
from itertools import islice

from fastload.cache.read.cache import Cache
from fastload.loader.stats import Meter


def report(cache: Cache, skipped: dict[int, str], meter: Meter, warned: list[str]) -> None:
    """Warn of the images `skipped` in this epoch, and of the bottleneck unless `warned` has a warning already."""
    if skipped:
        some = ", ".join(f"{image_id} ({reason})" for image_id, reason in islice(skipped.items(), 3))
        paths = _paths_of(cache, list(skipped))
        verify = " and ".join(f"`fastload verify {path}`" for path in paths)
        warnings.warn(
            f"{len(skipped)} images of {', '.join(paths)} did not decode in this epoch and were skipped, among them "
            f"image {some}. Run {verify} to see what is damaged.",
            stacklevel=3,
        )
    if not warned and (advice := meter.stats().warning()):
        warned.append(advice)
        warnings.warn(f"{cache.where}: {advice} `loader.stats()` has the figures.", stacklevel=3)


def _paths_of(cache: Cache, image_ids: list[int]) -> list[str]:
    """The files that hold these images."""
    if len(cache.shards) == 1:  # works after the file has vanished, too
        return [cache.where]
    return sorted({str(cache.path_of(i)) for i in cache.index_of(image_ids).tolist()})
