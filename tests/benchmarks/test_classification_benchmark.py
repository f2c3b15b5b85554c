"""The benchmark of classified images: all caches are measured beside other loaders, in interleaved rounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks.test_benchmark import run, scripts  # noqa: F401  # a fixture

PEER = """#!{python}
import json, sys
for line in sys.stdin:
    speed = 0.5 if line.strip() == "torchvision" else 2.5
    print(json.dumps({{"images_per_second": speed, "cpu_ms": 9.0}}), flush=True)
"""
SMALL = ("--rounds", "2", "--images", "8", "--batch-size", "4", "--threads", "1")


@pytest.fixture
def peer_python(tmp_path: Path) -> Path:
    """Stands in for the environments of the others: 0.5 images/s of torchvision, 2.5 of each loader of FFCV."""
    path = tmp_path / "python"
    path.write_text(PEER.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_ratios_to_other_loaders(sample_set, tmp_path, peer_python):
    """A folder of images is divided into classes; all caches are compared with all others."""
    done = run(
        "classification.py", sample_set / "train", *SMALL, "--json", tmp_path / "r.json",
        "--torchvision-python", peer_python, "--ffcv-python", peer_python, "--ffcv", "ffcv-q90", "ffcv-raw-500",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "processor" in done.stdout and "planes-256" in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["machine"]["processor"] and result["rounds"] == 2
    loaders = result["loaders"]
    assert list(loaders) == ["torchvision", "ffcv-q90", "ffcv-raw-500", "dct", "original", "planes-256"]
    for name in list(loaders)[3:]:
        assert loaders[name]["ratio"]["torchvision"] == pytest.approx(loaders[name]["images_per_second"] / 0.5)
        assert loaders[name]["ratio"]["ffcv-q90"] == pytest.approx(loaders[name]["images_per_second"] / 2.5)
        assert loaders[name]["gil_us"] > 0 and loaders[name]["cpu_ms"] > 0


def test_without_other_loaders(sample_set, tmp_path):
    """FastLoader alone has no ratios."""
    done = run("classification.py", sample_set / "train", *SMALL, "--caches", "dct", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    (dct,) = json.loads((tmp_path / "r.json").read_text())["loaders"].values()
    assert dct["ratio"] == {} and dct["images_per_second"] > 0


def test_a_failing_loader_is_named(sample_set, tmp_path):
    """An environment that lacks a package ends the benchmark with the command that failed."""
    arguments = ("--torchvision-python", "/bin/false", "--caches", "dct")
    done = run("classification.py", sample_set / "train", *SMALL, *arguments)
    assert done.returncode == 1 and "the loader torchvision failed (/bin/false" in done.stderr


def test_class_folders_are_used_as_they_are(tmp_path, scripts):  # noqa: F811
    """Images in a folder are linked into ten classes; folders of classes stay."""
    import classification

    for i in range(12):
        (tmp_path / f"{i:02}.jpg").write_bytes(b"x")
    folder = classification.class_folder(tmp_path, tmp_path / "scratch")
    assert sorted(path.name for path in folder.iterdir()) == [f"class{k}" for k in range(10)]
    assert (folder / "class1" / "11.jpg").samefile(tmp_path / "11.jpg")
    assert classification.class_folder(folder, tmp_path / "more") == folder
