"""The golden results of published recipes: complete, and made of the sample set as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.recipes import RECIPES, published, sample_objects, shrink


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_case_is_complete(recipe: str) -> None:
    """Pixels and objects belong to each case, and no boxes are outside the objects of its sources."""
    known = sample_objects()
    for case in published(recipe):
        assert case.thumbnail.shape == (16, 16, 3)
        assert len(case.crops) == len(case.crops_at) > 0
        assert (case.crops_at + case.crops.shape[1] <= case.size).all()
        if case.boxes is not None:
            allowed = {i for s in case.sources for i in range(known.offsets[s], known.offsets[s + 1])}
            assert set(case.objects.tolist()) <= allowed
            assert (case.labels == known.labels[case.objects]).all()


def test_the_sample_set_is_the_one_that_the_published_code_saw(sample_set: Path) -> None:
    """Images and boxes have not changed since: if they have, run tests/data/make_golden_recipes.py again."""
    known = sample_objects()
    document = json.loads((sample_set / "annotations" / "instances_train.json").read_text())
    for i, entry in enumerate(document["images"]):
        with Image.open(sample_set / "train" / entry["file_name"]) as image:
            assert image.size == tuple(known.sizes[i])
            thumbnail = shrink(np.asarray(image), 8)
        assert abs(thumbnail.astype(int) - known.thumbnails[i]).max() <= 1
        boxes = [a["bbox"] for a in document["annotations"] if a["image_id"] == entry["id"] and not a["iscrowd"]]
        expected = known.boxes[known.offsets[i] : known.offsets[i + 1]]
        found = np.array(boxes).reshape(-1, 4) @ [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
        np.testing.assert_allclose(found, expected, atol=0.02)
