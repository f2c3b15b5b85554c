"""`Targets.masks`: polygons and run lengths as masks on the canvas, whatever the plan does."""

from __future__ import annotations

from itertools import compress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastload import (
    ArgumentError,
    Batch,
    Cache,
    CacheError,
    CenterAlign,
    CutMix,
    DecodeError,
    FastLoader,
    Mosaic,
    RandomAffine,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    ScaleJitterCrop,
    ShortestEdge,
    TopLeftAlign,
)
from fastload.annotations import POLYGONS, RLE
from fastload.batch import targets_of
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.resize import Reduction
from fastload.plan.masks import MaskSettings
from fastload.sources.base import Category, Sample
from fastload.sources.run_lengths import decode, encode
from tests.support.datasets import encoded, jpeg, pixels
from tests.support.masks import fill_rings, visible, warp_mask

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
    ((images, targets),) = FastLoader(cache, 2, transforms=transforms, collate_fn=CenterAlign(64), masks=True)
    for i in range(2):
        masks = targets.masks[i]
        assert masks.dtype == torch.uint8 and masks.shape == (3, *images.shape[-2:])
        assert agree(masks[0], masks[1]) and not masks[2].any()
        assert transforms or bool((masks[0] == masks[1]).all())
        ys, xs = torch.nonzero(masks[0], as_tuple=True)
        found = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (found - targets.boxes[i, 0]).abs().max() <= 1.5
    assert (targets.masks[-1] == targets.masks[1]).all() and len(targets.masks) == 2
    with pytest.raises(IndexError):
        targets.masks[2]


def test_masks_of_a_mosaic_stay_in_their_tiles(cache):
    """A mosaic has no matrix of its own: each mask goes through that of its image."""
    ((images, targets),) = FastLoader(cache, 2, transforms=[Mosaic(96)], masks=True)
    masks, boxes = targets.masks[0], targets.boxes[0]
    assert masks.flatten(1).any(1).sum() >= 2 and masks.shape[1:] == images.shape[-2:]
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=False):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        if len(xs):
            assert xs.min() >= x0 - 1.5 and xs.max() < x1 + 1.5 and ys.min() >= y0 - 1.5 and ys.max() < y1 + 1.5


@pytest.mark.parametrize("reduction", [Reduction(), Reduction(short=30)], ids=["as stored", "shrunk"])
def test_a_cache_has_the_masks_of_its_images(tmp_path, reduction):
    """`Cache.masks` are those of the loader without transforms, also of several caches; its items have none."""
    cache = build(tmp_path, jpeg(), reduction=reduction)
    ((_, targets),) = FastLoader(cache, 2, collate_fn=TopLeftAlign(1), masks=True)
    for each in (cache, Cache([cache, cache], renumber=True)):
        assert torch.equal(each.masks(0), targets.masks[0]) and torch.equal(each.masks(-1), targets.masks[1])
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
    ((_, targets),) = FastLoader(cache, 2)
    assert targets.masks is None and "masks" not in targets[0]
    ((_, targets),) = FastLoader(cache, 2, masks=True)
    assert (targets[0]["masks"] == targets.masks[0]).all()
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
    assert targets.masks is None
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
    ((_, targets),) = FastLoader(cache, 2, collate_fn=TopLeftAlign(1), masks=True)
    masks = targets.masks[0]
    assert masks.shape[1:] == (30, 40) and agree(masks[0], masks[1])


def test_masks_move_to_devices(cache):
    """`to` and `pin_memory` keep masks, which are unpacked where they are; on other devices by torch."""
    ((_, targets),) = FastLoader(cache, 2, skip_crowd=True, masks=True)
    moved = targets.to("cpu").pin_memory() if torch.cuda.is_available() else targets.to("cpu")
    assert torch.equal(moved.masks[1], targets.masks[1])
    dense = targets.masks.dense()
    assert dense.dtype == torch.bool and torch.equal(dense, torch.cat(targets.masks[:]).bool())
    assert targets.to("meta").masks.dense().shape == dense.shape
    assert Batch(torch.zeros(2, 3, 1, 1), targets).to("cpu").targets.masks.size == targets.masks.size


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


TRANSFORMS = {
    "jitter": [ScaleJitterCrop(96)],
    "crop": [RandomResizedCrop(80)],
    "mosaic": [Mosaic(96)],
    "affine": [RandomAffine(40, translate=(0.2, 0.2), scale=(0.5, 1.5), shear=10), RandomFlip(0.5)],
    "mosaic, affine": [Mosaic(96), RandomAffine(30, scale=(0.5, 1.5)), RandomFlip(0.5)],
    "cutmix": [RandomAffine(30), CutMix(1.0)],
    "erased": [RandomFlip(0.5), RandomErasing(1.0)],
}


