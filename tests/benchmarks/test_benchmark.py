"""The benchmark: every contender does the same work, and results have the promised shape."""

import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastload import Cache, FastLoader, ShortestEdge
from fastload._core import testing
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.engines.auto import ENGINES
from fastload.sources.detect import find_datasets
from fastload.tools.baseline import BaselineDataset, pad_batch

ROOT = Path(__file__).parents[2]


DATALOADERS = {"dataloader-pillow", "dataloader-opencv"}
FASTLOADERS = {"fastload", "fastload-dct", "fastload-dct-fast", "fastload-q90-dct", "fastload-planes"}


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def benchmark(*arguments: str | Path) -> str:
    done = run("loader.py", *arguments, "--batch-size", "8", "--threads", "1")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def scripts(monkeypatch) -> None:
    """Makes the modules of benchmarks/ importable."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def check_shape(result: dict) -> None:
    assert set(result) == {"reference", "contenders"} and result["reference"] > 1
    for name, found in result["contenders"].items():
        assert set(found) == {"ratio", "images_per_second", "range", "bytes_per_image"}, name
        assert found["range"][0] <= found["ratio"] <= found["range"][1] and found["images_per_second"] > 1


@pytest.mark.long
def test_results_have_the_promised_shape(sample_set, tmp_path):
    """A tiny run prints the machine and a table, and writes exactly the promised JSON: all contenders, true sizes."""
    text = benchmark(sample_set, "--rounds", "2", "--images", "50", "--json", tmp_path / "r.json")
    assert "libjpeg-turbo" in text and "processor" in text and "ratio" in text
    result = json.loads((tmp_path / "r.json").read_text())
    check_shape(result)
    assert set(result["contenders"]) == DATALOADERS | FASTLOADERS
    size = {name: found["bytes_per_image"] for name, found in result["contenders"].items()}
    jpegs = np.mean([file.stat().st_size for file in (sample_set / "train").iterdir()])
    for name in (*DATALOADERS, "fastload"):
        assert size[name] == pytest.approx(jpegs, rel=0.01)
    assert size["fastload-q90-dct"] < size["fastload-dct"] < size["fastload-dct-fast"] < size["fastload-planes"]
    assert size["fastload-dct"] < 1.1 * jpegs


@pytest.mark.long
def test_contenders_can_be_chosen(sample_set, tmp_path):
    """--only runs the contenders named, --peers adds others; all figures and the chart are made of the same run."""
    pages = tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"
    pages[1].parent.mkdir()
    for page in pages:
        page.write_text("# A\n\n<!-- figures -->\nold\n<!-- /figures -->\n\n## B\n")
    small = ("--rounds", "1", "--images", "20", "--json", tmp_path / "r.json", "--readme", tmp_path / "README.md")
    benchmark(sample_set / "val", "--only", "fastload-dct", "dataloader-opencv", "--peers", "ram-cache", *small)
    result = json.loads((tmp_path / "r.json").read_text())
    check_shape(result)
    assert list(result["contenders"]) == ["dataloader-opencv", "fastload-dct", "ram-cache"]
    assert result["contenders"]["ram-cache"]["bytes_per_image"] > 512 * 512 * 3
    for page, first in zip(pages, ("| loader |", "!["), strict=True):
        text = page.read_text()
        assert text.startswith(f"# A\n\n<!-- figures -->\n{first}") and text.endswith("\n<!-- /figures -->\n\n## B\n")
        assert "old" not in text and "FastLoader, dct |" in text and "images an epoch of val" in text
    with Image.open(tmp_path / "docs" / "speed.png") as chart:
        assert chart.width > 800 and chart.mode == "RGBA" and chart.getpixel((1, 1))[3] == 0


@pytest.mark.long
def test_floating_point_beside_uint8(sample_set, tmp_path):
    """--dtype runs FastLoader twice, with batches of that dtype too, and prints their ratio."""
    text = benchmark(
        sample_set / "val", "--only", "fastload-dct", "dataloader-opencv", "--dtype", "bfloat16", "--rounds", "1",
        "--images", "20", "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert "fastload-dct: bfloat16 batches at" in text
    found = json.loads((tmp_path / "r.json").read_text())["contenders"]
    assert list(found) == ["dataloader-opencv", "fastload-dct", "fastload-dct-bfloat16"]


def test_unknown_and_missing_contenders(scripts, monkeypatch, tmp_path):
    """A name that is none is refused with the list; a peer that is not installed with the command that installs it."""
    done = run("loader.py", tmp_path, "--only", "fastlaod")
    assert done.returncode == 2 and "fastload-dct-fast" in done.stderr
    import peers

    monkeypatch.setattr(peers.Spdl, "packages", {"no_such_module.inner": "no-such-package"})
    with pytest.raises(SystemExit, match="pip install no-such-package"):
        peers.check_installed([peers.Spdl, peers.RamCache])
    peers.check_installed([peers.RamCache])


@pytest.mark.long
@pytest.mark.parametrize("name", ["spdl", "dali", "ffcv", "ffcv-raw"])
def test_peers_read_every_image(sample_set, tmp_path, scripts, name):
    """A peer, where it is installed, hands out as many images as its work has."""
    import peers

    for module in peers.BY_NAME[name].packages:
        pytest.importorskip(module)
    few = ("--rounds", "1", "--images", "20", "--json", tmp_path / "r.json")
    benchmark(sample_set / "val", "--only", "fastload-dct", "--peers", name, *few)
    check_shape(json.loads((tmp_path / "r.json").read_text()))


RESULTS = {
    "reference": 1000.0,
    "contenders": {
        "fastload-dct": {"ratio": 2.0, "images_per_second": 2000.4, "range": [1.9, 2.1], "bytes_per_image": 160000.0},
        "dataloader-pillow": {"ratio": 0.25, "images_per_second": 250, "range": [0.2, 0.3], "bytes_per_image": 155555},
        "ram-cache": {"ratio": 1.0, "images_per_second": 1000, "range": [0.9, 1.1], "bytes_per_image": 1e6},
    },
}


def test_figures_of_all_loaders(scripts):
    """The slowest comes first, each beside DataLoader and with its footnote; rewriting again changes nothing."""
    import readme

    block = readme.figures(RESULTS, "Measured somewhere.")
    rows = [line for line in block.splitlines() if line.startswith("|")][2:]
    assert rows[0] == "| DataLoader, Pillow | 250 | 1.0 | 0.25 | 156 |"
    assert rows[1].startswith("| DataLoader, images kept in memory <sup>1</sup> | 1,000 | 4.0 | 1.00 |")
    assert rows[2] == "| FastLoader, dct | 2,000 | 8.0 | 2.00 | 160 |"
    assert "<sup>1</sup> neither decodes nor scales" in block and block.endswith("\n\nMeasured somewhere.")
    text = "before <!-- figures --> old <!-- /figures --> after"
    once = readme.replace_block(text, block)
    assert once == f"before <!-- figures -->\n{block}\n<!-- /figures --> after"
    assert readme.replace_block(once, block) == once


@pytest.mark.parametrize("text", ["none", "<!-- figures -->", "<!-- /figures --> <!-- figures -->"])
@pytest.mark.parametrize("wrong", ["README.md", "docs/benchmarks.md"])
def test_page_without_place_for_figures(scripts, tmp_path, wrong, text):
    """A page whose comments are missing or in the wrong order is named; nothing is written, no chart is drawn."""
    import readme

    (tmp_path / "docs").mkdir()
    pages = {tmp_path / name: "<!-- figures --><!-- /figures -->" for name in ("README.md", "docs/benchmarks.md")}
    pages[tmp_path / wrong] = text
    for page, content in pages.items():
        page.write_text(content)
    with pytest.raises(ValueError, match=f"^{Path(wrong).name} needs .*<!-- /figures -->"):
        readme.update_readme(tmp_path / "README.md", RESULTS, "")
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == pages


def test_our_pages_have_a_place_for_figures(scripts):
    """The repository's README and docs/benchmarks.md can be rewritten."""
    import readme

    for page in (readme.README, readme.README.parent / readme.PAGE):
        assert "figures go here" in readme.replace_block(page.read_text(), "figures go here")


