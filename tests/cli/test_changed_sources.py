"""`build-cache` and `verify --sources` after source files have changed."""

from __future__ import annotations

from tests.cli.test_cli import fastload_command
from tests.support.datasets import jpeg, many_jpegs, write_coco


def test_changed_files_are_listed_and_read_again(tmp_path):
    """`verify --sources` names the file and exits with 1; `build-cache` says how many files it read again."""
    cache = write_coco(tmp_path / "coco", many_jpegs(3)) / "fastload/train.lmdb"
    fastload_command("build-cache", tmp_path / "coco")
    done = fastload_command("verify", "--sources", cache)
    assert done.returncode == 0 and "have not changed" in done.stdout
    (tmp_path / "coco/train/00001.jpg").write_bytes(jpeg(seed=9))
    done = fastload_command("verify", "--sources", cache)
    assert done.returncode == 1 and "changed: " in done.stdout and "train/00001.jpg" in done.stdout
    assert "1 source files" in done.stdout and "build-cache" in done.stdout
    assert "train: 1 image files had changed" in fastload_command("build-cache", tmp_path / "coco").stdout
    assert fastload_command("verify", "--sources", cache).returncode == 0
