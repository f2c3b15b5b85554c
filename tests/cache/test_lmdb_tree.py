"""The walker of LMDB files: it agrees with LMDB on sound files and survives every other."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastload._core as _core


def write(path: Path, values: dict[bytes, bytes], transactions: int = 1) -> bytes:
    path.unlink(missing_ok=True)
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28, sync=False) as env:
        items = list(values.items())
        for part in range(transactions):
            with env.begin(write=True) as txn:
                for key, value in items[part::transactions]:
                    txn.put(key, value)
    return path.read_bytes()


def read_named(data: bytes) -> dict[bytes, bytes]:
    return {key: data[at : at + size] for key, (at, size) in _core.lmdb_tree(data)[0].items()}


keys = st.binary(min_size=1, max_size=40) | st.binary(min_size=500, max_size=511)
values = st.binary(max_size=60) | st.integers(1500, 20_000).map(lambda n: bytes([n % 251]) * n)


@given(st.dictionaries(keys.filter(lambda k: not k.startswith(b"record/")), values, max_size=200), st.integers(1, 4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_finds_what_lmdb_wrote(tmp_path, entries, transactions):
    """Whatever keys and values LMDB has written, in any number of transactions, are found with their bytes."""
    assert read_named(write(tmp_path / "x", entries, transactions)) == entries


def test_finds_what_is_left_after_deleting_and_replacing(tmp_path):
    """Pages that LMDB has freed and used again do not confuse the walk."""
    path = tmp_path / "x"
    rng = np.random.default_rng(0)
    expected = {b"%05d" % i: rng.bytes(int(rng.integers(0, 9000))) for i in range(300)}
    write(path, expected)
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28, sync=False) as env:
        for _ in range(20):
            with env.begin(write=True) as txn:
                for key in rng.choice(sorted(expected), 20, replace=False):
                    expected.pop(key)
                    txn.delete(key)
                for _ in range(10):
                    key, value = b"new%08d" % rng.integers(10**8), rng.bytes(int(rng.integers(0, 9000)))
                    expected[key] = value
                    txn.put(key, value)
    assert read_named(path.read_bytes()) == expected


def test_records_come_as_arrays_in_order_of_position(tmp_path):
    """Records are listed by position, with the place and size of each; other keys are kept apart."""
    records = {i: bytes([i % 256]) * (i * 37 % 5000) for i in (0, 3, 255, 256, 70_000, 2**40)}
    data = write(
        tmp_path / "x", {b"record/" + i.to_bytes(8, "big"): v for i, v in records.items()} | {b"manifest": b"m"}
    )
    named, positions, offsets, sizes, _ = _core.lmdb_tree(data)
    assert set(named) == {b"manifest"} and positions.tolist() == list(records)
    found = [data[at : at + size] for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)]
    assert found == list(records.values())


def test_an_empty_environment_is_empty(tmp_path):
    """An environment into which nothing was written has no entries."""
    assert read_named(write(tmp_path / "x", {b"a": b"b"})) == {b"a": b"b"}
    with lmdb.open(str(tmp_path / "x"), subdir=False, lock=False) as env, env.begin(write=True) as txn:
        txn.delete(b"a")
    assert read_named((tmp_path / "x").read_bytes()) == {}


@pytest.mark.parametrize("data", [b"", b"x", bytes(4096), bytes(100_000), b"\xff" * 8192], ids=len)
def test_other_files_are_refused(data):
    """Bytes that are no LMDB file are a ValueError."""
    with pytest.raises(ValueError):
        _core.lmdb_tree(data)


def test_truncation_is_an_error_or_harmless(tmp_path):
    """Cut anywhere, a file is refused, or it has lost nothing but pages that nobody needs."""
    entries = {b"record/" + i.to_bytes(8, "big"): bytes([i]) * (i * 97) for i in range(120)} | {
        b"manifest": b"m" * 3000
    }
    data = write(tmp_path / "x", entries)
    whole = [array.tolist() for array in _core.lmdb_tree(data)[1:4]]
    refused = 0
    for length in sorted({*range(0, 9000, 333), *range(0, len(data), 1021), *range(0, len(data), 4096), len(data) - 1}):
        try:
            found = _core.lmdb_tree(data[:length])
        except ValueError:
            refused += 1
            continue
        assert [array.tolist() for array in found[1:4]] == whole
        assert all(at + size <= length for at, size in found[0].values())
    assert refused > 100


FLIPS = """
import random, sys
import fastload._core as core
data = bytearray(open(sys.argv[1], "rb").read())
rng, refused = random.Random(0), 0
number = lambda page: int.from_bytes(data[page : page + 8], "little")
tree = [page for page in range(0, len(data), 4096) if number(page) * 4096 == page and data[page + 10] in (1, 2, 8)]
for i in range(15000):
    page = rng.choice(tree)
    flips = [page + min(int(rng.expovariate(1 / 200)), 4095) if rng.random() < .7 else page + rng.randrange(4096)
             for _ in range(rng.choice([1, 1, 2, 8]))]
    before = [data[at] for at in flips]
    for at in flips:
        data[at] ^= 1 << rng.randrange(8) if rng.random() < .7 else rng.randrange(1, 256)
    try:
        named, _, offsets, sizes, _ = core.lmdb_tree(data)
        places = list(named.values()) + list(zip(offsets.tolist(), sizes.tolist()))
        assert all(0 <= at and at + size <= len(data) for at, size in places)
    except ValueError:
        refused += 1
    for at, byte in zip(reversed(flips), reversed(before)):
        data[at] = byte