def test_readme_has_only_loaders_that_do_the_same_work(scripts):
    """README's table skips the loaders that have a footnote, and keeps the line on how it was measured."""
    import readme

    lines = readme.short_figures(RESULTS, "Measured somewhere.").splitlines()
    assert lines[2:] == [
        "| DataLoader, Pillow | 250 | 1.0 | 156 |",
        "| FastLoader, dct | 2,000 | 8.0 | 160 |",
        "",
        "Measured somewhere.",
    ]


def test_one_split_and_memory(sample_set):
    """An image folder names its split; --memory prints the growth over 20 epochs."""
    text = benchmark(sample_set / "val", "--images", "9", "--memory")
    assert "after epoch 20" in text and "growth" in text


@pytest.mark.long
def test_scaling(sample_set, tmp_path):
    """A time that the GIL is held, no number of threads beyond its ideal, a table, and the same as JSON."""
    few = ("--seconds", "0.02", "--rounds", "1", "--milliseconds", "20", "--batch-size", "8")
    done = run("scaling.py", sample_set / "val", *few, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "GIL held for" in done.stdout and "share" in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert list(found["gil_microseconds_per_image"]) == ["sleeping", "decoding"]
    assert all(0 < held < 1e5 for held in found["gil_microseconds_per_image"].values())
    assert found["emulated_microseconds"] == 20_000
    assert list(found["threads"]) == ["1", "2", "4", "8", "16", "32", "64", "128"]
    for threads, row in found["threads"].items():
        assert row["ideal"] == 50 * int(threads) and row["share"] == row["images_per_second"] / row["ideal"]
        assert 0 < row["share"] <= 1


@pytest.mark.long
def test_stages(sample_set, tmp_path):
    """Every cache at every SIMD level, its stages making up the sum; every step of recipes at every level."""
    done = run("stages.py", sample_set / "val", "--images", "4", "--rounds", "1", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "r.json").read_text())
    rows = written["stages"]
    names = {"original", "dct", "dct-fast", "q90-dct", "planes"}
    assert {(row["name"], row["simd"]) for row in rows} == set(product(names, testing.simd_levels()))
    for row in rows:
        stages = [row[stage] for stage in ("read", "entropy", "inverse DCT", "resample", "store")]
        assert row["sum"] == pytest.approx(sum(stages)) and row["ratio"] > 0
        assert row["read"] > 0 and row["resample"] > 0 and row["floor"] > row["read"]
    steps = {"tile", "warp", "mix", "hsv", "recolor", "table", "histogram", "fill", "floor"}
    assert [row.pop("simd") for row in written["steps"]] == testing.simd_levels()
    assert all(row.keys() == steps and min(row.values()) > 0 for row in written["steps"])


