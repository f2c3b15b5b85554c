"""Builds that are killed, that run out of disk, that lose their files: run again, they end as if undisturbed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastload.cache.format.layout import Encoding
from fastload.cache.format.problems import read_problems
from fastload.cache.read.cache import Cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.errors import CacheError
from fastload.sources.detect import find_datasets
from tests.cache.test_build import contents
from tests.support.datasets import awkward_jpegs, jpeg, many_jpegs, write_coco


def build(root: Path, cache: Path | None = None, progress=lambda done, total: None):
    dataset = find_datasets(root)[0]
    return build_cache(dataset.load(), cache or dataset.cache, BuildOptions(Encoding.DCT, workers=2), progress)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """200 images, some of them skipped or converted, with an undisturbed build of them."""
    root = write_coco(tmp_path_factory.mktemp("whole"), awkward_jpegs(200))
    build(root)
    return root


@pytest.fixture
def root(whole, tmp_path) -> Path:
    """The same images without a cache."""
    shutil.copytree(whole, tmp_path / "set", ignore=shutil.ignore_patterns("fastload"))
    return tmp_path / "set"


def assert_as_undisturbed(cache: Path, whole: Path) -> None:
    """The cache and its log of problems are those of the undisturbed build."""
    expected = whole / "fastload/train.lmdb"
    assert contents(cache)[:2] == contents(expected)[:2]
    assert read_problems(cache) == read_problems(expected) != []


KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import fastload.cache.write.assemble as module
from tests.cache.test_build import leftovers
from tests.cache.test_faults import assert_as_undisturbed, build
root, whole, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
module.COMMIT_BYTES, module.COMMIT_SECONDS = 20_000, 0.02
rng, folder, killed, finished, points = random.Random(7), root / "fastload", 0, 0, set()

def killed_after(images, seconds):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        build(root, progress=lambda done, total: os.write(writing, bytes([done])))
        os._exit(0)
    os.close(writing)
    done = [os.read(reading, 1) for _ in range(images)]
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    points.add(done[-1] if done else b"")
    return os.waitpid(child, 0)[1] != 0

while killed < kills:
    killed += killed_after(rng.randrange(90), rng.uniform(0, 0.02))
    if (folder / "train.lmdb").exists():
        build(root)  # killed after the rename, or in time
        assert_as_undisturbed(folder / "train.lmdb", whole)
        assert leftovers(root) == {"train.lmdb", "train.problems.jsonl"}
        shutil.rmtree(folder)
        finished += 1
build(root)
assert_as_undisturbed(folder / "train.lmdb", whole)
print(killed, finished + 1, len(points))
"""


