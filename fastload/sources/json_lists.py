"""Reading a large JSON object list by list, in batches, so that memory does not grow with the file."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fastload.errors import SourceError
from fastload.sources.files import read_errors

WINDOW = 8 << 20  # bytes
BATCH = 16384  # elements
_BLANKS, _COMMA = re.compile(r"[ \t\n\r]*"), re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(strict=False).__dict__["scan_once"]

Take = Callable[[list[Any]], None]


def read_lists(path: Path, take: Mapping[str, Take], prepare: Callable[[str], str]) -> tuple[dict[str, str], str]:
    """Read a file that holds a JSON object, and pass on the elements of its lists.

    Args:
        path: the file.
        take: by key: called with batches of the elements of the list of that key, in order.
        prepare: rewrites text before it is parsed. It must not change text that it returned, or text that is cut off.

    Returns:
        The first character of each value by key, such as "[" for a list, and the digest of the file. There are no keys
        if the file holds something else than an object.

    Raises:
        SourceError: the file cannot be read or is not valid JSON.
    """
    with read_errors(path), open(path, "rb") as stream:
        text = _Text(stream, path.stat().st_size, prepare)
        try:
            return _read_members(text, take), text.digest.hexdigest()
        except (ValueError, StopIteration, RecursionError) as error:
            reason = str(error)
            if isinstance(error, (json.JSONDecodeError, StopIteration)):
                at = error.pos if isinstance(error, json.JSONDecodeError) else text.at
                reason = f"it breaks off or cannot be read at {text.buffer[at : at + 40]!r}"
            raise SourceError(f"{path} is not valid JSON: {reason}. Download or export it again.") from error


def _read_members(text: _Text, take: Mapping[str, Take]) -> dict[str, str]:
    starts: dict[str, str] = {}
    if text.mark() != "{":
        text.value()
    elif text.step() == "}":
        text.step()
    else:
        more = True
        while more:
            key = text.value()
            text.expect(":")
            starts[key] = text.mark()
            if starts[key] == "[":
                _read_elements(text, take.get(key, lambda _: None))
            else:
                text.value()
            more = text.mark() == ","
            text.expect("," if more else "}")
    if text.mark():
        raise json.JSONDecodeError("extra data", text.buffer, text.at)
    return starts


def _read_elements(text: _Text, take: Take) -> None:
    batch: list[Any] = []
    more = text.step() != "]"
    while more:
        text.read_values(batch)
        if len(batch) < BATCH:
            batch.append(text.value())
            more = text.mark() == ","
            if more:
                text.step()
        if len(batch) >= BATCH:
            take(batch)
            batch = []
    text.expect("]")
    take(batch)


class _Text:
    """The text of a file. A window of it is in memory, which grows while a value does not fit."""

    def __init__(self, stream: BinaryIO, size: int, prepare: Callable[[str], str]) -> None:
        self._stream, self._prepare = stream, prepare
        self.digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)  # as `digest_of` makes it
        encoding = json.detect_encoding(stream.read(4))
        stream.seek(0)
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self.buffer, self.at, self._ended = "", 0, False

    def mark(self) -> str:
        """Go to the next character that is not blank, and return it; "" at the end."""
        while True:
            blanks = _BLANKS.match(self.buffer, self.at)
            self.at = blanks.end() if blanks else self.at
            if self.at < len(self.buffer) or self._ended:
                return self.buffer[self.at : self.at + 1]
            self._read()

    def step(self) -> str:
        """Pass one character, and return the next one that is not blank."""
        self.at += 1
        return self.mark()

    def expect(self, mark: str) -> None:
        """Pass the character `mark`, and go to the next one that is not blank."""
        if self.mark() != mark:
            raise json.JSONDecodeError(f"expected {mark!r}", self.buffer, self.at)
        self.step()

    def value(self) -> Any:
        """Return the value that begins here, and pass it."""
        while True:
            try:
                value, end = _scan(self.buffer, self.at)
                if end < len(self.buffer) or self._ended:
                    self.at = end
                    return value
            except (StopIteration, json.JSONDecodeError):
                if self._ended:
                    raise
            self._read()

    def read_values(self, batch: list[Any]) -> None:
        """Append the values that are in the window and end in a comma to `batch`, until it is full."""
        try:
            while len(batch) < BATCH:
                value, end = _scan(self.buffer, self.at)
                comma = _COMMA.match(self.buffer, end)
                if comma is None:
                    break
                batch.append(value)
                self.at = comma.end()
        except (StopIteration, json.JSONDecodeError):
            pass  # cut off by the window, or wrong: `value` finds out

    def _read(self) -> None:
        data = self._stream.read(max(WINDOW, len(self.buffer) - self.at))
        self.digest.update(data)
        self._ended = not data
        text = self.buffer[self.at :] + self._decoder.decode(data, not data)
        self.buffer, self.at = self._prepare(text), 0
