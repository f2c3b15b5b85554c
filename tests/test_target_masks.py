"""`Targets.masks`: polygons and run lengths as masks on the canvas, whatever the plan does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastload import (
    ArgumentError,
    Cache,
    CacheError,
    CenterAlign,
    FastLoader,
    Mosaic,
    PlanError,
    RandomAffine,
    RandomFlip,
    ShortestEdge,
    TopLeftAlign,
)
from fastload.annotations import POLYGONS, RLE
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.resize import Reduction
from fastload.plan.masks import fill_rings
from fastload.sources.base import Category, Sample
from fastload.sources.run_lengths import decode, encode
from tests.support.datasets import encoded, jpeg, pixels

SHAPE = np.array([[10, 8], [40, 12], [30, 40], [12, 30]], np.float32)


class Masked:
    """Two images with the same object as a polygon, as run lengths and without a mask."""

    format, location, digest, problems = "test", "here", "0", ()
    categories = (Category(1, "cat"),)
    columns = (POLYGONS, RLE)

    def __init__(self, path: Path, size: tuple[int, int] | None = (64, 48), count: int = 2) -> None:
        self.path, self.size, self.count = path, size, count

    def __len__(self) -> int:
        return self.count

    def samples(self, start: int = 0):
        width, height = self.size or (64, 48)
        run_lengths = np.frombuffer(encode(fill_rings([SHAPE], (width, height))), np.uint8)
        values = {
            "boxes": [[10, 8, 40, 40]] * 3,
            "label": [1] * 3,
            "polygons": [[SHAPE], None, None],
            "rle": [None, run_lengths, None],
        }
        yield from [Sample(i, f"{i}.jpg", self.path, values, self.size) for i in range(self.count)][start:]


def build(folder: Path, data: bytes, **options) -> Cache:
    (folder / "a.jpg").write_bytes(data)
    build_cache(Masked(folder / "a.jpg"), folder / "x.lmdb", BuildOptions(**options))
    return Cache(folder / "x.lmdb")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return build(tmp_path_factory.mktemp("masks"), jpeg())


def agree(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two masks cover nearly the same pixels."""
    both, either = (first & second).sum(), (first | second).sum()
    return bool(either > 100 and both / either > 0.9)


@pytest.mark.parametrize("transforms", [[], [ShortestEdge(96), RandomFlip(1.0)]], ids=["as stored", "resized, flipped"])
def test_masks_lie_on_the_canvas(cache, transforms):
    """Polygons and run lengths give the same mask, in its box, of the canvas's size; neither gives an empty one."""
    ((images, targets),) = FastLoader(cache, 2, transforms=transforms, collate_fn=CenterAlign(64))
    for i in range(2):
        masks = targets.masks(i)
        assert masks.dtype == torch.uint8 and masks.shape == (3, *images.shape[-2:])
        assert agree(masks[0], masks[1]) and not masks[2].any()
        assert transforms or bool((masks[0] == masks[1]).all())
        ys, xs = torch.nonzero(masks[0], as_tuple=True)
        found = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (found - targets.boxes[i, 0]).abs().max() <= 1.5
    assert (targets.masks(-1) == targets.masks(1)).all() and "masks" not in targets[0]
    with pytest.raises(IndexError):
        targets.masks(2)


def test_masks_of_a_mosaic_stay_in_their_tiles(cache):
    """A mosaic has no matrix of its own: each mask goes through that of its image."""
    ((images, targets),) = FastLoader(cache, 2, transforms=[Mosaic(96)])
    masks, boxes = targets.masks(0), targets.boxes[0]
    assert masks.flatten(1).any(1).sum() >= 2 and masks.shape[1:] == images.shape[-2:]
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=False):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        if len(xs):
            assert xs.min() >= x0 - 1.5 and xs.max() < x1 + 1.5 and ys.min() >= y0 - 1.5 and ys.max() < y1 + 1.5


@pytest.mark.parametrize("reduction", [Reduction(), Reduction(short=30)], ids=["as stored", "shrunk"])
def test_a_cache_has_the_masks_of_its_images(tmp_path, reduction):
    """`Cache.masks` are those of the loader without transforms, also of several caches; its items have none."""
    cache = build(tmp_path, jpeg(), reduction=reduction)
    ((_, targets),) = FastLoader(cache, 2, collate_fn=TopLeftAlign(1))
    for each in (cache, Cache([cache, cache], renumber=True)):
        assert torch.equal(each.masks(0), targets.masks(0)) and torch.equal(each.masks(-1), targets.masks(1))
        assert each.masks(0)[1].any() and "masks" not in each[0][1]
    with pytest.raises(IndexError):
        cache.masks(2)


