"""The command line: what it prints, the statuses it exits with, and never a traceback."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

import fastload
from fastload.cache.read.summary import summarize
from fastload.cli.app import main
from fastload.engines.dali import pipeline as dali_pipeline
from fastload.tools import doctor
from tests.support.datasets import jpeg, many_jpegs, write_coco
from tests.support.engines import needs_dali


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def fastload_command(*arguments: object) -> Done:
    """Run the command in this process; an exception that would be a traceback fails the test."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), mock.patch("sys.argv", ["fastload", *map(str, arguments)]):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def fastload_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "fastload", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_build_info_verify(tmp_path):
    """A COCO folder is built, described and verified; the second build finds it up to date."""
    root = write_coco(tmp_path / "coco", many_jpegs(6) | {"bad[red].jpg": b"x"})
    write_coco(tmp_path / "coco", many_jpegs(2), split="val")
    done = fastload_command("build-cache", root)
    assert done.returncode == 0
    for text in ("train.lmdb", "val.lmdb", "1 images were skipped", "train.problems.jsonl"):
        assert text in done.stdout
    assert "train: 7 of 7 images" in done.stderr
    assert "up to date" in fastload_command("build-cache", root).stdout
    info = fastload_command("info", root / "fastload/train.lmdb").stdout
    assert "dct: 6 images, " in info and "person" in info and "boxes an image" in info
    done = fastload_command("verify", root / "fastload/train.lmdb", "--workers", 2)
    assert done.returncode == 0 and "is sound: 6 images" in done.stdout


def test_verify_names_what_is_damaged(tmp_path):
    """Damage is listed by image id and file, with advice, and exit status 1."""
    root = write_coco(tmp_path, many_jpegs(4))
    fastload_command("build-cache", root)
    path = root / "fastload/train.lmdb"
    sound = bytes(fastload.Cache(path).record(2).data)
    damaged = sound[:99] + bytes([sound[99] ^ 1]) + sound[100:]
    path.write_bytes(path.read_bytes().replace(sound, damaged))  # in pages that are free by now, too
    done = fastload_command("verify", path)
    assert done.returncode == 1
    assert "image 30 (00002.jpg)" in done.stdout and "--overwrite" in done.stdout


def test_out_split_and_single_files(tmp_path):
    """--out is a folder, or a file for one split; --split chooses; --annotations with --images needs no layout."""
    root = write_coco(tmp_path / "coco", many_jpegs(2))
    write_coco(tmp_path / "coco", many_jpegs(3), split="val")
    assert fastload_command("build-cache", root, "--out", tmp_path / "a", "--split", "val").returncode == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["val.lmdb"]
    assert fastload_command("build-cache", root, "--out", tmp_path / "b.lmdb").returncode == 2
    assert fastload_command("build-cache", root, "--out", tmp_path / "b.lmdb", "--split", "train").returncode == 0
    files = ("--annotations", root / "annotations/instances_val.json", "--images", root / "val")
    assert fastload_command("build-cache", *files, "--out", tmp_path / "c.lmdb").returncode == 0
    assert (len(fastload.Cache(tmp_path / "b.lmdb")), len(fastload.Cache(tmp_path / "c.lmdb"))) == (2, 3)
    assert not (root / "fastload").exists()