def test_opening(small_cache):
    """Opening is measured of a cache that is made for it, and of one that is there."""
    for arguments, title in (
        (["--images", "150", "--boxes", "3", "--side", "8"], "150 images with 450 boxes"),
        (["--cache", small_cache], "12 images with 22 boxes"),
    ):
        done = run("opening.py", *arguments, "--repeats", "1")
        assert done.returncode == 0, done.stderr
        assert title in done.stdout and all(way in done.stdout for way in ("CacheFile(path)", "first batch", "subset"))


def test_emulated_threads_sleep_side_by_side(small_cache, scripts, monkeypatch):
    """With 12 threads, 12 images of 50 ms asleep take less than 12 times as long; every batch comes."""
    import engines

    monkeypatch.setitem(ENGINES, "sleeping", engines.SLEEPING["sleeping"])
    monkeypatch.setattr(engines.SleepingEngine, "microseconds", 50_000)
    loader = FastLoader(small_cache, batch_size=4, num_workers=12, engine="sleeping")
    start = time.perf_counter()
    assert sum(len(images) for images, _ in loader) == 12
    assert 0.05 <= time.perf_counter() - start < 0.6


@pytest.fixture(scope="module")
def both(sample_set, tmp_path_factory) -> tuple[BaselineDataset, Cache]:
    (dataset,) = find_datasets(sample_set, splits=["val"])
    source = dataset.load()
    path = tmp_path_factory.mktemp("cache") / "val.lmdb"
    build_cache(source, path, BuildOptions())
    return BaselineDataset(list(source.samples())), Cache(path)


def test_dataloaders_do_the_same_work(both, monkeypatch):
    """Without flips, a batch of the usual DataLoader is FastLoader's: sizes, padding, boxes, and pixels to a level."""
    usual, cache = both
    monkeypatch.setattr("random.random", lambda: 1.0)
    fast = FastLoader(cache, batch_size=4, transforms=[ShortestEdge(512, max_size=736)])
    for number, (images, targets) in enumerate(fast):
        expected, notes = pad_batch([usual[4 * number + i] for i in range(len(images))])
        assert images.shape == expected.shape
        assert (images.float() - expected.float()).abs().mean() <= 1
        for target, note in zip(targets, notes, strict=True):
            assert torch.allclose(target["boxes"], note["boxes"], atol=0.75)  # scaled by size or by scale: half a pixel
            assert target["labels"].tolist() == note["labels"].tolist()


def test_flips_move_the_boxes(both, monkeypatch):
    """A flipped item is the mirror image of the unflipped one, boxes included."""
    usual, _ = both
    items = []
    for chance in (0.0, 1.0):
        monkeypatch.setattr("random.random", lambda chance=chance: chance)
        items.append(usual[0])
    (flipped, mirrored), (image, note) = items
    assert torch.equal(flipped, image.flip(2))
    boxes = note["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[2] - note["boxes"][:, [2, 0]]
    assert torch.allclose(mirrored["boxes"], boxes, atol=1e-3)


def test_opencv_and_pillow_agree(sample_set, scripts):
    """OpenCV's contender reads the same picture, in RGB, at the same size."""
    from contenders import OpenCVDataset

    file = next((sample_set / "val").iterdir())
    pixels, scale = OpenCVDataset([]).read(file)
    expected, expected_scale = BaselineDataset([]).read(file)
    assert pixels.shape == expected.shape and scale == expected_scale
    assert np.abs(pixels.astype(int) - expected).mean() < 2
    with Image.open(file) as image:
        assert np.abs(pixels.mean((0, 1)) - np.asarray(image).mean((0, 1))).max() < 2
