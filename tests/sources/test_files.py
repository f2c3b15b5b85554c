"""Finding image files: by suffix, and by content."""

from __future__ import annotations

import os
from pathlib import Path

from fastload.cache.format.problems import read_problems
from fastload.cache.write.build import build_cache
from fastload.sources.detect import find_datasets
from fastload.sources.files import images_below
from tests.support.datasets import encoded, jpeg, pixels


def test_images_are_found_by_suffix_or_content(tmp_path: Path) -> None:
    """Every image goes in or is named: also without a suffix, with a rare one, or of a format Pillow cannot read."""
    (tmp_path / "a").write_bytes(jpeg())
    (tmp_path / "b.download").write_bytes(encoded(pixels(64, 48), "PNG"))
    (tmp_path / "c.TGA").write_bytes(encoded(pixels(64, 48), "TGA"))
    (tmp_path / "d.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (tmp_path / "e.JPG").write_bytes(encoded(pixels(64, 48), "QOI"))
    for name in ("notes", "labels.txt", "data.bin"):
        (tmp_path / name).write_bytes(b"hello")
    os.mkfifo(tmp_path / "pipe")
    assert [path.name for path in images_below(tmp_path)] == ["a", "b.download", "c.TGA", "d.heic", "e.JPG"]
    (dataset,) = find_datasets(tmp_path, "folder")
    report = build_cache(dataset.load(), dataset.cache)
    assert report.images == 4 and report.problems == {"converted": 3, "skipped": 1}
    (skipped,) = (problem for problem in read_problems(dataset.cache) if problem.kind == "skipped")
    assert skipped.file == "d.heic" and "HEIC" in skipped.reason


def test_images_begin_as_their_formats_say(tmp_path: Path) -> None:
    """What Pillow writes in each format is found without a suffix; TGA and PCX have no magic number."""
    for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI"):
        (tmp_path / format).write_bytes(encoded(pixels(64, 48), format))
    assert len(images_below(tmp_path)) == 10