print(refused)
"""


def test_flipped_bits_never_crash_and_never_lead_outside(tmp_path):
    """15,000 damaged versions of the tree's pages: an error, or places inside the file; never a crash."""
    entries = {b"record/" + i.to_bytes(8, "big"): bytes([i % 256]) * (2100 + i * 31 % 4000) for i in range(400)}
    write(tmp_path / "x", entries, transactions=5)
    done = subprocess.run([sys.executable, "-c", FLIPS, str(tmp_path / "x")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3000


def test_a_large_tree_is_walked_in_milliseconds(tmp_path):
    """118,000 records are listed in far less than the tenth of a second that anybody would notice."""
    import time

    records = {b"record/" + i.to_bytes(8, "big"): b"x" * 40 for i in range(118_000)}
    write(tmp_path / "x", records)
    with open(tmp_path / "x", "rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as file:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            assert len(_core.lmdb_tree(file)[1]) == 118_000
            seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


RELEASED = """
import sys
from pathlib import Path
import numpy as np
import fastload._core as core
def resident(name):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1000
def growth(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before
with open(sys.argv[1], "rb") as stream:
    file = core.MappedFile(stream.fileno())
found = {}
print(growth(lambda: found.update(tree=core.lmdb_tree(file, release=True))))
print(growth(lambda: found.update(checksum=core.mapped_xxh64(file, 5, len(file) - 9))))
assert all(np.array_equal(a, b) for a, b in zip(found["tree"][1:4], core.lmdb_tree(file)[1:4]))
assert found["checksum"] == core.xxh64(memoryview(file)[5:-4])
"""


def test_what_was_read_does_not_stay_resident(tmp_path):
    """Walking and hashing a file of 120 MB takes a few megabytes of memory, and finds the same."""
    write(tmp_path / "x", {b"record/" + i.to_bytes(8, "big"): b"x" * 1000 for i in range(90_000)})
    assert (tmp_path / "x").stat().st_size > 120e6
    done = subprocess.run([sys.executable, "-c", RELEASED, tmp_path / "x"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max(map(float, done.stdout.split())) < 24, done.stdout


def test_only_mapped_files_are_released(tmp_path):
    """Memory that would be lost is refused, and so is a part beyond the file."""
    data = write(tmp_path / "x", {b"a": b"b"})
    with pytest.raises(ValueError, match="of a MappedFile"):
        _core.lmdb_tree(data, release=True)
    with open(tmp_path / "x", "rb") as stream:
        file = _core.MappedFile(stream.fileno())
    for offset, size in ((0, len(file) + 1), (len(file), 1), (len(file) + 1, 0), (2**63, 2**63)):
        with pytest.raises(ValueError, match="beyond the file"):
            _core.mapped_xxh64(file, offset, size)
    assert _core.mapped_xxh64(file, len(file), 0) == _core.xxh64(b"")
