"""Engines turn plans into pixels: `native`, `dali` and `reference`. `base` is what they have in common."""
