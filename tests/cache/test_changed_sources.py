"""Source files that change after a cache was built: noticed, listed, and read again without the others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastload.cache.format.layout import SOURCE_FILES_KEY, Encoding
from fastload.cache.format.problems import read_problems
from fastload.cache.format.source_files import SourceFiles
from fastload.cache.read.cache_file import CacheFile
from fastload.cache.read.mapping import open_mapping
from fastload.cache.read.verify import verify_sources
from fastload.cache.write import build as module
from fastload.cache.write.assemble import BuildReport
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.errors import CacheError
from fastload.sources.detect import find_datasets
from tests.support.datasets import box, encoded, jpeg, many_jpegs, pixels, write_coco


def build(root: Path, **options: bool) -> BuildReport:
    (dataset,) = find_datasets(root)
    return build_cache(dataset.load(), dataset.cache, BuildOptions(**options))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images: number 3 is a PNG, number 4 is broken, and the box of number 1 is clipped."""
    files = many_jpegs(6)
    files["00003.jpg"], files["00004.jpg"] = encoded(pixels(64, 48, 3), "PNG"), b"broken"
    boxes = [box(i + 1, 10 * (i + 1), [1, 2, 100 if i == 1 else 10, 20]) for i in range(6)]
    return write_coco(tmp_path, files, boxes)


def test_a_replaced_image_is_read_again(root, monkeypatch):
    """Only changed files are read; the cache and its problems are those of a build from the beginning."""
    first = build(root)
    assert first.images == 5 and first.changed == 0 and not build(root).built
    (root / "train" / "00002.jpg").write_bytes(jpeg(seed=77))
    (root / "train" / "00004.jpg").write_bytes(jpeg(seed=78))
    made = []
    original = module.make_record
    monkeypatch.setattr(
        module, "make_record", lambda sample, **rest: made.append(sample.name) or original(sample, **rest)
    )
    again = build(root)
    assert again.built and again.changed == 2 and sorted(made) == ["00002.jpg", "00004.jpg"]
    assert again.images == 6 and again.problems == {"converted": 1, "box clipped": 1}
    updated, problems = CacheFile(again.path), read_problems(again.path)
    fresh = build(root, overwrite=True)
    assert CacheFile(fresh.path).fingerprint == updated.fingerprint and read_problems(fresh.path) == problems
    for new, kept in zip(CacheFile(fresh.path).records(), updated.records(), strict=True):
        assert bytes(new.data) == bytes(kept.data) and np.array_equal(new.boxes, kept.boxes)
    assert not build(root).built


def test_a_vanished_image_stays(root):
    """An image whose file is gone is not lost: the cache stays, and is kept when another image is replaced."""
    build(root)
    (root / "train" / "00000.jpg").unlink()
    assert not build(root).built
    (root / "train" / "00002.jpg").write_bytes(jpeg(seed=77))
    assert build(root).images == 5
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    assert not build(root).built


def test_a_damaged_record_is_read_again(root):
    """A record of the earlier build that fails its checksum is made from its file."""
    path = build(root).path
    record = bytes(CacheFile(path).record_bytes(0))
    content = path.read_bytes()
    at = content.index(record) + len(record) - 1
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    (root / "train" / "00002.jpg").write_bytes(jpeg(seed=77))
    assert bytes(CacheFile(build(root).path).record_bytes(0)) == record


def test_changed_sources_are_listed(root):
    """`verify_sources` lists changed and vanished images, images that appeared, and the annotation file."""
    path = build(root).path
    assert verify_sources(path) == []
    (root / "train" / "00002.jpg").write_bytes(b"other")
    (root / "train" / "00005.jpg").unlink()
    os.utime(root / "annotations" / "instances_train.json", ns=(1, 1))
    assert {(os.path.basename(file), kind) for file, kind in verify_sources(path)} == {
        ("00002.jpg", "changed"),
        ("00005.jpg", "vanished"),
        ("instances_train.json", "changed"),
    }


def test_sources_are_found_when_the_dataset_or_the_cache_has_moved(root, tmp_path_factory):
    """Paths are relative to the cache; a cache that was moved alone looks where it was built."""
    path = build(root).path
    alone = shutil.copy(path, tmp_path_factory.mktemp("elsewhere") / "moved.lmdb")
    assert verify_sources(alone) == []
    moved = tmp_path_factory.mktemp("moved") / "all"
    shutil.move(root, moved)
    assert verify_sources(moved / path.relative_to(root)) == []
    assert {kind for _, kind in verify_sources(alone)} == {"vanished"}


def test_a_converted_cache_says_that_it_has_no_sources(root, tmp_path):
    """A cache without the list is up to date as before, and `verify_sources` says what to do."""
    converted = tmp_path / "converted.lmdb"
    transcode_cache(build(root).path, converted, ReencodeOptions(Encoding.ORIGINAL))
    assert open_mapping(converted).source_files() is None
    with pytest.raises(CacheError, match="does not list its source files"):
        verify_sources(converted)


def test_a_damaged_list_is_an_error(root):
    """Bytes are not believed: flipped ones, and those whose checksum is right."""
    path = build(root).path
    mapping = open_mapping(path)
    stored = bytes(mapping._bytes(SOURCE_FILES_KEY))
    assert SourceFiles.from_bytes(stored).to_bytes() == stored
    for damaged in (stored[:-1], stored[:20], b"", stored[:50] + b"x" + stored[51:]):
        with pytest.raises(ValueError, match="damaged"):
            SourceFiles.from_bytes(damaged)
    content = path.read_bytes()
    path.write_bytes(content.replace(stored, stored[:-1] + bytes([stored[-1] ^ 1])))
    with pytest.raises(CacheError, match="source files is damaged"):
        verify_sources(path)