def test_masks_that_do_not_fit_their_image(tmp_path):
    """Run lengths of another size are a CacheError that names the image and the box."""
    source = Masked(tmp_path / "a.jpg", None)
    source.path.write_bytes(jpeg(32, 24))
    build_cache(source, tmp_path / "x.lmdb")
    with pytest.raises(CacheError, match=r"image 1 \(1.jpg\) of .*x.lmdb: box 1 has no mask: .* 32 x 24 pixels"):
        Cache(tmp_path / "x.lmdb").masks(1)


def test_dicts_have_masks_if_asked(cache):
    """With `masks=True`; functions get those of the unpadded image."""
    ((_, targets),) = FastLoader(cache, 2, masks=True)
    assert (targets[0]["masks"] == targets.masks(0)).all()
    shapes = []
    function = lambda image, target: shapes.append((image.shape[1:], target["masks"].shape)) or (image, target)  # noqa: E731
    list(FastLoader(cache, 2, transforms=[function], masks=True, collate_fn=list))
    assert shapes == [((48, 64), (3, 48, 64))] * 2


def test_a_cache_without_masks(tmp_path):
    """It is an error to ask for them, which says what to do."""
    source = Masked(tmp_path / "a.jpg", None)
    source.path.write_bytes(jpeg())
    source.columns = ()
    samples = source.samples
    source.samples = lambda start=0: (
        Sample(each.image_id, each.name, each.path, {name: each.columns[name] for name in ("boxes", "label")})
        for each in samples(start)
    )
    build_cache(source, tmp_path / "x.lmdb")
    ((_, targets),) = FastLoader(tmp_path / "x.lmdb", 2)
    with pytest.raises(PlanError, match="polygons or rle"):
        targets.masks(0)
    with pytest.raises(CacheError, match="polygons or rle"):
        Cache(tmp_path / "x.lmdb").masks(0)
    with pytest.raises(ArgumentError, match="masks=True needs masks"):
        list(FastLoader(tmp_path / "x.lmdb", 2, masks=True))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_run_lengths_are_turned_with_their_image(tmp_path, orientation):
    """EXIF orientations that change the sides turn masks, polygons and boxes alike."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    cache = build(tmp_path, encoded(pixels(64, 48), "JPEG", exif=exif), exif_rotate=True)
    record = cache.record(0)
    mask = decode(record.columns["rle"][1].tobytes(), record.size[1], record.size[0])
    expected = fill_rings(record.columns["polygons"][0], record.size)
    assert (mask != expected).mean() < 0.02 and expected.sum() > 100


def test_masks_of_shrunk_images(tmp_path):
    """Run lengths stay those of the annotated image, and still fit the polygon of the stored one."""
    cache = build(tmp_path, jpeg(), reduction=Reduction(short=30))
    ((_, targets),) = FastLoader(cache, 2, collate_fn=TopLeftAlign(1))
    masks = targets.masks(0)
    assert masks.shape[1:] == (30, 40) and agree(masks[0], masks[1])


def test_masks_on_a_device_and_without_crowds(cache):
    """`to` keeps masks; they come on the device of the boxes."""
    ((_, targets),) = FastLoader(cache, 2, skip_crowd=True)
    moved = targets.to("cpu").pin_memory() if torch.cuda.is_available() else targets.to("cpu")
    assert (moved.masks(1) == targets.masks(1)).all() and moved.masks(1).device == moved.boxes.device


def test_boxes_in_turned_images_are_those_of_the_polygons(tmp_path):
    """A turned object with a polygon has the box of its turned points, others the box of their turned corners."""
    cache = build(tmp_path, jpeg())
    turn = RandomAffine(40)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        loader = FastLoader(cache, 1, transforms=[turn], engine="reference", generator=generator)
        for _, targets in loader:
            matrix = targets.matrix[0].numpy().astype(np.float64)
            width, height = targets.size[0].flip(0).tolist()
            corners = np.array([[10, 8], [40, 8], [40, 40], [10, 40]])
            expected = []
            for points in (SHAPE, corners, corners):
                moved = points @ matrix[:, :2].T + matrix[:, 2]
                expected.append([*moved.min(0).clip(0, [width, height]), *moved.max(0).clip(0, [width, height])])
            np.testing.assert_allclose(targets.boxes[0].numpy(), expected, atol=1e-3)
            assert targets.boxes[0, 0].tolist() != targets.boxes[0, 1].tolist()
