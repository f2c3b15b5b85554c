"""The sample set: COCO's layout and statistics, the same bytes every time, complete or not there."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from typer.testing import CliRunner

from fastload.cli.app import app
from fastload.errors import SourceError
from fastload.tools.sample import make_sample
from fastload.tools.sample.dataset import _annotation
from fastload.tools.sample.outline import polygons, run_lengths, signed_area
from fastload.tools.sample.scene import Kind, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'


@pytest.fixture(scope="module", params=["train", "val"])
def coco(request, sample_set) -> COCO:
    return COCO(sample_set / "annotations" / f"instances_{request.param}.json")


@pytest.fixture(scope="module")
def annotations(sample_set) -> list[dict]:
    """Of both splits."""
    files = sorted((sample_set / "annotations").iterdir())
    return [annotation for file in files for annotation in json.loads(file.read_text())["annotations"]]


def digest(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_same_seed_same_bytes(tmp_path):
    """The same parameters give the same files bit for bit; another seed gives others."""
    first, second, other = (make_sample(tmp_path / name, 6, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert digest(first) == digest(second)
    assert not set(digest(first).values()) & set(digest(other).values())


def test_pictures_do_not_depend_on_how_many_are_made(sample_set, tmp_path):
    """Picture number n of a seed is the same picture in every set of that seed."""
    few = make_sample(tmp_path / "few", 3)
    pictures = [value for name, value in digest(few).items() if name.endswith(".jpg")]
    assert len(pictures) == 3 and set(pictures) <= set(digest(sample_set).values())


def test_files_are_as_annotated(coco, sample_set):
    """Every picture exists, is a 4:4:4 JPEG of the annotated size, and the folder holds nothing else."""
    split = "train" if len(coco.imgs) > 20 else "val"
    assert {file.name for file in (sample_set / split).iterdir()} == {i["file_name"] for i in coco.imgs.values()}
    for image in coco.imgs.values():
        with Image.open(sample_set / split / image["file_name"]) as picture:
            assert picture.format == "JPEG" and picture.size == (image["width"], image["height"])
            assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3


def test_areas_are_those_of_the_masks(coco):
    """`area` equals the area that pycocotools rasterises from the segmentation: exactly for crowds, and up to the
    rounding of a polygon's rim to whole pixels otherwise."""
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        if annotation["iscrowd"]:
            assert mask.sum() == annotation["area"]
            continue
        rim = (mask & ~(np.pad(mask, 1)[:-2, 1:-1] & np.pad(mask, 1)[2:, 1:-1])).sum()
        assert abs(int(mask.sum()) - annotation["area"]) <= max(0.02 * annotation["area"], 0.25 * rim + 2)


def test_boxes_enclose_the_masks(coco):
    """A box is the tight box of its segmentation, inside the picture, with fractions of pixels."""
    boxes = np.array([annotation["bbox"] for annotation in coco.anns.values()])
    assert (boxes[:, 2:] > 0).all() and (boxes % 1 > 0).any()
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        tight = coco_mask.toBbox(coco.annToRLE(annotation))
        x, y, w, h = annotation["bbox"]
        assert np.abs(tight - (x, y, w, h)).max() <= 3  # a tip thinner than a pixel is not in the mask
        assert min(x, y) >= 0 and x + w <= image["width"] + 0.01 and y + h <= image["height"] + 0.01


def test_statistics_are_like_cocos(sample_set, annotations):
    """Bytes, sizes of objects, objects a picture, crowds, empty pictures: within bounds around COCO's."""
    files = list(sample_set.rglob("*.jpg"))
    images = [i for f in (sample_set / "annotations").iterdir() for i in json.loads(f.read_text())["images"]]
    pixels = np.array([i["width"] * i["height"] for i in images])
    assert 4.0 < 8 * sum(file.stat().st_size for file in files) / pixels.sum() < 5.8  # COCO: 4.8 bits a pixel
    assert 0.24e6 < pixels.mean() < 0.31e6
    assert 0.1 < np.mean([i["height"] > i["width"] for i in images]) < 0.45
    area = np.array([a["area"] for a in annotations if not a["iscrowd"]])
    assert 0.28 < (area < 32**2).mean() < 0.55 and 0.15 < (area > 96**2).mean() < 0.35
    counts = np.bincount(np.searchsorted(np.sort([i["id"] for i in images]), [a["image_id"] for a in annotations]))
    assert 5 < len(annotations) / len(images) < 13 and counts.max() >= 20
    assert {i["id"] for i in images} - {a["image_id"] for a in annotations}, "no empty picture"
    assert sum(a["iscrowd"] for a in annotations) >= 3
    assert len({a["category_id"] for a in annotations}) == 8
    assert sum(len(a["segmentation"]) > 1 for a in annotations if not a["iscrowd"]) >= 3, "no split object"


