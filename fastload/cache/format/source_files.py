"""The files that a cache was built from, with their stamps: the value of `source/files`, which few readers need."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

import fastload._core as _core

Stamp: TypeAlias = tuple[int, int]  # of a file: size in bytes, and modification time in nanoseconds
NO_FILE: Stamp = (-1, -1)


def stamp_of_file(path: str | os.PathLike[str]) -> Stamp:
    """Return the stamp of a file; NO_FILE if it cannot be found."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return NO_FILE
    return status.st_size, status.st_mtime_ns


def can_be_named(text: str) -> bool:
    """Return whether a file can have the name `text`, which holds no lone surrogates then."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class SourceFiles:
    """The source files of a cache.

    Args:
        folder: the absolute path of the cache's folder when it was built.
        paths: the path of each file, absolute or relative to the cache's folder; "" if it was not to be read.
        stamps: the stamp of each file.
        image_ids: the image id of each file. The files after these are annotation files.
    """

    folder: str
    paths: Sequence[str]
    stamps: Sequence[Stamp]
    image_ids: Sequence[int]

    def to_bytes(self) -> bytes:
        """Serialize the files: 8 bytes of XXH64 in little-endian, then an .npz file."""
        text = os.fsencode("\0".join([self.folder, *self.paths]))
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            text=np.frombuffer(text, np.uint8),
            stamps=np.array(self.stamps, np.int64).reshape(-1, 2),
            image_ids=np.array(self.image_ids, np.int64),
        )
        return _core.xxh64(stream.getvalue()).to_bytes(8, "little") + stream.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> SourceFiles:
        """Parse the files. ValueError if they are damaged."""
        if _core.xxh64(stored[8:]) != int.from_bytes(stored[:8], "little"):
            raise ValueError("its list of source files is damaged")
        try:
            with np.load(io.BytesIO(stored[8:]), allow_pickle=False) as arrays:
                folder, *paths = os.fsdecode(arrays["text"].tobytes()).split("\0")
                stamps = [(size, time) for size, time in arrays["stamps"].tolist()]
                files = cls(folder, paths, stamps, arrays["image_ids"].tolist())
        except (KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError("its list of source files is damaged") from error
        if len(files.paths) != len(files.stamps) or len(files.image_ids) > len(files.paths):
            raise ValueError("its list of source files is damaged")
        return files

    def changed(self, cache: Path) -> Iterator[tuple[str, str]]:
        """Yield (path, "changed", "vanished" or "new") of each file that no longer has its stamp.

        Relative paths are looked up from the folder of `cache`, or else from the folder that it was built in.
        """
        folders = [os.path.dirname(os.path.abspath(cache)), self.folder]
        sample = next((path for path, stamp in zip(self.paths, self.stamps, strict=True) if stamp != NO_FILE), "")
        home = next((each for each in folders if os.path.exists(os.path.join(each, sample))), folders[0])
        for path, stamp in zip(self.paths, self.stamps, strict=True):
            located = os.path.normpath(os.path.join(home, path))
            if path and (now := stamp_of_file(located)) != stamp:
                yield located, "vanished" if now == NO_FILE else "new" if stamp == NO_FILE else "changed"
