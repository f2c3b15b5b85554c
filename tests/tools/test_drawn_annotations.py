"""Contact sheets and `info` show polygons, keypoints and rotated boxes, and names of any characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastload import Cache, FastLoader, TopLeftAlign
from fastload.annotations import POLYGONS, RLE, ROTATED, keypoints_column
from fastload.cache.write.build import build_cache
from fastload.sources.base import Category, Sample
from fastload.sources.run_lengths import encode
from fastload.tools.contact_sheet import GAP, class_colors, draw, view
from tests.cli.test_cli import fastload_command
from tests.support.datasets import jpeg, many_jpegs, write_coco

CATEGORIES = [SimpleNamespace(id=1, name="cat"), SimpleNamespace(id=2, name="dog\n\ud800")]
COLOR = class_colors(CATEGORIES)[1]
BOX = torch.tensor([[300.0, 200.0, 340.0, 240.0]])


def shown(note: dict) -> np.ndarray:
    """(368, 736): where an image with these annotations has the color of their class."""
    image = torch.full((3, 368, 736), 127, dtype=torch.uint8)
    sheet = draw([image], [{"boxes": BOX, "labels": torch.tensor([1]), **note}], CATEGORIES)
    return (np.asarray(sheet) == COLOR).all(2)[GAP : GAP + 368, GAP : GAP + 736]


def test_polygons_are_outlined():
    """Every ring is a closed line; an empty ring and a box without rings draw nothing."""
    square = torch.tensor([[50.0, 50], [150, 50], [150, 150], [50, 150]])
    drawn = shown({"polygons": [[square, square + 400, square[:0]]]})
    assert all(drawn[y, x] for x, y in ((100, 50), (150, 100), (100, 150), (50, 100))) and not drawn[100, 100]
    assert not shown({"polygons": [[]]})[:160, :160].any()


def test_masks_are_outlined():
    """The edge of a mask is drawn two pixels wide; not of one whose box has polygons, and not of an empty one."""
    mask = torch.zeros((1, 368, 736), dtype=torch.uint8)
    assert not shown({"masks": mask})[:180, :180].any()
    mask[0, 50:150, 60:160] = 1
    drawn, polygons = shown({"masks": mask}), [[torch.tensor([[300.0, 200], [340, 200], [340, 240]])]]
    assert drawn[50:150, 60:62].all() and drawn[148:150, 60:160].all() and drawn[:180, :180].sum() == 100**2 - 96**2
    assert not shown({"masks": mask, "polygons": polygons})[:180, :180].any()


def test_rotated_boxes_are_outlined():
    """Four corners are a closed line; zeros are no box."""
    drawn = shown({"rotated": torch.tensor([[[100.0, 50], [150, 100], [100, 150], [50, 100]]])})
    assert all(drawn[y - 1 : y + 2, x - 1 : x + 2].any() for x, y in ((125, 75), (125, 125), (75, 125), (75, 75)))
    assert not shown({"rotated": torch.zeros(1, 4, 2)})[:160, :160].any()


def test_keypoints_are_dots():
    """Visible ones are filled, hidden ones hollow, unlabeled ones not there."""
    drawn = shown({"keypoints": torch.tensor([[[50.0, 50, 2], [100, 50, 1], [0, 0, 0]]])})
    assert drawn[50, 50] and not drawn[50, 100] and drawn[45:56, 95:106].any() and not drawn[:10, :10].any()


def test_unknown_values_of_a_target_are_no_matter():
    """Ragged columns that are not drawn, and texts, do not stop it."""
    assert (shown({"rle": [torch.zeros(3)], "words": "a", "other": [[1, 2], [3]]}) == shown({})).all()


def test_names_of_any_characters_are_drawn():
    """A line break or a lone surrogate in a class name is drawn escaped."""
    image = torch.zeros((3, 100, 100), dtype=torch.uint8)
    assert draw([image], [{"boxes": BOX / 5, "labels": torch.tensor([2])}], CATEGORIES, ["a\nb\udc80"]).width


class Annotated:
    """A source of one image with an object of a polygon, keypoints and a rotated box, and one of run lengths."""

    format, location, digest, problems = "test", "here", "0", ()
    categories = (Category(1, "cat"),)
    columns = (POLYGONS, RLE, keypoints_column(2), ROTATED)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def samples(self, start: int = 0):
        mask = np.zeros((48, 64), np.bool_)
        mask[20:40, 30:60] = True
        values = {
            "boxes": [[10, 10, 30, 30], [30, 20, 60, 40]],
            "label": [1, 1],
            "polygons": [[[[10, 10], [30, 10], [30, 30]]], None],
            "rle": [None, np.frombuffer(encode(mask), np.uint8)],
            "keypoints": [[[20, 20, 2], [25, 25, 1]], [[0, 0, 0]] * 2],
            "rotated": [[[10, 20], [20, 10], [30, 20], [20, 30]], [[0, 0]] * 4],
        }
        yield from [Sample(1, "a.jpg", self.path, values)][start:]


@pytest.fixture
def cache(tmp_path) -> Cache:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    build_cache(Annotated(tmp_path / "a.jpg"), tmp_path / "x.lmdb")
    return Cache(tmp_path / "x.lmdb")


@pytest.mark.parametrize("collator", [None, TopLeftAlign()])
def test_view_draws_what_a_cache_has(cache, collator, monkeypatch):
    """As stored and as a batch, the sheet shows polygons, masks, keypoints and rotated boxes."""
    from fastload.tools import contact_sheet

    drawn: list[str] = []
    for name in ("_outline", "_edge", "_points"):
        monkeypatch.setattr(contact_sheet, name, lambda pen, values, color, name=name: drawn.append(name))
    assert isinstance(view(cache, [0], collator), Image.Image)
    assert drawn == ["_edge", "_points", "_outline", "_outline", "_points"]


def test_a_batch_is_drawn(cache):
    """`draw` takes a batch with ragged columns."""
    ((images, targets),) = FastLoader(cache, 1)
    assert draw(images, targets, cache.categories).width


def test_info_counts_the_bytes_of_columns(cache):
    """Images and each column have their bytes, offsets included, also per image; all sum up to the file."""
    output = fastload_command("info", cache.path).stdout
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.count("│") == 5]
    found = {name: (dtype, int(size.replace(",", "")), each) for name, dtype, size, each in table}
    assert found["boxes"] == ("float32", 32, "32.0") and found["keypoints"] == ("float32", 48, "48.0")
    assert found["polygons"] == ("float32", 3 * 8 + 3 * 8 + 2 * 8, "64.0")
    assert sum(size for _, size, _ in found.values()) == cache.path.stat().st_size
    assert found["images"][1] == cache.lengths.sum() and found["other"][1] > 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_text_in_names_is_printed_escaped(tmp_path, encoding):
    """A category of two lines, a lone surrogate, and letters that the terminal does not have are printed."""
    root = write_coco(tmp_path, many_jpegs(2))
    file = root / "annotations/instances_train.json"
    text = json.loads(file.read_text())
    for category, name in zip(text["categories"], ("dog\n\ud800", "größer"), strict=True):
        category["name"] = name
    file.write_text(json.dumps(text))
    assert fastload_command("build-cache", root).returncode == 0
    for command in ("info", "view"):
        arguments = [command, str(root / "fastload/train.lmdb")]
        arguments += ["--out", str(tmp_path / "sheet.png")] if command == "view" else []
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-m", "fastload", *arguments], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        printed = done.stdout.decode(encoding)
        assert command == "view" or (
            "dog\\n\\ud800" in printed and ("größer" in printed or "gr\\xf6\\xdfer" in printed)
        )
