"""Reading a large JSON object list by list, in batches, so that memory does not grow with the file."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastload.errors import SourceError
from fastload.sources.files import read_errors

WINDOW = 8 << 20  # bytes
BATCH = 16384  # elements
_BLANKS, _COMMA = re.compile(r"[ \t\n\r]*"), re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(strict=False).__dict__["scan_once"]


class JsonLists:
    """The lists of a file that holds a JSON object. A window of its text is in memory, large enough for one value.

    Args:
        path: the file.
        prepare: rewrites text before it is parsed. It must not change text that it returned, or text that is cut off.

    Attributes:
        starts: the first character of each value by key, such as "[" for a list; empty if the file holds no object.
            Complete after all batches have been read.
        digest: of the file, as `digest_of` makes it, then too.
    """

    def __init__(self, path: Path, prepare: Callable[[str], str] = str) -> None:
        self.starts: dict[str, str] = {}
        self._path, self._prepare = path, prepare
        self._buffer, self._at, self._ended = "", 0, False

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def batches(self) -> Iterator[tuple[str, list[Any]]]:
        """Yield the key of a list and the next elements of it, at most BATCH, in the order of the file.

        Raises:
            SourceError: the file cannot be read or is not valid JSON.
        """
        try:
            with read_errors(self._path), open(self._path, "rb") as self._stream:
                size = self._path.stat().st_size
                self._digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
                encoding = json.detect_encoding(self._stream.read(4))
                self._stream.seek(0)
                self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
                yield from self._members()
        except (ValueError, RecursionError) as error:
            reason = str(error)
            if isinstance(error, json.JSONDecodeError):
                reason = f"it breaks off or cannot be read at {self._buffer[error.pos : error.pos + 40]!r}"
            raise SourceError(f"{self._path} is not valid JSON: {reason}. Download or export it again.") from error

    def _members(self) -> Iterator[tuple[str, list[Any]]]:
        more = self._mark() == "{"
        if not more:
            self._value()
        elif self._step() == "}":
            more = self._step() == ","  # of an empty object: whatever follows is too much
        while more:
            key = self._value()
            self._expect(":")
            self.starts[key] = self._mark()
            if self.starts[key] == "[":
                yield from ((key, batch) for batch in self._elements())
            else:
                self._value()
            more = self._mark() == ","
            self._expect("," if more else "}")
        if self._mark():
            raise json.JSONDecodeError("extra data", self._buffer, self._at)

    def _elements(self) -> Iterator[list[Any]]:
        batch: list[Any] = []
        more = self._step() != "]"
        while more:
            self._values_with_commas(batch)
            if len(batch) < BATCH:
                batch.append(self._value())
                more = self._mark() == ","
                if more:
                    self._step()
            if len(batch) >= BATCH:
                yield batch
                batch = []
        self._expect("]")
        yield batch

    def _mark(self) -> str:
        """Go to the next character that is not blank, and return it; "" at the end."""
        while True:
            blanks = _BLANKS.match(self._buffer, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._read()

    def _step(self) -> str:
        """Pass one character, and return the next one that is not blank."""
        self._at += 1
        return self._mark()

    def _expect(self, mark: str) -> None:
        """Pass the character `mark`, and go to the next one that is not blank."""
        if self._mark() != mark:
            raise json.JSONDecodeError(f"expected {mark!r}", self._buffer, self._at)
        self._step()

    def _value(self) -> Any:
        """Return the value that begins here, and pass it."""
        while True:
            try:
                value, end = _scan(self._buffer, self._at)
                if end < len(self._buffer) or self._ended:
                    self._at = end
                    return value
            except StopIteration as error:
                if self._ended:
                    raise json.JSONDecodeError("no value", self._buffer, error.value) from None
            except json.JSONDecodeError:
                if self._ended:
                    raise
            self._read()

    def _values_with_commas(self, batch: list[Any]) -> None:
        """Append the values that are in the window with a comma after them to `batch`, until it is full."""
        try:
            while len(batch) < BATCH:
                value, end = _scan(self._buffer, self._at)
                comma = _COMMA.match(self._buffer, end)
                if comma is None:
                    break
                batch.append(value)
                self._at = comma.end()
        except (StopIteration, json.JSONDecodeError):
            pass  # cut off by the window, or wrong: `_value` finds out

    def _read(self) -> None:
        data = self._stream.read(max(WINDOW, len(self._buffer) - self._at))
        self._digest.update(data)
        self._ended = not data
        text = self._buffer[self._at :] + self._decoder.decode(data, not data)
        self._buffer, self._at = self._prepare(text), 0
