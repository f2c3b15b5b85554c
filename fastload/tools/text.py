"""Text of datasets, which may hold any characters, for people to read."""

from __future__ import annotations


def escaped(text: str) -> str:
    """Return `text` with control characters, lone surrogates and the like escaped, as in a Python string."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
