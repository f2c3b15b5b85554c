"""Engines turn plans into pixels: `native`, `dali` and `reference`. `base` defines their protocol."""
