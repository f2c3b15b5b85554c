"""Settings and fixtures of the whole test run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks.engines import SLEEPING, SleepingEngine
from fastload import FastLoader
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.engines.auto import ENGINES
from fastload.sources.detect import find_datasets
from fastload.tools.sample import make_sample
from tests.support.datasets import box, many_jpegs, write_coco
from tests.support.loaders import loader
from tests.support.memory_cache import MemoryCache

settings.register_profile("fastload", deadline=None)  # a busy machine must not fail a test
settings.load_profile("fastload")


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Real images of COCO 2017, where this machine has them."""
    path = Path(__file__).resolve().parents[1] / "../shared/data/coco-mini"
    if not path.is_dir():
        pytest.skip("no coco-mini beside the repository")
    return path.resolve()


@pytest.fixture(scope="session")
def coco_small(tmp_path_factory) -> Path:
    """A COCO folder of 12 small images; the third has no box, the first has a crowd."""
    boxes = [box(100 + i, 10 * (1 + i // 2), [i, 2, 10, 20 + i], (1, 18)[i % 2]) for i in range(24) if i // 2 != 2]
    boxes[1] |= {"iscrowd": 1, "area": 77.5}
    return write_coco(tmp_path_factory.mktemp("small"), many_jpegs(12), boxes)


@pytest.fixture(scope="session")
def small_cache(coco_small, tmp_path_factory) -> Path:
    """The cache of `coco_small`. Not to be changed."""
    path = tmp_path_factory.mktemp("cache") / "small.lmdb"
    build_cache(find_datasets(coco_small)[0].load(), path, BuildOptions(Encoding.ORIGINAL, workers=2))
    return path


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample set of 48 images in COCO's layout. Read only: all tests share it."""
    return make_sample(tmp_path_factory.mktemp("sample") / "set", images=48)


@pytest.fixture
def sleeping_loader(monkeypatch: pytest.MonkeyPatch) -> FastLoader:
    """A loader of 12 images, 4 to a batch of 0.4 s; all are ready at once but for their pixels."""
    monkeypatch.setitem(ENGINES, "sleeping", SLEEPING["sleeping"])
    monkeypatch.setattr(SleepingEngine, "microseconds", 100_000)
    return loader(MemoryCache(12), 4, num_workers=1, engine="sleeping")