def filled(mask: np.ndarray) -> np.ndarray:
    """`mask` with its holes filled: all that cannot be reached from outside."""
    image = Image.fromarray(np.pad(mask, 1).astype(np.uint8)).copy()
    ImageDraw.floodfill(image, (0, 0), 2)
    return np.asarray(image)[1:-1, 1:-1] != 2


def test_annotated_is_what_can_be_seen():
    """A segmentation is the visible part of its thing with holes filled; a thing that shows less than a fifth of its
    outline or 20 pixels is not annotated, every other one is."""
    annotated = hidden = 0
    for number in range(4):
        for thing in make_scene(np.random.Generator(np.random.Philox(key=[0, number])), Kind.CROWDED).things:
            found, visible = _annotation(thing), thing.visible > 0.5
            if thing.visible.sum() < max(20, 0.2 * abs(signed_area(thing.points))):
                assert found is None
                hidden += 1
                continue
            x0, y0, x1, y1 = thing.window
            pieces = [(np.reshape(piece, (-1, 2)) - (x0, y0)).ravel().tolist() for piece in found["segmentation"]]
            mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(pieces, y1 - y0, x1 - x0))).astype(bool)
            assert (mask != filled(visible)).sum() <= 0.06 * mask.sum() + 8
            annotated += 1
    assert annotated > 60 and hidden > 0


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_run_lengths_are_cocos(mask):
    """Run lengths decode, by pycocotools, to the mask they were made of."""
    runs = run_lengths(mask)
    assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(runs, *mask.shape)).astype(bool), mask)


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_polygons_enclose_every_pixel(mask):
    """Any mask: outlines close, run counter-clockwise, and stay within half a pixel of the mask's box."""
    found = polygons(mask.astype(np.float32), least=0)
    assert bool(found) == bool(mask.any())
    for piece in found:
        assert len(piece) >= 3 and signed_area(piece) > 0
    if found:
        points = np.concatenate(found)
        rows, cols = np.nonzero(mask)
        assert np.allclose(points.min(0), (cols.min(), rows.min()), atol=0.31)
        assert np.allclose(points.max(0), (cols.max() + 1, rows.max() + 1), atol=0.31)


def test_polygon_of_a_disc():
    """A disc's outline has the disc's area and box to within a tenth of a pixel of radius."""
    y, x = np.mgrid[:60, :60] + 0.5
    cover = np.clip(20.5 - np.hypot(x - 29.3, y - 31.8), 0, 1).astype(np.float32)
    (outline,) = polygons(cover, tolerance=0.05)
    assert signed_area(outline) == pytest.approx(np.pi * 20**2, rel=0.01)
    assert np.allclose(outline.min(0), (9.3, 11.8), atol=0.1) and np.allclose(outline.max(0), (49.3, 51.8), atol=0.1)


def test_made_once(tmp_path):
    """A folder with this very set is left untouched; with other parameters, other content or gaps it is refused."""
    folder = make_sample(tmp_path / "set", 3)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert make_sample(folder, 3) == folder
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    with pytest.raises(SourceError, match="another sample set"):
        make_sample(folder, 3, seed=1)
    next((folder / "val").iterdir()).unlink()
    with pytest.raises(SourceError, match="missing"):
        make_sample(folder, 3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(SourceError, match="choose another folder"):
        make_sample(tmp_path / "mine", 3)


def test_sample_command(tmp_path):
    """The command makes the set that the function makes, and refuses what cannot be."""
    done = CliRunner().invoke(app, ["sample", str(tmp_path / "a"), "--images", "3", "--seed", "5"])
    assert done.exit_code == 0 and "fastload build-cache" in done.stdout
    assert digest(tmp_path / "a") == digest(make_sample(tmp_path / "b", 3, 5))
    for wrong in (["--images", "1"], ["--seed", "-1"]):
        assert CliRunner().invoke(app, ["sample", str(tmp_path / "c"), *wrong]).exit_code == 2
    assert not (tmp_path / "c").exists()


def test_failure_leaves_nothing(tmp_path):
    """When making the set fails midway, no file is left behind."""

    def fail(done: int, total: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make_sample(tmp_path / "set", 4, progress=fail)
    assert not list(tmp_path.iterdir())


def test_killed_set_is_not_there(tmp_path):
    """Killed midway, the folder does not exist, and making it again works."""
    code = f"from fastload.tools.sample import make_sample; make_sample({str(tmp_path / 'set')!r}, 400)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".set.*/train/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".set.*/train/*.jpg")) and not (tmp_path / "set").exists()
    assert len(list((make_sample(tmp_path / "set", 3) / "train").iterdir())) == 2