class Watched(TopLeftAlign):
    """Keeps the plans that it places."""

    def __init__(self) -> None:
        super().__init__()
        self.plans = []

    def place(self, plan, rng, ends=None) -> None:
        super().place(plan, rng, ends)
        self.plans.append(plan)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_masks_are_those_of_the_reference(cache, name, engine, stride):
    """Polygons moved by the row's matrix and filled by pycocotools, and run lengths by the nearest pixel, where their
    row is not covered by later ones; whatever engine draws the images."""
    watched = Watched()
    loader = FastLoader(
        cache,
        8,
        sampler=[i % 2 for i in range(16)],
        num_workers=2,
        transforms=TRANSFORMS[name],
        collate_fn=watched,
        engine=engine,
        masks=True,
        mask_stride=stride,
        generator=torch.Generator().manual_seed(5),
    )
    seen = 0
    for batch, (images, targets) in enumerate(loader):
        plan = watched.plans[batch]
        height, width = (-(-side // stride) for side in images.shape[-2:])
        assert targets.masks.size == (height, width)
        found = targets.masks.dense().numpy()
        (_, planned) = targets_of(
            plan,
            np.zeros(8, np.int64),
            [8],
            cache.annotations,
            torch.tensor([1]),
            masks=MaskSettings(stride),
        )
        there = planned.rows >= 0
        assert len(found) == there.sum() == sum(targets.num_boxes)
        for mask, row, kind in zip(found, planned.rows[there], planned.objects[there] % 3, strict=True):
            matrix = plan.matrix[row].astype(np.float64) / stride
            if kind == 0:
                expected = fill_rings([SHAPE @ matrix[:, :2].T + matrix[:, 2]], (width, height))
            elif kind == 1:
                expected = warp_mask(fill_rings([SHAPE], (64, 48)), matrix, (width, height))
            else:
                expected = np.zeros_like(mask)
            centers = [np.arange(n) * stride + stride // 2 for n in (height, width)]
            shown = np.pad(visible(plan, row), (0, stride))[np.ix_(*centers)]
            assert (mask == (expected & shown)).all()
            seen += mask.sum()
    assert seen > 100


def test_boxes_from_masks(cache):
    """They and the areas are those of the visible masks; boxes without one are dropped with all their columns."""
    arguments = {"transforms": [Mosaic(96), RandomErasing(1.0)], "generator": torch.Generator().manual_seed(1)}
    ((_, planned),) = FastLoader(cache, 2, masks=True, **arguments)
    arguments["generator"].manual_seed(1)
    ((_, targets),) = FastLoader(cache, 2, masks=True, boxes_from_masks=True, **arguments)
    kept = planned.masks.dense().flatten(1).any(1)
    assert torch.equal(targets.masks.dense(), planned.masks.dense()[kept]) and not kept.all()
    assert targets.num_boxes == tuple(int(part.sum()) for part in kept.split(planned.num_boxes))
    lists = [len(box) for lists in planned.lists["rle"] for box in lists]
    assert [len(box) for lists in targets.lists["rle"] for box in lists] == [*compress(lists, kept)]
    for i, target in enumerate(targets):
        n = len(target["polygons"])
        assert n == len(target["boxes"]) and (targets.labels[i, :n] == 0).all() and (targets.labels[i, n:] == -1).all()
        for mask, box, area in zip(target["masks"], target["boxes"], target["area"], strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] and area == len(xs)
    ((_, coarse),) = FastLoader(cache, 2, masks=True, mask_stride=4, boxes_from_masks=True)
    assert (coarse.boxes[:, :2] % 4 == 0).all() and (coarse.area[:, :2] % 16 == 0).all()


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_damaged_masks_are_failures_of_their_image(tmp_path, engine):
    """As for an image that does not decode: an error that names it, or it is skipped with its masks."""
    source = Masked(tmp_path / "a.jpg", None)
    source.path.write_bytes(jpeg())
    samples = list(source.samples())
    wrong = [None, np.frombuffer(encode(np.ones((2, 2), bool)), np.uint8), None]
    samples[0] = Sample(0, "0.jpg", source.path, {**samples[0].columns, "rle": wrong})
    source.samples = lambda start=0: iter(samples[start:])
    build_cache(source, tmp_path / "x.lmdb")
    with pytest.raises(DecodeError, match=r"image 0 \(0.jpg\) of .*box 1 has no mask: .* 64 x 48 pixels"):
        list(FastLoader(tmp_path / "x.lmdb", 2, engine=engine, masks=True))
    loader = FastLoader(tmp_path / "x.lmdb", 2, engine=engine, masks=True, on_error="skip")
    with pytest.warns(UserWarning, match="skipped"):
        ((_, targets),) = loader
    assert targets.num_boxes == (0, 3) and [*loader.skipped] == [0]
    assert targets.masks[0].shape == (0, 64, 64) and targets.masks[1][1].any()


def test_arguments_that_need_masks(cache):
    """They are errors without `masks=True`, and a stride with functions."""
    for arguments in ({"mask_stride": 4}, {"boxes_from_masks": True}):
        with pytest.raises(ArgumentError, match="need masks=True"):
            FastLoader(cache, **arguments)
    with pytest.raises(ArgumentError, match="mask_stride is a number of pixels"):
        FastLoader(cache, masks=True, mask_stride=0)
    with pytest.raises(ArgumentError, match="mask_stride needs whole batches"):
        FastLoader(cache, masks=True, mask_stride=4, collate_fn=list)
