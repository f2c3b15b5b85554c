"""The unfinished file of a cache being built: locked, resumable, and renamed when it is complete.

During a build the LMDB file holds records and two more kinds of keys, which the transaction that writes the manifest
removes. b"build/job" is JSON: the settings of the build, and the process. b"build/part/" + position is an .npz with the
index of the records of one transaction; the position is that of the next sample.
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
from itertools import chain
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

import fastload._core as _core
from fastload.cache.format.index import Index, join_indices
from fastload.cache.format.layout import INDEX, INDEX_PREFIX, MANIFEST_KEY, RECORD_PREFIX, SOURCE_FILES_KEY, record_key
from fastload.cache.format.manifest import Manifest
from fastload.cache.format.source_files import SourceFiles, Stamp
from fastload.errors import CacheError
from fastload.sources.base import Problem

JOB_KEY = b"build/job"
PART_PREFIX = b"build/part/"
FULL = 1 << 16  # bytes: a disk with less free space is full
FIRST_MAP_SIZE = 1 << 28  # bytes of address space; doubled when it is full


@dataclass(frozen=True)
class Part:
    """The index, problems and stamps of the samples of one transaction.

    Args:
        end: the position after its last sample.
        index: the index of its records.
        problems: the problems of its samples.
        stamps: the stamp of each sample's file.
    """

    end: int
    index: Index
    problems: list[Problem]
    stamps: list[Stamp]

    def to_bytes(self) -> bytes:
        """Serialize the part."""
        stream = io.BytesIO()
        lines = json.dumps([asdict(problem) for problem in self.problems]).encode()
        stamps = np.array(self.stamps, np.int64).reshape(-1, 2)
        arrays = {**self.index, "problems": np.frombuffer(lines, np.uint8), "stamps": stamps}
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, end: int, stored: bytes) -> Part:
        """Parse a part. ValueError or KeyError if it is invalid."""
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            extra = sorted({*arrays.files} - {*INDEX, "problems", "stamps"})
            index = {name: arrays[name] for name in (*INDEX, *extra)}
            problems = [Problem.from_fields(fields) for fields in json.loads(arrays["problems"].tobytes())]
            return cls(end, index, problems, [(size, time) for size, time in arrays["stamps"].tolist()])


class CacheWriter:
    """The unfinished file `X.lmdb.partial` under an exclusive lock. Use `CacheWriter.locked`.

    Args:
        path: the unfinished file.
        job: the settings that determine the content of the cache.

    Raises:
        CacheError: another process is building the cache, or the file cannot be written.
    """

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path = path
        self.parts: list[Part] = []
        self.restarted = False  # True: the file was damaged or of another job, and was discarded
        self.manifest: Manifest | None = None  # set if the file is complete and only needs to be renamed
        self._lock = _acquire(path)
        self._recover(job)
        with write_errors(path):
            self._env = self._open()
        if self.manifest is None:
            self._write({JOB_KEY: json.dumps({**job, "pid": os.getpid(), "host": socket.gethostname()}).encode()})

    @classmethod
    @contextmanager
    def locked(cls, path: Path, job: dict[str, Any]) -> Iterator[CacheWriter]:
        """Open the unfinished file of `job`: create it, resume it if it is of the same job, or start again.

        The file is closed at the end of the block. Committed samples stay if the block is left early.

        Args:
            path: the unfinished file.
            job: the settings that determine the content of the cache.

        Raises:
            CacheError: another process is building the cache, or the file cannot be written.
        """
        writer = cls(path, job)
        try:
            yield writer
        finally:
            writer._env.close()
            os.close(writer._lock)

    @property
    def next_position(self) -> int:
        """The position of the next sample to process."""
        return self.parts[-1].end if self.parts else 0

    @property
    def problems(self) -> list[Problem]:
        """The problems of all committed samples."""
        return [problem for part in self.parts for problem in part.problems]

    @property
    def stamps(self) -> list[Stamp]:
        """The stamps of all committed samples."""
        return [stamp for part in self.parts for stamp in part.stamps]

    def image_ids(self) -> set[int]:
        """Return the image ids of all committed samples that have a record or a problem."""
        stored = chain.from_iterable(part.index["image_id"].tolist() for part in self.parts)
        return {*stored, *(problem.image_id for problem in self.problems)}

    def index(self) -> Index:
        """Return the index of all committed records."""
        return join_indices(part.index for part in self.parts)

    def commit(self, records: Sequence[tuple[int, bytes]], part: Part) -> None:
        """Write the records and the part of some samples in one transaction.

        Args:
            records: (position, bytes) of each record.
            part: the part of the samples, including those without a record.
        """
        values = {PART_PREFIX + part.end.to_bytes(8, "big"): part.to_bytes()}
        self._write(values | {record_key(position): record for position, record in records})
        self.parts.append(part)

    def rewind(self, position: int) -> None:
        """Remove the part that holds the sample at `position`, and all later parts, with their records."""
        if position >= self.next_position:
            return
        self.parts = [part for part in self.parts if part.end <= position]
        first = self.next_position
        later_parts = PART_PREFIX + (first + 1).to_bytes(8, "big")
        self._write({}, clear={PART_PREFIX: later_parts, RECORD_PREFIX: record_key(first)})

    def finish(self, index: Index, manifest: Manifest, path: Path, sources: SourceFiles | None = None) -> None:
        """Complete the cache and rename it to `path`, replacing an existing cache."""
        if self.manifest is None:
            values = {INDEX_PREFIX + name.encode(): array.tobytes() for name, array in index.items()}
            if sources is not None:
                values[SOURCE_FILES_KEY] = sources.to_bytes()
            self._write({**values, MANIFEST_KEY: manifest.to_bytes()}, clear={b"build/": b"build/"})
        with write_errors(self.path):
            self._env.sync(True)
            # LMDB does not write freed pages at the end. With them, a truncated file is detected by its size.
            end = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            os.ftruncate(self._lock, max(end, os.fstat(self._lock).st_size))
            os.fsync(self._lock)
            os.replace(self.path, path)
            sync_folder(path.parent)

    def discard(self) -> None:
        """Remove the file, so that the next build starts from the beginning."""
        self.path.unlink()

    def _recover(self, job: dict[str, Any]) -> None:
        """Resume an interrupted build of the same job, or start with a new file."""
        if os.fstat(self._lock).st_size == 0:
            return
        try:
            self._resume(job)
        except (ValueError, KeyError, OSError):  # damaged, or of another job
            self.parts, self.manifest = [], None
            self.restarted = True
            self.discard()  # not truncated, because a process that has it mapped would crash
            os.close(self._lock)
            self._lock = _acquire(self.path)

    def _resume(self, job: dict[str, Any]) -> None:
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
        return lmdb.open(
            os.fsencode(self.path), subdir=False, lock=False, map_size=size, meminit=False, readahead=False
        )

    def _write(self, values: dict[bytes, bytes], clear: dict[bytes, bytes] | None = None) -> None:
        """In one transaction, for each prefix in `clear` remove its keys from the given one on, then store `values`."""
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


def _check_same(stored: dict[str, Any], job: dict[str, Any]) -> None:
    if {key: stored.get(key) for key in job} != job:
        raise ValueError("another job")


def _delete(transaction: lmdb.Transaction, prefix: bytes, first: bytes) -> None:
    cursor = transaction.cursor()
    while cursor.set_range(first) and bytes(cursor.key()).startswith(prefix):
        cursor.delete()


def _acquire(path: Path) -> int:
    """Open and lock `path`, and return the descriptor. Tries again if the file was renamed in the meantime."""
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
            raise CacheError(
                f"{path.with_suffix('')} is being built by {builder}: wait until it is done, or stop it."
            ) from error


def _builder(lock: int) -> str:
    """Describe the process that holds the lock. It is writing to the file, so reading it may fail."""
    try:
        with mmap.mmap(lock, 0, prot=mmap.PROT_READ) as file:
            offset, size = _core.lmdb_tree(file)[0][JOB_KEY]
            job = json.loads(file[offset : offset + size])
        return f"process {int(job['pid'])} on {job['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn write failures into a CacheError with advice."""
    try:
        yield
    except (lmdb.MapFullError, BlockingIOError):
        raise  # the callers handle these
    except (lmdb.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, lmdb.Error) and shutil.disk_usage(path.parent).free < FULL:
            reason = os.strerror(errno.ENOSPC)  # LMDB reports a short write as an input/output error
        raise CacheError(
            f"{path} cannot be written: {reason}. Make room or change permissions and run the same command again, "
            "which resumes the build; or choose another place with --out."
        ) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
