"""Extra columns in batches: coordinates follow the pixels, whatever the transforms; ragged ones are lists."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fastload import Cache, FastLoader, Mosaic, RandomAlign, RandomFlip, ScaleJitterCrop, ShortestEdge, Transform
from fastload.annotations import Column
from tests.cache.test_ragged_columns import build, sample
from tests.plan.test_geometry import rotation
from tests.support.datasets import jpeg

COLUMNS = (
    Column("corners", "float32", shape=(4, 2), moves="points"),
    Column("joints", "float32", shape=(2, 3), moves="points"),
    Column("outer", "float64", shape=(4,), moves="box"),
    Column("part", "float32", moves="area"),
    Column("polygons", "float32", shape=(2,), moves="polygon", ragged=2),
    Column("trace", "float32", shape=(2,), moves="points", ragged=True),
    Column("tags", "int16", ragged=True),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    """Boxes whose corners are also a column, a polygon, a trace of two points, ..."""
    folder, rng = tmp_path_factory.mktemp("moving"), np.random.default_rng(0)
    path: Path = folder / "image.jpg"
    path.write_bytes(jpeg())  # 64 x 48
    samples = []
    for number in range(12):
        corner = rng.uniform(0, 20, (number % 4, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 24, corner.shape)], 1).round().astype(np.float32)
        x0, y0, x1, y1 = boxes.T
        corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], 1).reshape(-1, 4, 2)
        seen = np.concatenate([corners[:, :2], np.tile([[2], [0]], (len(boxes), 1, 1))], 2)
        samples.append(
            sample(
                path, boxes.tolist(), number, corners=corners, joints=seen, outer=boxes, part=(x1 - x0) * (y1 - y0),
                polygons=[[ring, ring[:3]] for ring in corners], trace=[ring[:k] for k, ring in enumerate(corners)],
                tags=[[k] * k for k in range(len(boxes))],
            )
        )  # fmt: skip
    return build(samples, folder / "moving.lmdb", columns=COLUMNS)


class Turn(Transform):
    """Rotates by 30 degrees about the middle."""

    def __call__(self, plan, rng, images):
        plan.transform(np.stack([rotation(30, size / 2) for size in plan.size]), plan.size)


RECIPES = {
    "plain": [],
    "scaled and flipped": [ShortestEdge([30, 90]), RandomFlip()],
    "cropped": [ScaleJitterCrop(64), RandomFlip()],
    "mosaic": [Mosaic(80), RandomFlip()],
    "turned": [ShortestEdge(90), Turn()],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_coordinates_follow_the_box_they_belong_to(cache, recipe):
    """The corners of a box, as points, a polygon or a box of its own, lie around what the batch shows of the box."""
    engine = "reference" if recipe == "turned" else "native"
    checked = 0
    for _, targets in FastLoader(cache, 4, transforms=RECIPES[recipe], collate_fn=RandomAlign(), engine=engine):
        for i, target in enumerate(targets):
            for k, box in enumerate(target["boxes"]):
                points = target["corners"][k]
                whole = torch.cat([points.amin(0), points.amax(0)])
                assert (whole[:2] <= box[:2] + 0.02).all() and (whole[2:] >= box[2:] - 0.02).all()  # as it is clipped
                torch.testing.assert_close(target["outer"][k].float(), whole, atol=1e-3, rtol=0)
                edges = points[1] - points[0], points[3] - points[0]
                area = (edges[0][0] * edges[1][1] - edges[0][1] * edges[1][0]).abs()
                torch.testing.assert_close(target["part"][k], area, atol=1e-2, rtol=1e-3)
                assert target["joints"][k, 0].tolist() in ([*points[0].tolist(), 2], [0, 0, 0])  # seen or not
                assert target["joints"][k, 1].tolist() == [0, 0, 0]  # unlabeled
                ring, part = target["polygons"][k]
                assert ring.equal(points) and part.equal(points[:3])
                length = len(target["trace"][k])
                assert target["trace"][k].equal(points[:length]) and target["tags"][k].tolist() == [length] * length
                checked += 1
            assert (targets.columns["corners"][i, targets.num_boxes[i] :] == 0).all()
            assert len(target["polygons"]) == len(target["tags"]) == targets.num_boxes[i]
    assert checked >= 12


def test_points_lie_where_the_matrix_says(cache):
    """Of an image that a canvas shows alone, a column is the source's, through `targets.matrix`."""
    for _, targets in FastLoader(cache, 4, transforms=[ShortestEdge([30, 90]), RandomFlip()]):
        for i, index in enumerate(cache.index_of(targets.image_id.tolist()).tolist()):
            source = torch.tensor(cache.record(index).columns["corners"])
            mapped = source @ targets.matrix[i, :, :2].T + targets.matrix[i, :, 2]
            torch.testing.assert_close(targets[i]["corners"], mapped, atol=1e-3, rtol=1e-5)


def test_lists_move_and_pickle_with_their_targets(cache):
    """`to` reaches every tensor in them; pickling keeps them; images without boxes have empty lists."""
    _, targets = next(iter(FastLoader(cache, 4)))
    again = pickle.loads(pickle.dumps(targets))
    assert targets.lists["tags"][0] == [] and [len(boxes) for boxes in again.lists["polygons"]] == [0, 1, 2, 3]
    assert again.lists["polygons"][3][2][0].equal(targets.lists["polygons"][3][2][0])
    assert targets.to("meta").lists["polygons"][3][2][0].is_meta
