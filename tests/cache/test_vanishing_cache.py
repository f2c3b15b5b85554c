"""Caches truncated, overwritten or lost by their disk while they are read: an error that names them, and no crash.

What might crash runs in a process of its own: `in_a_process("name", ...)` calls the function of that name there.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from fastload import Cache, CacheError, DecodeError, FastLoader, _core
from fastload.cache.format.layout import Encoding
from fastload.cache.read.mapping import Mapping
from fastload.cache.read.verify import verify_cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.sources.detect import find_datasets
from tests.support.datasets import jpeg, write_coco
from tests.support.native_programs import BOUNDS, RACES, build_program

IMAGES, BATCH = 48, 4
CHANGED = "truncated or overwritten while it was read"


def in_a_process(function: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call a function of this module in a fresh interpreter."""
    call = f"import sys; from tests.cache import test_vanishing_cache as t; t.{function}(*sys.argv[1:])"
    command = [sys.executable, "-c", call, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def printed_in_a_process(function: str, *arguments: object) -> str:
    """What it printed, once it has ended of its own accord."""
    done = in_a_process(function, *arguments)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


def dataset(folder: Path, seed: int) -> Path:
    files = {f"{i:02}.jpg": jpeg(120, 88, seed + i, subsampling=i % 3) for i in range(IMAGES)}
    return write_coco(folder, files, sizes=dict.fromkeys(files, (120, 88)))


def build(root: Path, path: Path, encoding: Encoding, overwrite: bool = False) -> Path:
    build_cache(find_datasets(root)[0].load(), path, BuildOptions(encoding, workers=1, overwrite=overwrite))
    return path


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[Path, Path]:
    """Two datasets of the same names and sizes with other pixels."""
    return dataset(tmp_path_factory.mktemp("one"), 0), dataset(tmp_path_factory.mktemp("other"), 1000)


@pytest.fixture(scope="module")
def whole(datasets, tmp_path_factory) -> Path:
    """A cache of decoded planes, which are read where they are mapped. Not to be changed."""
    return build(datasets[0], tmp_path_factory.mktemp("caches") / "x.lmdb", Encoding.PLANES)


@pytest.fixture
def cache(whole, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copyfile(whole, tmp_path / "x.lmdb"))


def contents(batch) -> Iterator[tuple[int, bytes]]:
    """Image ids, and pixels and boxes."""
    for i, image_id in enumerate(batch.targets.image_id.tolist()):
        yield image_id, batch.images[i].numpy().tobytes() + batch.targets[i]["boxes"].numpy().tobytes()


def truncate(path: Path, one: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def overwrite(path: Path, one: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def overwrite_by_the_same(path: Path, one: Path, other: Path) -> None:
    shutil.copyfile(one, path)


def overwrite_without_truncating(path: Path, one: Path, other: Path) -> None:
    with open(path, "r+b") as stream:
        stream.write(other.read_bytes())


def rename_over(path: Path, one: Path, other: Path) -> None:
    os.replace(shutil.copyfile(other, path.with_suffix(".new")), path)


MIDDLE, END, STEPS = 2, IMAGES // BATCH, 2 * IMAGES // BATCH
CASES = [
    *((how, at, {"num_workers": n}) for how in (truncate, overwrite) for at in (MIDDLE, END) for n in (0, 2)),
    *((truncate, MIDDLE, {"num_workers": n, "verify_checksums": "never"}) for n in (0, 2)),
    (truncate, MIDDLE, {"num_workers": 2, "on_error": "skip"}),
    (overwrite_without_truncating, END, {"num_workers": 2}),
    (overwrite_by_the_same, MIDDLE, {"num_workers": 2, "verify_checksums": "always"}),
    (rename_over, MIDDLE, {"num_workers": 2}),
]


def train_all(folder: str) -> None:
    """Two epochs for each case; prints how many batches came and the error that ended them.

    No batch may differ from those of the cache as it was.
    """
    one, other, path = (Path(folder, name) for name in ("one.lmdb", "other.lmdb", "x.lmdb"))
    right = {key: value for batch in FastLoader(one, BATCH) for key, value in contents(batch)}
    for change, at, arguments in CASES:
        path.unlink(missing_ok=True)
        shutil.copyfile(one, path)
        loader = FastLoader(path, BATCH, shuffle=True, group_by_aspect=False, **arguments)
        seen, error = 0, ""
        try:
            for batch in chain(loader, loader):
                assert all(right[key] == value for key, value in contents(batch)), (change, at, arguments, seen)
                seen += 1
                if seen == at:
                    change(path, one, other)
        except (CacheError, DecodeError) as raised:
            error = str(raised)
        print(json.dumps([seen, error]), flush=True)


@pytest.fixture(scope="module", params=list(Encoding), ids=lambda encoding: encoding.label)
def outcomes(request, datasets, tmp_path_factory) -> list[tuple]:
    """What became of each case: (change, at, arguments, batches seen, error), for caches of each encoding."""
    folder = tmp_path_factory.mktemp("caches")
    for root, name in zip(datasets, ("one.lmdb", "other.lmdb"), strict=True):
        build(root, folder / name, request.param)
    lines = printed_in_a_process("train_all", folder).splitlines()
    results = [(*case, *json.loads(line)) for case, line in zip(CASES, lines, strict=True)]
    assert all(str(folder / "x.lmdb") in error for *_, error in results if error)
    return results


def test_a_cache_cut_in_an_epoch_ends_it_with_its_name(outcomes):
    """Truncated or copied over in mid-epoch: what was handed out is right, then comes an error that names the cache."""
    for change, at, _, seen, error in outcomes:
        if at == MIDDLE and change in (truncate, overwrite):
            assert MIDDLE <= seen < END and ("image" in error or CHANGED in error)


def test_a_cache_changed_after_all_was_read_is_noticed(outcomes):
    """With all records checked before, the next epoch begins with an error, not with other pixels."""
    for _, at, _, seen, error in outcomes:
        if at == END:
            assert seen == END and CHANGED in error


def test_a_cache_copied_over_itself_gives_no_wrong_pixels(outcomes):
    """The same bytes written in place while threads read: right batches, or an error that names the cache."""
    (found,) = (outcome for outcome in outcomes if outcome[0] is overwrite_by_the_same)
    assert found[-1] or found[-2] == STEPS


def test_a_cache_renamed_over_is_read_to_the_end(outcomes):
    """Readers keep the file that they have opened."""
    (found,) = (outcome for outcome in outcomes if outcome[0] is rename_over)
    assert found[-2:] == (STEPS, "")


def test_fastload_replaces_caches_by_renaming(datasets, tmp_path):
    """build-cache --overwrite and convert-cache --overwrite leave the readers of the old cache as they are."""
    path = tmp_path / "x.lmdb"
    build(datasets[0], path, Encoding.PLANES)
    before = Cache(path)
    pixels = [bytes(before.record(i).data) for i in range(IMAGES)]
    build(datasets[1], path, Encoding.DCT, overwrite=True)
    build(datasets[0], tmp_path / "y.lmdb", Encoding.DCT)
    transcode_cache(tmp_path / "y.lmdb", path, ReencodeOptions(Encoding.DCT_FAST, workers=1, overwrite=True))
    before.check_unchanged()
    assert [bytes(before.record(i).data) for i in range(IMAGES)] == pixels
    assert Cache(path).fingerprint != before.fingerprint


def test_a_touch_ends_nothing(cache):
    """Another time on the same bytes is accepted, once."""
    opened = Cache(cache)
    os.utime(cache, ns=(1, 1))
    opened.check_unchanged()
    assert opened._mapping._state[1] == 1
    assert len(list(FastLoader(opened, BATCH))) == IMAGES // BATCH


def test_bytes_written_into_the_index_are_noticed(cache):
    """Boxes that are changed in place under an open cache are an error, though no record is touched."""
    opened = Cache(cache)
    offset, _ = opened._mapping._places[b"index/boxes"]
    with open(cache, "r+b") as stream:
        stream.seek(offset)
        stream.write(b"\x07")
    with pytest.raises(CacheError, match=r"x\.lmdb was truncated or overwritten.*its index has changed"):
        opened.check_unchanged()


def look_after(path: str) -> None:
    """Everything of a cache that Python can look at, after it was truncated."""
    cache = Cache(path)
    boxes, record, fd = cache.boxes, cache.record(5), len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 0
    os.truncate(path, 8192)
    assert boxes.sum() >= 0 and bytes(record.data) is not None and cache.name(3) is not None
    for look, *argument in (
        (Cache.check_unchanged,),
        (Cache.__getitem__, 5),
        (Cache.record, 5),
        (Cache.check_record, 5),
    ):
        try:
            look(cache, *argument)
        except CacheError as error:
            assert path in str(error)
        else:
            raise AssertionError(f"{look} noticed nothing")
    del cache, boxes, record
    assert fd == 0 or len(os.listdir("/proc/self/fd")) == fd - 1
    print("done")


def test_looking_at_a_truncated_cache(cache):
    """Its arrays and records can be looked at without a crash, and all that reads it says what happened."""
    assert printed_in_a_process("look_after", cache) == "done\n"


def open_late(path: str) -> None:
    with open(path, "rb") as stream:
        file = _core.MappedFile(stream.fileno())
    os.truncate(path, os.path.getsize(path) // 2)
    try:
        Mapping(Path(path), file)
    except CacheError as error:
        print(error)


def test_a_cache_truncated_while_it_is_opened(cache):
    """Cut after it was mapped, before it was read: an error that names it."""
    assert f"{cache} cannot be read" in printed_in_a_process("open_late", cache)


def verify_cut(path: str) -> None:
    def cut(done: int, total: int) -> None:
        if done == 3:
            os.truncate(path, 8192)

    try:
        verify_cache(path, workers=1, progress=cut)
    except CacheError as error:
        print(error)


def test_a_cache_truncated_while_it_is_verified(cache):
    """`verify` says that the file was cut instead of listing every image as damaged."""
    assert CHANGED in printed_in_a_process("verify_cut", cache)


def fork_and_read(path: str) -> None:
    cache = Cache(path)
    child = os.fork()
    if child == 0:
        os.truncate(path, 8192)
        try:
            cache[IMAGES - 1]
        except CacheError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not np.frombuffer(cache.record_bytes(IMAGES - 1), np.uint8).any()
    print("done")


def test_after_a_fork_both_processes_are_safe(cache):
    """A truncated cache is an error in the child, and no crash in the parent."""
    assert printed_in_a_process("fork_and_read", cache) == "done\n"


class Payloads(Cache):
    """A dataset for DataLoader's own worker processes, which install handlers of torch's for SIGBUS."""

    def __getitem__(self, index: int) -> bytes:
        return bytes(super().__getitem__(index).data)


def load_in_processes(path: str, context: str) -> None:
    cache = Cache(path)
    try:
        loader = DataLoader(cache, 1, num_workers=1, collate_fn=len, multiprocessing_context=context)
        for step, _ in enumerate(loader):
            if step == 2:
                os.truncate(path, 8192)
    except CacheError as error:
        print(error)


def test_datasets_in_worker_processes(cache):
    """In DataLoader's worker processes a truncated cache is the same error, though torch handles SIGBUS there."""
    assert CHANGED in printed_in_a_process("load_in_processes", cache, "fork")


def guarded(cache: Cache) -> None:
    """Truncate an open cache and see that it is an error still."""
    os.truncate(cache.path, 8192)
    assert not np.frombuffer(cache.record_bytes(IMAGES - 1), np.uint8).any()
    with pytest.raises(CacheError, match=CHANGED):
        cache.check_unchanged()


def fault_elsewhere() -> None:
    """A bus error in memory that has nothing to do with caches."""
    with open("elsewhere", "w+b") as stream:
        stream.write(bytes(mmap.PAGESIZE))
        stream.flush()
        memory = mmap.mmap(stream.fileno(), mmap.PAGESIZE)
        stream.truncate(0)
        print("before", flush=True)
        print(memory[0], "after", flush=True)


def crash(path: str, folder: str, *handlers: str) -> None:
    """Install handlers around the cache's own, see that the cache is guarded, then fault elsewhere."""
    os.chdir(folder)
    cache = None
    for handler in handlers:
        if handler == "cache":
            cache = Cache(path)
        elif handler == "faulthandler":
            faulthandler.enable()
        elif handler == "torch":
            from torch.utils.data._utils.signal_handling import _set_worker_signal_handlers

            _set_worker_signal_handlers()
        elif handler == "check":
            cache.check_unchanged()
    guarded(cache)
    fault_elsewhere()


TRACEBACK, TORCH = "Fatal Python error: Bus error", "Unexpected bus error"


@pytest.mark.parametrize(
    ("handlers", "says"),
    [
        ("cache", ""),
        ("faulthandler cache", TRACEBACK),
        ("cache faulthandler check", TRACEBACK),
        ("faulthandler cache torch check", TORCH),
        ("torch cache faulthandler check", TRACEBACK),
        ("cache torch check faulthandler check", TRACEBACK),
    ],
)
def test_a_bus_error_elsewhere_ends_the_process_as_before(cache, tmp_path, handlers, says):
    """A fault in other memory kills, after whatever handlers were installed before or after the cache was opened."""
    done = in_a_process("crash", cache, tmp_path, *handlers.split())
    assert done.returncode == -signal.SIGBUS and done.stdout == "before\n"
    assert done.stderr.count(says) == 1 if says else done.stderr == ""


def signals(path: str, when: str) -> None:
    """A handler of the user's own in Python, installed before or after the cache was opened."""
    calls = []
    if when == "before":
        signal.signal(signal.SIGBUS, lambda number, frame: calls.append(number))
    cache = Cache(path)
    if when == "after":
        signal.signal(signal.SIGBUS, lambda number, frame: calls.append(number))
        cache.check_unchanged()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGBUS)
    guarded(cache)
    os.kill(os.getpid(), signal.SIGBUS)
    assert calls == [signal.SIGBUS] * 4
    signal.signal(signal.SIGBUS, signal.SIG_IGN)
    Cache(shutil.copyfile(path + ".whole", path))
    os.kill(os.getpid(), signal.SIGBUS)
    print("done")


@pytest.mark.parametrize("when", ["before", "after"])
def test_signal_handlers_in_python_are_called_still(cache, when):
    """SIGBUS sent to the process reaches the user's handler, or is ignored; the cache's pages do not."""
    shutil.copyfile(cache, f"{cache}.whole")
    assert printed_in_a_process("signals", cache, when) == "done\n"


def read_from_a_failing_disk(path: str, one: str) -> None:
    right = {key: value for batch in FastLoader(one, BATCH) for key, value in contents(batch)}
    loader = FastLoader(path, BATCH, num_workers=2, on_error="skip")
    assert len(list(loader)) == IMAGES // BATCH and not loader.skipped
    loader.dataset._mapping.file.release_pages()
    print("read", flush=True)
    sys.stdin.readline()  # meanwhile a part of the disk fails
    wrong = [key for batch in loader for key, value in contents(batch) if right[key] != value]
    print(json.dumps([wrong, list(loader.skipped), sorted(set(loader.skipped.values()))]))


@contextmanager
def disk(image: Path, folder: Path) -> Iterator[None]:
    """A filesystem in the file `image`, mounted at `folder`; skips where one may not mount."""
    with open(image, "wb") as stream:
        stream.truncate(24 << 20)
    folder.mkdir()
    for command in ["mkfs.ext2", "-q", image], ["mount", "-o", "loop,noatime", image, folder]:
        done = subprocess.run(command, capture_output=True, text=True) if shutil.which(command[0]) else None
        if done is None or done.returncode:
            pytest.skip(f"cannot {command[0]} here: {done.stderr.strip() if done else 'no such command'}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_failing_disk_costs_the_images_that_it_has_lost(whole, tmp_path):
    """Pages that the disk can no longer deliver fail the images they are of, which on_error="skip" names."""
    with disk(tmp_path / "disk", tmp_path / "mounted"):
        path = Path(shutil.copyfile(whole, tmp_path / "mounted/x.lmdb"))
        os.sync()
        call = "import sys, tests.cache.test_vanishing_cache as t; t.read_from_a_failing_disk(*sys.argv[1:])"
        command = [sys.executable, "-W", "ignore", "-c", call, path, whole]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout.readline() == "read\n"
            os.truncate(tmp_path / "disk", 0)  # what is in memory can still be read
            with open(path, "rb") as stream:
                os.posix_fadvise(stream.fileno(), 200_000, 200_000, os.POSIX_FADV_DONTNEED)
            answer, _ = reader.communicate("\n", timeout=100)
    assert reader.returncode == 0
    wrong, skipped, reasons = json.loads(answer)
    assert sorted(wrong) == sorted(skipped) and 1 <= len(skipped) < IMAGES
    assert len(reasons) == 1 and "its disk is failing" in reasons[0]


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", [BOUNDS, RACES])
def test_faults_under_the_sanitizers(tmp_path, sanitizer):
    """Files truncated while several threads read them, and a fault elsewhere: no report, and zeros come with a word."""
    program = build_program("faults", tmp_path, ("cache/fault", "cache/mapped_file"), sanitizer)
    done = subprocess.run([program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr[-5000:]
