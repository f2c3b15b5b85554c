"""The unfinished file of a cache being built: locked, resumable, and renamed once it is whole.

While it is built the LMDB file holds, besides records, b"build/job": the JSON of what is being built and by whom, and
b"build/part/" + position: the index of the records written so far, one .npz for every transaction, whose key is the
source position to go on from. The transaction that writes the manifest removes both.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import mmap
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

import fastload._core as _core
from fastload.cache.format.index import Index, join_indices
from fastload.cache.format.layout import INDEX, INDEX_PREFIX, MANIFEST_KEY, RECORD_PREFIX, record_key
from fastload.cache.format.manifest import Manifest
from fastload.cache.write.ingest import Stamp
from fastload.errors import CacheError
from fastload.sources.base import Problem

JOB_KEY = b"build/job"
PART_PREFIX = b"build/part/"
FULL = 1 << 16  # bytes left on a disk that is full
FIRST_MAP_SIZE = 1 << 28  # bytes of address space; doubled whenever it is full


@dataclass(frozen=True)
class Part:
    """What one transaction made of the samples up to position `end`."""

    end: int
    index: Index
    problems: list[Problem]
    stamps: list[Stamp]  # of every sample's file

    def to_bytes(self) -> bytes:
        """The part as it is stored."""
        stream = io.BytesIO()
        lines = json.dumps([asdict(problem) for problem in self.problems]).encode()
        stamps = np.array(self.stamps, np.int64).reshape(-1, 2)
        arrays = {**self.index, "problems": np.frombuffer(lines, np.uint8), "stamps": stamps}
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, end: int, stored: bytes) -> Part:
        """ValueError or KeyError when these are not the bytes of a part."""
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            further = sorted({*arrays.files} - {*INDEX, "problems", "stamps"})
            index = {name: arrays[name] for name in (*INDEX, *further)}
            problems = [Problem.from_fields(fields) for fields in json.loads(arrays["problems"].tobytes())]
            return cls(end, index, problems, [(size, time) for size, time in arrays["stamps"].tolist()])


class CacheWriter:
    """`X.lmdb.partial`, held under an exclusive lock until it is closed or finished. Use `CacheWriter.locked`."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path = path
        self.parts: list[Part] = []
        self.restarted = False  # what was there belonged to another job
        self.manifest: Manifest | None = None  # set when all that remained to be done was the renaming
        self._lock = _acquire(path)
        self._recover(job)
        with write_errors(path):
            self._env = self._open()
        if self.manifest is None:
            self._write({JOB_KEY: json.dumps({**job, "pid": os.getpid(), "host": socket.gethostname()}).encode()})

    @classmethod
    @contextmanager
    def locked(cls, path: Path, job: dict[str, Any]) -> Iterator[CacheWriter]:
        """The partial file of `job`, made when there is none, resumed when it is of the same job, else begun afresh.

        `CacheError` when somebody else is building it. What is committed stays when the block is left early.
        """
        partial = cls(path, job)
        try:
            yield partial
        finally:
            partial._env.close()
            os.close(partial._lock)

    @property
    def next_position(self) -> int:
        """The position of the sample to go on with."""
        return self.parts[-1].end if self.parts else 0

    @property
    def problems(self) -> list[Problem]:
        """The problems of everything committed so far."""
        return [problem for part in self.parts for problem in part.problems]

    @property
    def stamps(self) -> list[Stamp]:
        """The stamps of all samples committed so far."""
        return [stamp for part in self.parts for stamp in part.stamps]

    def index(self) -> Index:
        """The index of everything committed so far."""
        return join_indices(part.index for part in self.parts)

    def commit(self, records: Sequence[tuple[int, bytes]], part: Part) -> None:
        """Make durable what was made of some samples. `records` are (position, bytes)."""
        values = {PART_PREFIX + part.end.to_bytes(8, "big"): part.to_bytes()}
        self._write(values | {record_key(position): record for position, record in records})
        self.parts.append(part)

    def rewind(self, position: int) -> None:
        """Forget whatever was committed from the part on that holds the sample at `position`."""
        if position >= self.next_position:
            return
        self.parts = [part for part in self.parts if part.end <= position]
        first = self.next_position
        later_parts = PART_PREFIX + (first + 1).to_bytes(8, "big")
        self._write({}, clear={PART_PREFIX: later_parts, RECORD_PREFIX: record_key(first)})

    def finish(self, index: Index, manifest: Manifest, path: Path) -> None:
        """Complete the cache and put it in its place, over an older one."""
        if self.manifest is None:
            arrays = {INDEX_PREFIX + name.encode(): array.tobytes() for name, array in index.items()}
            self._write({**arrays, MANIFEST_KEY: manifest.to_bytes()}, clear={b"build/": b"build/"})
        with write_errors(self.path):
            self._env.sync(True)
            # LMDB leaves out pages at the end that it has freed: with them, a file cut short is known by its size.
            end = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            os.ftruncate(self._lock, max(end, os.fstat(self._lock).st_size))
            os.fsync(self._lock)
            os.replace(self.path, path)
            sync_folder(path.parent)

    def discard(self) -> None:
        """Remove the file: what it holds is not worth resuming."""
        self.path.unlink()

    def _recover(self, job: dict[str, Any]) -> None:
        """Take up what an interrupted build of the same job has left, or empty the file."""
        if os.fstat(self._lock).st_size == 0:
            return
        try:
            self._take_up(job)
        except (ValueError, KeyError, OSError):  # damaged, or of another job
            self.parts, self.manifest = [], None
            self.restarted = True
            self.discard()  # not truncated: whoever has it mapped, to see who builds, would crash
            os.close(self._lock)
            self._lock = _acquire(self.path)

    def _take_up(self, job: dict[str, Any]) -> None:
        with mmap.mmap(self._lock, 0, prot=mmap.PROT_READ) as file:
            values, positions, _, _, _ = _core.lmdb_tree(file)
            stored = {key: file[offset : offset + size] for key, (offset, size) in sorted(values.items())}
        if MANIFEST_KEY in stored:
            manifest = Manifest.from_bytes(stored[MANIFEST_KEY])
            _check_same(manifest.source, job)
            self.manifest = manifest
            return
        _check_same(json.loads(stored[JOB_KEY]), job)
        for key, value in stored.items():
            if key.startswith(PART_PREFIX):
                self.parts.append(Part.from_bytes(int.from_bytes(key[len(PART_PREFIX) :], "big"), value))
        images = sum(len(part.index["image_id"]) for part in self.parts)
        if len(positions) != images or len(self.stamps) != self.next_position:
            raise ValueError("records and index disagree")

    def _open(self) -> lmdb.Environment:
        size = max(FIRST_MAP_SIZE, 2 * os.fstat(self._lock).st_size)
        return lmdb.open(str(self.path), subdir=False, lock=False, map_size=size, meminit=False, readahead=False)

    def _write(self, values: dict[bytes, bytes], clear: dict[bytes, bytes] | None = None) -> None:
        """One transaction: for each prefix in `clear` remove its keys from the given one on, then store `values`."""
        with write_errors(self.path):
            while True:
                try:
                    with self._env.begin(write=True) as transaction:
                        for prefix, first in (clear or {}).items():
                            _delete(transaction, prefix, first)
                        for key, value in values.items():
                            transaction.put(key, value, append=key.startswith(RECORD_PREFIX))
                    return
                except lmdb.MapFullError:
                    self._env.set_mapsize(2 * self._env.info()["map_size"])


