"""docs/extending.md: what it shows is short, and does what it says. `test_readme` runs its blocks as well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastload import Cache, FastLoader, SourceError
from fastload.annotations import Column
from fastload.cache.write.build import build_cache
from tests.support.datasets import jpeg, write_coco

PAGE = Path(__file__).parents[1] / "docs/extending.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
BLOCKS = {name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in SECTIONS.items()}


@pytest.fixture
def done(tmp_path, monkeypatch) -> dict[str, Any]:
    """The names that there are once all of the page was typed beside a `coco/`."""
    monkeypatch.chdir(tmp_path)
    sizes = [(90, 60), (60, 90), (80, 80), (40, 30), (64, 48), (33, 77)]
    files = {f"{i}.jpg": jpeg(*size, seed=i) for i, size in enumerate(sizes)}
    write_coco(tmp_path / "coco", files, split="train2017", sizes={f"{i}.jpg": size for i, size in enumerate(sizes)})
    names: dict[str, Any] = {}
    exec("\n".join(BLOCKS["An annotation column"]), names)
    (tmp_path / "coco/fastload").mkdir()
    (tmp_path / "coco/fastload/train2017.lmdb").write_bytes((tmp_path / "marked.lmdb").read_bytes())
    for name in ("A transform", "An aligner", "A source"):
        exec("\n".join(BLOCKS[name]), names)
    return names


def test_each_takes_less_than_thirty_lines():
    """A column, a transform, an aligner and a source; the code of each fits on half a screen."""
    assert list(SECTIONS) == ["An annotation column", "A transform", "An aligner", "A source"]
    for blocks in BLOCKS.values():
        assert blocks and all(len(block.splitlines()) < 30 for block in blocks)


def test_the_column_the_transform_the_aligner_and_the_source_do_what_the_page_says(done):
    """Columns come with their boxes, parts are half as large, images stand at the bottom, the CSV is a cache."""
    cache = Cache("marked.lmdb")
    assert cache.columns["difficult"].all() and cache.columns["scene"].tolist() == (cache.image_ids % 3).tolist()
    assert done["trained"].dtype == torch.bool and done["scene"].dtype == torch.int32
    parts = FastLoader("marked.lmdb", 6, transforms=[done["RandomPart"](0.5)])
    ((_, targets),) = parts
    assert targets.size.tolist() == np.maximum(cache.sizes[:, ::-1] // 2, 1).tolist()
    ((images, targets),) = FastLoader("marked.lmdb", 6, collate_fn=done["BottomAlign"](divisor=64, fill=0))
    assert images.shape == (6, 3, 128, 128)
    assert (targets.offset[:, 1] + targets.size[:, 0] == 128).all()
    assert (targets.offset[:, 0] == (128 - targets.size[:, 1]) // 2).all()
    boxes = Cache("boxes.lmdb")
    assert [category.name for category in boxes.categories] == ["cat", "dog"] and boxes.labels.tolist() == [0, 1]
    assert boxes.boxes[0].tolist()[:2] == [2, 3] and not boxes.crowd.any() and boxes.annotation_ids.tolist() == [-1, -1]


def test_a_source_that_contradicts_itself_is_an_error(done, tmp_path):
    """Columns of another length, other things than numbers and numbers that do not fit name the image."""
    for columns, message in (
        ({"occluded": [0.5]}, r"image 0 \(.*\.jpg\) are invalid: `occluded` is float64 of shape \(1,\)"),
        ({"occluded": ["a", "b"]}, "not numbers"),
        ({"count": [1, 300]}, "numbers that uint8 cannot"),
        ({"label": None}, "`label` is missing"),
        ({"boxes": [1, 2]}, "`boxes` is int64 of shape"),
        ({"boxes": 3}, "are invalid"),
        ({"ocluded": [0, 0]}, "`ocluded` is not among the columns"),
    ):
        source = done["CsvSource"](Path("boxes.csv"), Path("coco/train2017"))
        source.columns = (*source.columns, Column("count", "uint8"))
        samples = [sample.columns.update(columns) or sample for sample in source.samples()]
        source.samples = lambda start=0, samples=samples: iter(samples[start:])
        with pytest.raises(SourceError, match=message):
            build_cache(source, tmp_path / "wrong.lmdb")
    assert not (tmp_path / "wrong.lmdb").exists()