def test_annotations_of_another_format(tmp_path):
    """--annotations with --images builds from any format, with --classes, or says in one line what is missing."""
    for name, data in (("photos/a.jpg", jpeg()), ("labels/a.txt", b"0 .5 .5 .25 .5"), ("names", b"dog")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    given = ("build-cache", "--annotations", tmp_path / "labels", "--images", tmp_path / "photos")
    done = fastload_command(*given)
    assert done.returncode == 1 and "by --classes" in done.stderr
    assert fastload_command(*given, "--classes", tmp_path / "names", "--out", tmp_path / "x.lmdb").returncode == 0
    assert fastload.Cache(tmp_path / "x.lmdb").boxes.tolist() == [[24, 12, 40, 36]]
    done = fastload_command(*given, "--format", "voc")
    assert done.returncode == 1 and "holds no VOC annotations" in done.stderr


def test_an_empty_split_does_not_end_the_build(tmp_path):
    """An empty list is an empty split: it is named, and the splits after it are built; alone it is an error."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(jpeg())
    (tmp_path / "images/a.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "data.yaml").write_text("names: [dog]\ntrain: train.txt\nval: val.txt\n")
    (tmp_path / "train.txt").write_text("")
    (tmp_path / "val.txt").write_text("images/a.jpg")
    done = fastload_command("build-cache", tmp_path)
    assert done.returncode == 0 and "train is skipped: it lists no images." in done.stdout
    assert [path.name for path in (tmp_path / "fastload").glob("*.lmdb")] == ["val.lmdb"]
    done = fastload_command("build-cache", tmp_path, "--split", "train")
    assert done.returncode == 1 and "lists no images" in done.stderr


def test_notes_on_the_whole_dataset_are_printed(tmp_path):
    """Each is one line after the table, also when the cache is up to date: not only in the problems file."""
    root = write_coco(tmp_path, many_jpegs(2))
    (root / "train/more.jpg").write_bytes(jpeg())
    for _ in range(2):
        done = fastload_command("build-cache", root)
        listed = root / "annotations/instances_train.json"
        assert f"1 images in {root / 'train'} are not listed in {listed}: they are not in the cache." in done.stdout


def test_a_split_without_images_is_skipped_aloud(tmp_path):
    """When only some splits have their images, the others are built and the missing one is named."""
    root = write_coco(tmp_path, many_jpegs(2))
    write_coco(tmp_path, many_jpegs(1), split="test")
    (root / "test/00000.jpg").unlink()
    (root / "test").rmdir()
    done = fastload_command("build-cache", root)
    assert done.returncode == 0 and "test is skipped" in done.stdout and "no image folder" in done.stdout


def nothing(root: Path) -> list:
    return ["build-cache", root]


def no_json(root: Path) -> list:
    (root / "annotations").mkdir()
    (root / "annotations/instances_x.json").write_text("{")
    (root / "x").mkdir()
    return ["build-cache", root]


def strict(root: Path) -> list:
    return ["build-cache", write_coco(root, many_jpegs(2) | {"bad.jpg": b"x"}), "--strict"]


def not_a_cache(root: Path) -> list:
    (root / "x.lmdb").write_bytes(b"hello" * 5000)
    return ["verify", root / "x.lmdb"]


def no_room(root: Path) -> list:
    write_coco(root, many_jpegs(1))
    (root / "fastload").write_text("a file where the folder should be")
    return ["build-cache", root]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (nothing, "no dataset found in"),
        (no_json, "is not valid JSON"),
        (strict, "--strict"),
        (not_a_cache, "cannot be read as a cache"),
        (no_room, "fastload"),
        (lambda root: ["info", root / "none.lmdb"], "there is no cache"),
        (lambda root: ["info", root], "is a folder, not a cache"),
        (lambda root: ["build-cache", root / "none"], "does not exist"),
    ],
    ids=["nothing", "json", "strict", "no-cache", "no-room", "missing", "folder", "no-folder"],
)
def test_errors_are_one_clear_line(tmp_path, make, text):
    """What cannot be done is one line on stderr and exit status 1."""
    done = fastload_command(*make(tmp_path))
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("fastload: ")]
    assert len(said) == 1 and text in said[0]


def test_as_a_process(tmp_path):
    """`python -m fastload` works like the function: statuses, one line, no traceback."""
    assert fastload_process("--help").returncode == 0
    assert fastload_process("info").returncode == 2
    done = fastload_process("info", tmp_path / "none.lmdb")
    assert (
        done.returncode == 1 and done.stderr.startswith("fastload: there is no cache") and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["build-cache"],
        ["build-cache", "x", "--format", "nonsense"],
        ["build-cache", "x", "--workers", "0"],
        ["build-cache", "x", "--images", "y"],
        ["build-cache", "x", "--classes", "y"],
        ["build-cache", "x", "--annotations", "a", "--images", "b"],
        ["verify"],
        ["info", "a", "b"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments):
    """Arguments that make no sense are exit status 2."""
    assert fastload_command(*arguments).returncode == 2


def test_ctrl_c_stops_cleanly_and_can_be_resumed(tmp_path):
    """Ctrl-C ends a build with status 130, without a traceback, leaving what the next run carries on from."""
    files = dict.fromkeys((f"{i:05}.jpg" for i in range(300)), jpeg(900, 700))
    root = write_coco(tmp_path, files, sizes=dict.fromkeys(files, (900, 700)))
    command = [sys.executable, "-m", "fastload", "build-cache", str(root), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial = root / "fastload/train.lmdb.partial"
    while not partial.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and "Traceback" not in error, error
    assert [path.name for path in (root / "fastload").iterdir()] == ["train.lmdb.partial"]
    assert fastload_command("build-cache", root).returncode == 0


def test_building_needs_no_torch(tmp_path):
    """build-cache, info and verify start without importing torch."""
    root = write_coco(tmp_path, many_jpegs(1))
    script = """
import sys
from fastload.cli.app import app
for arguments in (["build-cache", sys.argv[1]], ["info", sys.argv[2]], ["verify", sys.argv[2]]):
    app(arguments, standalone_mode=False)
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", script, str(root), str(root / "fastload/train.lmdb")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_doctor():
    """Doctor lists what is there: the core, libjpeg-turbo and where, vector instructions, torch, cores, memory."""
    done = fastload_command("doctor")
    assert done.returncode == 0
    for text in ("native core: ", "libjpeg-turbo: /", "vector instructions: ", "torch: ", "CPU cores: ", "GiB"):
        assert text in done.stdout


def test_doctor_says_how_to_get_what_is_missing():
    """Without a usable libjpeg-turbo doctor says so and exits with 1."""
    done = fastload_process("doctor", FASTLOAD_TURBOJPEG="/nowhere/lib.so")
    assert done.returncode == 1 and "MISSING libjpeg-turbo" in done.stdout and "/nowhere/lib.so" in done.stdout


def test_doctor_survives_what_breaks(monkeypatch):
    """A check that fails is a finding, not a crash."""
    monkeypatch.setattr(doctor, "version", lambda package: 1 / 0)
    broken = [finding for finding in doctor.examine() if finding.found is None and "division" in finding.fix]
    assert {finding.what for finding in broken} == {"torch"}


@needs_dali
def test_doctor_tells_a_missing_dali_from_a_broken_one(monkeypatch):
    """Doctor imports DALI: it is there, or does not load and why, or is missing and how to get it; never needed."""
    assert str(found_dali().found).startswith("nvidia-dali-cuda")
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setitem(sys.modules, "nvidia.dali.fn", None)
    assert found_dali().found is None and "does not load" in found_dali().fix and not found_dali().needed
    monkeypatch.setattr(dali_pipeline, "dali_version", lambda: None)
    assert found_dali().found is None and "pip install nvidia-dali-cuda120" in found_dali().fix


def found_dali() -> doctor.Finding:
    return next(finding for finding in doctor.examine() if finding.what == "NVIDIA DALI")


def test_summary_counts(small_cache, coco_small):
    """The numbers of `info` are those of the annotations."""
    summary = summarize(fastload.Cache(small_cache))
    document = json.loads((coco_small / "annotations/instances_train.json").read_text())
    assert (summary.images, summary.boxes, summary.crowds, summary.images_without_boxes) == (12, 22, 1, 1)
    for name, id in (("person", 1), ("dog", 18)):
        rows = [row for row in document["annotations"] if row["category_id"] == id]
        found = next(count for count in summary.classes if count.name == name)
        assert (found.boxes, found.images) == (len(rows), len({row["image_id"] for row in rows}))
    assert summary.distributions["boxes an image"] == (0, 2, 2, 2, 2)
    assert summary.distributions["image width, px"] == (64,) * 5
    assert summary.encodings == {"original": 12} and summary.bytes == small_cache.stat().st_size
