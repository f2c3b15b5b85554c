"""`fastload plan`: what is measured is what a build and a loader would do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastload.tools.advise as advise_module
from fastload import Cache, _core
from fastload.cache.format.layout import Encoding
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from fastload.tools.advise import REDUCTIONS, SampleOf, advise
from tests.cli.test_cli import fastload_command
from tests.support.datasets import jpeg, many_jpegs, write_coco


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Time each option for one epoch only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advise_module, "SECONDS", 0)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Six pictures larger than any size on the list, and a split whose annotations disagree with its files."""
    root = tmp_path_factory.mktemp("plan")
    size = (700, 530)
    files = {f"{i}.jpg": jpeg(*size, seed=i) for i in range(6)}
    write_coco(root, files, sizes=dict.fromkeys(files, size))
    return write_coco(root, {f"v{name}": data for name, data in files.items()}, split="val", sizes={})


@pytest.fixture(scope="module")
def found(dataset) -> dict:
    """What `plan --json` says of all of it."""
    return plan(dataset, "--split", "train", "--sample", 100)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Four pictures too small to be made smaller."""
    return write_coco(tmp_path / "tiny", many_jpegs(4))


def plan(*arguments: object) -> dict:
    done = fastload_command("plan", *arguments, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_option_is_measured(found):
    """Each encoding of each reduction, with the command that makes it; smaller pictures take fewer bytes."""
    options = {(option["reduction"], option["encoding"]): option for option in found["options"]}
    assert len(options) == 4 + 3 * (len(REDUCTIONS) - 1) and found["images"] == found["sampled"] == 6
    assert all(option["images_per_second"] > 0 and option["build_seconds"] > 0 for option in options.values())
    assert all(option["fits_disk"] == (option["bytes"] <= found["free_disk"]) for option in options.values())
    assert all(option["psnr"] is None for (name, _), option in options.items() if name == "lossless")
    for encoding in ("dct", "dct-fast", "planes"):
        sizes = [options[name, encoding]["bytes"] for name in ("lossless", "q90 4:2:0", "short 320, q90 4:2:0")]
        assert sizes == sorted(sizes, reverse=True)
        decibels = [options[name, encoding]["psnr"] for name in ("short 512, q90 4:2:0", "short 320, q90 4:2:0")]
        assert 60 > decibels[0] > decibels[1] > 10
    command = options["short 512, q90 4:2:0", "dct-fast"]["command"]
    assert command == "--encoding dct-fast --short 512 --quality 90 --subsampling 420"


def test_bytes_are_those_of_a_build(dataset, found, tmp_path):
    """A sample of everything predicts the size of the cache that the printed command builds."""
    for option in found["options"][::4]:
        path = tmp_path / f"{option['encoding']} {option['reduction']}.lmdb"
        command = ("build-cache", dataset, "--split", "train", "--out", path, *option["command"].split())
        assert fastload_command(*command).returncode == 0
        assert abs(path.stat().st_size - option["bytes"]) <= 8192
    assert not (dataset / "fastload").exists(), "plan leaves nothing behind"


def test_psnr(dataset):
    """PSNR is that of the decoded pictures, worked out here by Pillow."""
    source = find_datasets(dataset, splits=["train"])[0].load()
    (found,) = {option.psnr for option in advise([source], dataset, 3).options if option.reduction == "q90 4:2:0"}
    errors = []
    for sample in SampleOf([source], 3, seed=0).samples():
        picture = Image.open(sample.path)
        picture.save(dataset / "again.jpg", quality=90, subsampling=2)
        pair = [_core.decode_rgb(path.read_bytes())[0] for path in (sample.path, dataset / "again.jpg")]
        errors.append(np.square(pair[0].astype(float) - pair[1]).mean())
    (dataset / "again.jpg").unlink()
    assert abs(found - 10 * np.log10(255**2 / np.mean(errors))) < 0.01


def test_reductions_without_effect_are_not_listed(tiny):
    """Sizes larger than all images are skipped."""
    found = plan(tiny)
    assert {option["reduction"] for option in found["options"]} == {"lossless", "q90 4:2:0"}


def test_all_splits_are_sampled(tmp_path):
    """The whole set is all splits; the sample is drawn from all, the same each time; broken files do not stop it."""
    root = write_coco(tmp_path, many_jpegs(10) | {"broken.jpg": b"x"})
    write_coco(root, {f"v{i}.jpg": jpeg(seed=50 + i) for i in range(10)}, split="val")
    sources = [each.load() for each in find_datasets(root)]
    chosen = [[sample.name for sample in SampleOf(sources, 12, seed=0).samples()] for _ in range(2)]
    assert chosen[0] == chosen[1] and len(set(chosen[0])) == 12
    assert 0 < sum(name.startswith("v") for name in chosen[0]) < 12
    assert plan(root, "--sample", 21)["images"] == 21


def test_what_does_not_fit_is_marked(tiny, monkeypatch):
    """Options beyond the free disk or memory say so; the recommendation fits."""
    monkeypatch.setattr(advise_module, "available_memory", lambda: 0)
    done = fastload_command("plan", tiny, "--threads", 1)
    assert done.returncode == 0 and " disk " in done.stdout and " memory │" not in done.stdout
    assert "Fastest lossless option: fastload build-cache DATASET --encoding" in done.stdout
    monkeypatch.setattr(advise_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    done = fastload_command("plan", tiny, "--threads", 1)
    assert " NO " in done.stdout and "Fastest" not in done.stdout


def test_plot(tiny, tmp_path):
    """--plot draws a picture of points in the encodings' colours."""
    pytest.importorskip("matplotlib")
    done = fastload_command("plan", tiny, "--plot", tmp_path / "p.png")
    assert done.returncode == 0 and "p.png" in done.stdout
    colors = {color for _, color in Image.open(tmp_path / "p.png").convert("RGB").getcolors(1 << 24)}
    assert {(15, 98, 254), (0, 157, 116), (217, 72, 15)} <= colors


def test_plot_problems_come_first(tiny, tmp_path, monkeypatch):
    """Without matplotlib, or a folder, --plot says what to do before anything is measured."""
    monkeypatch.setattr("fastload.cli.plan.advise", None)
    for file, word in (("none/p.png", "its folder does not exist"), ("p.gif", ".png")):
        done = fastload_command("plan", tiny, "--plot", tmp_path / file)
        assert done.returncode == 1 and word in done.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = fastload_command("plan", tiny, "--plot", tmp_path / "p.png")
    assert done.returncode == 1 and "pip install 'fastload-vision[plot]'" in done.stderr


def test_the_sample_is_a_source(dataset, tmp_path):
    """A cache of the sample holds the chosen images with their boxes."""
    sample = SampleOf([find_datasets(dataset, splits=["train"])[0].load()], 3, seed=1)
    build_cache(sample, tmp_path / "x.lmdb", BuildOptions(Encoding.DCT))
    cache = Cache(tmp_path / "x.lmdb")
    assert [record.name for record in cache.records()] == [each.name for each in sample.samples()]
    assert len(cache.boxes) == 3