def kill_builds(root: Path, whole: Path, kills: int) -> tuple[int, int, int]:
    """Kill -9 builds of `root` at so many random moments; each cache that is finished in between is compared. Returns
    kills, caches finished and how many different numbers of images were done then."""
    command = [sys.executable, "-c", KILLER, root, whole, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    killed, finished, points = map(int, done.stdout.split())
    return killed, finished, points


def test_killed_at_random_moments(root, whole):
    """10 builds killed with -9, each carried on by the next: the result is the undisturbed one."""
    assert kill_builds(root, whole, 10)[0] == 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_a_hundred_moments(root, whole):
    """The same with 100 kills, over several caches."""
    killed, finished, points = kill_builds(root, whole, 100)
    assert killed == 100 and finished >= 2 and points >= 10


@contextmanager
def mounted(folder: Path, options: str):
    """A small filesystem in memory; skips where one may not mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip() if done else 'no mount command'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(root, whole, tmp_path, monkeypatch):
    """A disk that is full again and again, wherever: each time a clear error, with more room it goes on to the end."""
    monkeypatch.setattr("fastload.cache.write.assemble.COMMIT_BYTES", 20_000)
    with mounted(tmp_path / "disk", "size=16k") as disk:
        cache, full = disk / "train.lmdb", 0
        for kilobytes in (16, 32, 48, 64, 100, 150, 220, 300, 400, 600, 900, 1400, 2000, 4000):
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)
            try:
                build(root, cache)
                break
            except CacheError as error:
                assert "cannot be written: No space left on device" in str(error) and "Make room" in str(error)
                assert not cache.exists()
                full += 1
        assert full >= 5
        assert_as_undisturbed(cache, whole)


def test_a_disk_that_may_not_be_written(root, whole, tmp_path):
    """A read-only target is a clear error; writable again, the build carries on."""
    with mounted(tmp_path / "disk", "size=10m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for cache in (disk / "train.lmdb", disk / "new/train.lmdb"):
            with pytest.raises(CacheError, match=r"cannot be written: Read-only file system.*--out"):
                build(root, cache)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        build(root, disk / "train.lmdb")
        assert_as_undisturbed(disk / "train.lmdb", whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(root, tmp_path):
    """Without permission to write, the error says so."""
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(CacheError, match=r"cannot be written: Permission denied"):
        build(root, tmp_path / "locked/train.lmdb")


def interrupted_build(root: Path, monkeypatch, after: int, then) -> None:
    """Build until `after` images are done, then call `then` and stop, as if interrupted."""
    monkeypatch.setattr("fastload.cache.write.assemble.COMMIT_BYTES", 20_000)

    def progress(done: int, total: int) -> None:
        if done == after:
            then()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(root, progress=progress)


def change(root: Path) -> None:
    """One file vanishes, one is written anew, one that was broken is repaired: all of them read long ago."""
    (root / "train/00021.jpg").unlink()
    (root / "train/00030.jpg").write_bytes(jpeg(seed=1000))
    (root / "train/00034.jpg").write_bytes(jpeg(seed=1001))


def test_files_that_change_while_a_build_is_interrupted(root, tmp_path, monkeypatch):
    """The build carries on from the first file that changed: what comes out is what a fresh build gives."""
    interrupted_build(root, monkeypatch, 120, lambda: change(root))
    report = build(root)
    assert 0 < report.resumed <= 21
    fresh = build(root, tmp_path / "fresh.lmdb").path
    assert contents(report.path)[:2] == contents(fresh)[:2] and read_problems(report.path) == read_problems(fresh)
    assert [problem.reason[:12] for problem in read_problems(fresh) if problem.image_id == 220] == ["missing file"]


def test_files_that_change_while_a_build_runs_are_told(root, tmp_path):
    """Whatever changes after it was read is in the log; every record is a whole file, the old one or the new one."""
    dataset, before = find_datasets(root)[0], {}
    for path in (root / "train").iterdir():
        before[path.name] = path.read_bytes()
    options = BuildOptions(Encoding.ORIGINAL, workers=2)
    build_cache(dataset.load(), dataset.cache, options, lambda done, _: change(root) if done == 120 else None)
    told = {problem.file for problem in read_problems(dataset.cache) if problem.kind == "changed"}
    assert told == {"00021.jpg", "00030.jpg", "00034.jpg"}
    stored = {record.name: bytes(record.data) for record in Cache(dataset.cache).records()}
    assert stored["00021.jpg"] == before["00021.jpg"] and stored["00030.jpg"] == before["00030.jpg"]
    fresh = build_cache(dataset.load(), tmp_path / "fresh.lmdb", options).path
    build_cache(dataset.load(), dataset.cache, BuildOptions(Encoding.ORIGINAL, overwrite=True))
    assert contents(dataset.cache)[:2] == contents(fresh)[:2] and read_problems(dataset.cache) == read_problems(fresh)


def test_a_file_that_changes_while_it_is_read_is_skipped(tmp_path, monkeypatch):
    """A picture that is written to at that very moment is not taken, torn as it may be."""
    root = write_coco(tmp_path, many_jpegs(2))
    read = Path.read_bytes

    def read_and_write(path: Path) -> bytes:
        data = read(path)
        if path.name == "00001.jpg":
            path.write_bytes(data + b"more")
        return data

    monkeypatch.setattr(Path, "read_bytes", read_and_write)
    report = build(root)
    reasons = [problem.reason for problem in read_problems(report.path)]
    assert report.images == 1 and reasons[0] == "its file changed while it was read: build again"
