"""Emulates a cache on a slow disk, by delivering its pages to memory at a limited speed.

Linux only (userfaultfd): a thread that touches a missing page sleeps until this process has delivered it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import struct
import threading
import time

import numpy as np
from numpy.typing import NDArray

from fastload import Cache

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
USER_MODE_ONLY = 1  # needs no privilege
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WAKE, UFFDIO_COPY = 0xC018AA3F, 0xC020AA00, 0x8010AA02, 0xC028AA03
CHUNK = 4096  # bytes delivered at a time: a page

_libc = ctypes.CDLL(None, use_errno=True)


class SlowCache(Cache):
    """The cache at `path`, with records read at `bytes_per_second`. Raises OSError if the system does not support it.

    Only native threads may read records: a Python thread would hold the GIL, which delivery needs.
    """

    def __init__(self, path: str | os.PathLike[str], bytes_per_second: float) -> None:
        super().__init__(path)
        start = np.concatenate([[0], np.cumsum(super().lengths)]).astype(np.uint64)
        size = -(-int(start[-1]) // CHUNK) * CHUNK
        self._source = np.zeros(size, np.uint8)
        for i in range(len(self)):
            self._source[int(start[i]) : int(start[i + 1])] = np.frombuffer(self.record_bytes(i), np.uint8)
        self._region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._region))
        self._addresses = start[:-1] + np.uint64(self._base)
        self._delay = CHUNK / bytes_per_second
        self._faults = _userfaultfd(self._base, size)
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    @property
    def addresses(self) -> NDArray[np.uint64]:
        return self._addresses

    def evict(self) -> None:
        """Drop all pages from memory, so that the next epoch reads them again."""
        self._region.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Stop delivering pages. No engine may be reading."""
        os.close(self._stopped)
        self._thread.join()
        for descriptor in (self._faults, self._stop):
            os.close(descriptor)

    def _deliver(self) -> None:
        while True:
            ready, _, _ = select.select([self._faults, self._stop], [], [])
            if self._stop in ready:
                return
            _, address = struct.unpack_from("<QQ", os.read(self._faults, 32), 8)
            time.sleep(self._delay)
            offset = (address - self._base) // CHUNK * CHUNK
            source = self._source.ctypes.data + offset
            try:
                _control(self._faults, UFFDIO_COPY, struct.pack("<QQQQq", self._base + offset, source, CHUNK, 0, 0))
            except FileExistsError:  # another thread needed the same chunk
                _control(self._faults, UFFDIO_WAKE, struct.pack("<QQ", self._base + offset, CHUNK))


def _userfaultfd(start: int, size: int) -> int:
    number = SYS_USERFAULTFD.get(os.uname().machine) if os.uname().sysname == "Linux" else None
    descriptor = -1 if number is None else _libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "no userfaultfd on this system: a slow disk cannot be emulated")
    _control(descriptor, UFFDIO_API, struct.pack("<QQQ", 0xAA, 0, 0))
    _control(descriptor, UFFDIO_REGISTER, struct.pack("<QQQQ", start, size, 1, 0))
    return descriptor


def _control(descriptor: int, request: int, argument: bytes) -> None:
    buffer = ctypes.create_string_buffer(argument, len(argument))
    if _libc.ioctl(descriptor, ctypes.c_ulong(request), buffer) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
