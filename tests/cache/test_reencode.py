"""`convert-cache`: from cache to cache, without the dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastload import Cache, CacheError, _core
from fastload.cache.format.layout import INDEX, Encoding
from fastload.cache.format.problems import read_problems
from fastload.cache.read.verify import verify_cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.cache.write.resize import Reduction
from fastload.cache.write.writer import CacheWriter
from fastload.sources.detect import find_datasets
from tests.cache.test_build import contents
from tests.cli.test_cli import fastload_command
from tests.support.datasets import encoded, jpeg, many_jpegs, pixels, write_coco
from tests.support.killing import kill_until_done

PACKED = (Encoding.ORIGINAL, Encoding.DCT, Encoding.DCT_FAST)


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> dict[Encoding, Path]:
    """A cache of mixed pictures in each encoding; the dataset they were built from is gone."""
    files = {
        "a.jpg": jpeg(),
        "b.jpg": jpeg(seed=1, subsampling=2, progressive=True),
        "c.jpg": encoded(pixels(64, 48, 2, 1)),
        "d.png": encoded(pixels(64, 48, 3), "PNG"),
        "e.jpg": b"broken",
        "f.jpg": jpeg(seed=4, subsampling=1),
    }
    root = write_coco(tmp_path_factory.mktemp("set"), files)
    out = tmp_path_factory.mktemp("caches")
    paths = {encoding: out / f"{encoding.label}.lmdb" for encoding in Encoding}
    for encoding, path in paths.items():
        build_cache(find_datasets(root)[0].load(), path, BuildOptions(encoding, workers=2))
    shutil.rmtree(root)
    return paths


def planes(cache: Cache) -> list[list[np.ndarray]]:
    return [_core.decode_record(cache.record_bytes(i))[0] for i in range(len(cache))]


@pytest.mark.parametrize("to", list(Encoding))
@pytest.mark.parametrize("source", PACKED)
def test_no_pixel_changes(caches, tmp_path, source, to):
    """From any packed encoding to any: the same planes, annotations and problems; what a build gives, to the byte."""
    report = transcode_cache(caches[source], tmp_path / "new.lmdb", ReencodeOptions(to))
    cache, before = Cache(report.path), Cache(caches[source])
    assert report.images == 5 and set(cache.encodings) == {to} and verify_cache(cache.path) == []
    for new, old in zip(planes(cache), planes(before), strict=True):
        assert len(new) == len(old) and all(map(np.array_equal, new, old))
    for name in set(INDEX) - {"encoding", "checksum"}:
        np.testing.assert_array_equal(cache._mapping.index[name], before._mapping.index[name])
    assert cache.categories == before.categories and read_problems(cache.path) == read_problems(before.path)
    if to != Encoding.ORIGINAL or source == Encoding.ORIGINAL:
        assert contents(cache.path)[:2] == contents(caches[to])[:2]


def test_planes_only_become_planes(caches, tmp_path):
    """From planes to planes is a copy; to anything else, or smaller, an error that says what to do, before any work."""
    copy = transcode_cache(caches[Encoding.PLANES], tmp_path / "copy.lmdb", ReencodeOptions(Encoding.PLANES))
    assert contents(copy.path)[:2] == contents(caches[Encoding.PLANES])[:2]
    for options in ([encoding.label] for encoding in PACKED), (["planes", "--short", 20],):
        for option in options:
            done = fastload_command(
                "convert-cache", caches[Encoding.PLANES], tmp_path / "x.lmdb", "--encoding", *option
            )
            assert (
                done.returncode == 1 and "only be converted to planes" in done.stderr and "build-cache" in done.stderr
            )
    assert {path.name for path in tmp_path.iterdir()} == {"copy.lmdb", "copy.problems.jsonl"}


@pytest.mark.parametrize("source", PACKED)
def test_smaller_pictures(caches, tmp_path, source):
    """The lossy dial works from a cache as from the dataset: sizes and boxes follow, the annotated size is kept."""
    reduction = Reduction(short=24, quality=80, subsampling="420")
    cache = Cache(transcode_cache(caches[source], tmp_path / "s.lmdb", ReencodeOptions(Encoding.DCT, reduction)).path)
    before = Cache(caches[source])
    assert cache.sizes.tolist() == [[32, 24]] * 5 and cache.source_sizes.tolist() == [[64, 48]] * 5
    np.testing.assert_allclose(cache.boxes, before.boxes / 2)
    np.testing.assert_allclose(cache.area, before.area / 4)
    again = Cache(
        transcode_cache(cache.path, tmp_path / "t.lmdb", ReencodeOptions(Encoding.PLANES, Reduction(12))).path
    )
    assert again.sizes.tolist() == [[16, 12]] * 5 and again.source_sizes.tolist() == [[64, 48]] * 5
    kept = {name: again.manifest.source[name] for name in ("short", "quality", "subsampling", "encoding")}
    assert kept == {"short": 12, "quality": 80, "subsampling": "420", "encoding": "planes"}


def test_the_command(caches, tmp_path):
    """It prints what it made; again it is up to date; other settings need --overwrite; bad usage has status 2."""
    out = tmp_path / "made/new.lmdb"
    command = ("convert-cache", caches[Encoding.ORIGINAL], out, "--encoding")
    done = fastload_command(*command, "dct-fast")
    assert done.returncode == 0 and "images" in done.stdout and "5 of 5 images" in done.stderr
    assert "up to date" in fastload_command(*command, "dct-fast").stdout
    done = fastload_command(*command, "dct")
    assert done.returncode == 1 and "encoding differ" in done.stderr
    assert fastload_command(*command, "dct", "--overwrite").returncode == 0
    assert set(Cache(out).encodings) == {Encoding.DCT}
    assert fastload_command("convert-cache", out, tmp_path / "x.lmdb").returncode == 2
    done = fastload_command("convert-cache", tmp_path / "none.lmdb", tmp_path / "x.lmdb", "--encoding", "dct")
    assert done.returncode == 1 and "none.lmdb" in done.stderr
    assert not (tmp_path / "x.lmdb").exists()


def test_in_place(caches, tmp_path):
    """A cache may be replaced by its own conversion; whoever has the old one open keeps it."""
    path = tmp_path / "one.lmdb"
    shutil.copy(caches[Encoding.DCT], path)
    old = Cache(path)
    transcode_cache(path, path, ReencodeOptions(Encoding.PLANES, overwrite=True))
    assert set(Cache(path).encodings) == {Encoding.PLANES} and set(old.encodings) == {Encoding.DCT}
    assert planes(Cache(path))[0][0].tobytes() == planes(old)[0][0].tobytes()


def test_build_cache_takes_it_for_its_own(tmp_path):
    """Beside its dataset, a converted cache is up to date for `build-cache` with the same settings."""
    root = write_coco(tmp_path, many_jpegs(2))
    build_cache(find_datasets(root)[0].load(), tmp_path / "o.lmdb", BuildOptions(Encoding.ORIGINAL))
    transcode_cache(tmp_path / "o.lmdb", root / "fastload/train.lmdb", ReencodeOptions(Encoding.DCT))
    assert "up to date" in fastload_command("build-cache", root).stdout


def test_damage_is_an_error(caches, tmp_path):
    """A damaged image stops the conversion with its id; no cache is left, and an older one stays."""
    path = tmp_path / "damaged.lmdb"
    data = bytearray(caches[Encoding.DCT].read_bytes())
    data[data.index(bytes(Cache(caches[Encoding.DCT]).record(3).data)) + 50] ^= 4
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"image 40 \(d.png\) is damaged"):
        transcode_cache(path, tmp_path / "new.lmdb", ReencodeOptions(Encoding.PLANES))
    assert not (tmp_path / "new.lmdb").exists()


CONVERT = """
import sys, time
import fastload.cache.write.assemble as module
from pathlib import Path
from fastload.cache.format.layout import Encoding
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
module.COMMIT_BYTES, module.COMMIT_SECONDS = 20_000, 0.02
source, path = map(Path, sys.argv[1:])
def progress(done, total):
    print(done, flush=True)
    time.sleep(0.001)  # so that whoever reads along is not far behind
