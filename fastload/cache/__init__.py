"""Caches: `format` is what lies in the file, `write` makes it, `read` opens it."""