def _check_same(before: dict[str, Any], job: dict[str, Any]) -> None:
    if {key: before.get(key) for key in job} != job:
        raise ValueError("another job")


def _delete(transaction: lmdb.Transaction, prefix: bytes, first: bytes) -> None:
    cursor = transaction.cursor()
    while cursor.set_range(first) and bytes(cursor.key()).startswith(prefix):
        cursor.delete()


def _acquire(path: Path) -> int:
    """A descriptor of `path` that holds its lock. The file may be renamed while we wait to look: then look again."""
    while True:
        with write_errors(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with write_errors(path):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.stat(path).st_ino == os.fstat(lock).st_ino:
                return lock
            os.close(lock)
        except BlockingIOError as error:
            builder = _builder(lock)
            os.close(lock)
            raise CacheError(f"{path.with_suffix('')} is being built by {builder}: wait for it, or stop it.") from error


def _builder(lock: int) -> str:
    """Who holds a file that we could not lock. It is being written to, so any answer may fail."""
    try:
        with mmap.mmap(lock, 0, prot=mmap.PROT_READ) as file:
            offset, size = _core.lmdb_tree(file)[0][JOB_KEY]
            job = json.loads(file[offset : offset + size])
        return f"process {int(job['pid'])} on {job['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Whatever keeps us from writing, said clearly."""
    try:
        yield
    except (lmdb.MapFullError, BlockingIOError):
        raise  # these have answers of their own
    except (lmdb.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, lmdb.Error) and shutil.disk_usage(path.parent).free < FULL:
            reason = os.strerror(errno.ENOSPC)  # LMDB takes a write that was cut short for an input/output error
        raise CacheError(
            f"{path} cannot be written: {reason}. Make room or permit it and run the same command again, which carries "
            "on where this one stopped; or choose another place with --out."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