transcode_cache(source, path, ReencodeOptions(Encoding.DCT, workers=2), progress)
"""


def test_killed_at_any_moment_it_carries_on(tmp_path):
    """kill -9 again and again, then finished: the same cache as undisturbed; until then none is there, or all of it."""
    root = write_coco(tmp_path / "set", many_jpegs(200))
    source, whole, path = (tmp_path / f"{name}.lmdb" for name in ("source", "whole", "killed"))
    build_cache(find_datasets(root)[0].load(), source, BuildOptions(Encoding.ORIGINAL, workers=2))
    transcode_cache(source, whole, ReencodeOptions(Encoding.DCT))

    def nothing_or_all() -> None:
        assert not path.exists() or contents(path) == contents(whole)

    runs = kill_until_done([CONVERT, source, path], lines=(20, 90), seed=3, after_kill=nothing_or_all)
    assert runs.kills >= 1 and max(runs.starts) > 0
    assert contents(path) == contents(whole) and not path.with_name("killed.lmdb.partial").exists()


def test_two_at_once(caches, tmp_path):
    """A second conversion to the same place says that one is under way."""
    out = tmp_path / "new.lmdb"
    with (
        CacheWriter.locked(out.with_name("new.lmdb.partial"), {"format": "other"}),
        pytest.raises(CacheError, match="being"),
    ):
        transcode_cache(caches[Encoding.DCT], out, ReencodeOptions(Encoding.PLANES))


def test_what_was_not_packed_before_is_tried_again(caches, tmp_path):
    """Problems of the build are carried over, but for those that concern the old encoding."""
    path = tmp_path / "old.lmdb"
    shutil.copy(caches[Encoding.DCT], path)
    lines = caches[Encoding.DCT].with_suffix(".problems.jsonl").read_text()
    old = {"image_id": 10, "file": "a.jpg", "kind": "not packed", "reason": "kept as original"}
    path.with_suffix(".problems.jsonl").write_text(lines + json.dumps(old) + "\n")
    report = transcode_cache(path, tmp_path / "new.lmdb", ReencodeOptions(Encoding.DCT_FAST))
    assert report.problems == {"converted": 1, "skipped": 1}
