"""Caches: `format` describes the file, `write` creates it, `read` opens it."""
