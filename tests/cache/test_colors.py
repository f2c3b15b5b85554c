"""Mean and standard deviation of the colors of each image: in the index, and what uses them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fastload import Cache, ColorJitter, FastLoader, Transform, _core
from fastload.cache.format import index
from fastload.cache.format.layout import OPTIONAL, Encoding, Subsampling
from fastload.cache.format.record import pack_record
from fastload.cache.memory import MemoryCache
from fastload.cache.read.summary import color_of_dataset, summarize
from fastload.cache.write import assemble
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.reencode import ReencodeOptions, transcode_cache
from fastload.cache.write.resize import Reduction
from fastload.errors import CacheError
from fastload.plan.batch_plan import FILL
from fastload.plan.image_index import ImageIndex
from fastload.plan.transforms.color import GRAY, LUMA
from fastload.sources.detect import find_datasets
from tests.support.datasets import encoded, jpeg, many_jpegs, pixels, write_coco

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden/cache.lmdb"  # was written before colors were stored
JFIF = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])  # Y, Cb, Cr to RGB
KINDS = {
    "444.jpg": jpeg(),
    "422.jpg": jpeg(63, 48, 1, subsampling=1),
    "420.jpg": jpeg(63, 47, 2, subsampling=2),
    "progressive.jpg": jpeg(65, 49, 3, subsampling=2, progressive=True),
    "gray.jpg": encoded(pixels(64, 48, 4, 1)),
    "png.png": encoded(pixels(33, 48, 5), "PNG"),
    "tiny.jpg": jpeg(1, 3, 6, subsampling=2),
    "narrow.jpg": jpeg(3, 2, 7, subsampling=1),
}


def build(root: Path, **options) -> Cache:
    dataset = find_datasets(root)[0]
    return Cache(build_cache(dataset.load(), dataset.cache, BuildOptions(workers=2, **options)).path)


def write(root: Path, files: dict[str, bytes]) -> Path:
    """A dataset of `files` without boxes."""
    return write_coco(root, files, [], sizes={name: _size(data) for name, data in files.items()})


def _size(data: bytes) -> tuple[int, int]:
    cache = MemoryCache.of([data])
    return int(cache.source_sizes[0, 0]), int(cache.source_sizes[0, 1])


def check(cache: Cache) -> None:
    """The stored values are those of NumPy over the planes, and those of the decoded pixels as docs/format.md says."""
    assert cache.means is not None and cache.stds is not None
    assert cache.means.shape == cache.stds.shape == (len(cache), 3) and cache.means.dtype == np.float32
    for i in range(len(cache)):
        rgb = unclipped(cache.record_bytes(i))
        assert cache.means[i] == pytest.approx(rgb.mean(0), abs=1e-3), cache.name(i)
        assert cache.stds[i] == pytest.approx(rgb.std(0), abs=1e-2), cache.name(i)
        image = cache[i][0].numpy().reshape(3, -1).astype(float)
        assert cache.means[i] == pytest.approx(image.mean(1), abs=1), cache.name(i)
        if cache.sizes[i].min() > 16:  # chroma is interpolated over much of a smaller image
            assert cache.stds[i] == pytest.approx(image.std(1), abs=2), cache.name(i)


def unclipped(record: memoryview) -> np.ndarray:
    """RGB (pixels, 3) of a record, with each sample of chroma repeated."""
    planes, _, rgb = _core.decode_record(record)
    height, width = planes[0].shape
    down, across = -(-height // planes[-1].shape[0]), -(-width // planes[-1].shape[1])
    chroma = [plane.repeat(down, 0).repeat(across, 1)[:height, :width] for plane in planes[1:]]
    samples = np.stack([planes[0], *chroma], 2).reshape(height * width, -1).astype(float)
    if len(planes) == 1:
        return samples.repeat(3, 1)
    return samples if rgb else (samples - [0, 128, 128]) @ JFIF.T


@pytest.mark.parametrize("encoding", Encoding)
def test_they_are_those_of_the_pixels(tmp_path, encoding):
    """In every encoding, for every kind of file; the bits do not depend on the encoding."""
    root = write(tmp_path, KINDS)
    cache = build(root, encoding=encoding)
    assert len(cache) == len(KINDS)
    check(cache)
    means = cache.means.copy()
    np.testing.assert_array_equal(means, build(root, encoding=Encoding.ORIGINAL, overwrite=True).means)


@pytest.mark.parametrize("name", ["s440", "s411", "s422_unusual", "s444_unusual", "rgb", "gray_2x2", "scans_420"])
def test_unusual_sampling(name):
    """JPEGs that Pillow does not write: other subsamplings, and RGB planes."""
    check(MemoryCache.of([DATA / f"jpeg/{name}.jpg"]))


def test_long_rows_do_not_overflow():
    """Rows of the longest side in the darkest level, with chroma of the largest magnitude."""
    payload = bytes(65_500 * 3 + 256)
    mean, std = _core.record_colors(pack_record(payload, Encoding.PLANES, Subsampling.S420, (65_500, 2), False))
    assert mean == pytest.approx([0, (0.344136 + 0.714136) * 128, 0], abs=0.01) and std == [0, 0, 0]


def test_damage_is_an_error():
    """Neither a damaged record nor a file that is no JPEG has colors."""
    with pytest.raises(ValueError, match="shorter than its header"):
        _core.record_colors(b"FLR1")
    with pytest.raises(_core.JpegError):
        _core.check_jpeg(b"no JPEG")


def test_turned_and_smaller_images(tmp_path):
    """They belong to the image as it is stored."""
    turned = jpeg(64, 48, 8, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    root = write_coco(tmp_path, {"turned.jpg": turned, "other.jpg": jpeg(64, 48, 9)}, [])
    cache = build(root, exif_rotate=True, reduction=Reduction(short=20))
    assert cache.sizes.tolist() == [[20, 27], [27, 20]]
    check(cache)


def test_conversion_keeps_or_computes_them(tmp_path):
    """A converted cache has them, of its own images, also if the converted one has not."""
    path = build(write(tmp_path / "set", KINDS), encoding=Encoding.ORIGINAL).path
    for name, options in {
        "same": ReencodeOptions(Encoding.ORIGINAL),
        "dct": ReencodeOptions(Encoding.DCT),
        "small": ReencodeOptions(Encoding.DCT, Reduction(short=16)),
    }.items():
        converted = Cache(transcode_cache(path, tmp_path / f"{name}.lmdb", options).path)
        check(converted)
        assert name == "small" or (converted.means == Cache(path).means).all()
    check(Cache(transcode_cache(GOLDEN, tmp_path / "golden.lmdb", ReencodeOptions(Encoding.PLANES)).path))


def without_colors(entries):
    """`build_index` as it was before colors were stored."""
    return {name: array for name, array in index.build_index(entries).items() if name not in OPTIONAL}


def test_older_caches_have_none(tmp_path):
    """A cache without them opens; several caches have them if all of them do."""
    old, new = Cache(GOLDEN), build(write_coco(tmp_path, many_jpegs(3)))
    assert old.means is None and old.stds is None and old.color_of(0) is None and summarize(old).color is None
    assert Cache([old, new]).means is None and Cache([new, old]).stds is None
    more = build(write_coco(tmp_path / "more", many_jpegs(2)))
    both = Cache([Cache([new]), more], renumber=True)
    np.testing.assert_array_equal(both.means, np.concatenate([new.means, more.means]))
    assert len(list(FastLoader(GOLDEN, 4, transforms=[ColorJitter(contrast=0.5)]))) == 1


def test_resumed_and_repeated_builds(tmp_path, monkeypatch):
    """A build that an older version began has none; one that takes images of an older cache computes them."""
    root = write_coco(tmp_path, many_jpegs(6))
    dataset = find_datasets(root)[0]

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(assemble, "COMMIT_BYTES", 1)
    monkeypatch.setattr(assemble, "build_index", without_colors)
    with pytest.raises(KeyboardInterrupt):
        build_cache(dataset.load(), dataset.cache, BuildOptions(workers=1), stop)
    monkeypatch.undo()
    report = build_cache(dataset.load(), dataset.cache)
    assert report.resumed and Cache(dataset.cache).means is None
    os.utime(root / "train/00002.jpg", (1, 1))
    assert build_cache(dataset.load(), dataset.cache).changed == 1
    check(Cache(dataset.cache))

    monkeypatch.setattr(assemble, "COMMIT_BYTES", 1)
    options = BuildOptions(workers=1, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        build_cache(dataset.load(), dataset.cache, options, stop)
    assert build_cache(dataset.load(), dataset.cache, options).resumed
    check(Cache(dataset.cache))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 256])
def test_invalid_values_are_noticed(tmp_path, monkeypatch, value):
    """An array whose values are not levels makes the cache unreadable."""

    def spoiled(entries):
        found = index.build_index(entries)
        found["color/mean"][1, 2] = value
        return found

    monkeypatch.setattr(assemble, "build_index", spoiled)
    with pytest.raises(CacheError, match="color/mean holds invalid values"):
        build(write_coco(tmp_path, many_jpegs(2)))


def test_the_mean_and_std_of_the_dataset():
    """The summary has them with the same weight for each image; they are those of all pixels of equal images."""
    cache = MemoryCache.of([jpeg(seed=i) for i in range(5)])
    every = np.stack([cache[i][0].numpy() for i in range(5)]).astype(float)
    color = color_of_dataset(cache)
    assert color.mean == pytest.approx(every.mean((0, 2, 3)), abs=1)
    assert color.std == pytest.approx(every.std((0, 2, 3)), abs=1)


def test_means_of_rows():
    """Each row of a plan has the mean of its record, also in a subset; rows without a source have 0."""
    cache = MemoryCache.of([jpeg(seed=i) for i in range(5)])
    images = ImageIndex(np.array([3, 1]), cache.sizes[[3, 1]], means=cache.means)
    plan = images.plan(np.array([1, 0, 1]))
    plan.index[2] = FILL
    np.testing.assert_array_equal(images.mean(plan), [*cache.means[[1, 3]], [0, 0, 0]])
    assert ImageIndex(images.index, images.size).mean(plan) is None


def test_contrast_is_relative_to_the_mean_of_the_image():
    """As torchvision: the mean gray after the change of brightness stays; 128 stays if means are unknown."""
    cache = MemoryCache.of([np.full((8, 8, 3), level, np.uint8) for level in (40, 90, 200)])
    images = ImageIndex(np.arange(3), cache.sizes, means=cache.means)
    jitter = ColorJitter(brightness=0.3, contrast=0.5, saturation=0.5, hue=0.5)
    plan, unknown = images.plan(np.arange(3)), images.plan(np.arange(3))
    jitter(plan, np.random.default_rng(0), images)
    jitter(unknown, np.random.default_rng(0), ImageIndex(images.index, images.size))
    brightness = np.random.default_rng(0).uniform(0.7, 1.3, 3)
    gray = cache.means @ LUMA
    shown = (plan.color[:, :, :3] * gray[:, None, None]).sum(2) + plan.color[:, :, 3]
    np.testing.assert_allclose(shown, (brightness * gray)[:, None].repeat(3, 1), rtol=1e-4)
    fixed = (unknown.color[:, :, :3] * (GRAY / brightness)[:, None, None]).sum(2) + unknown.color[:, :, 3]
    np.testing.assert_allclose(fixed, GRAY, rtol=1e-4)


def test_the_loader_knows_the_means():
    """Contrast of 0 shows the mean gray of each image, within rounding."""
    cache = MemoryCache.of([jpeg(seed=i) for i in range(4)])

    class NoContrast(Transform):
        def __call__(self, plan, rng, images):
            color = np.zeros((len(plan.size), 3, 4), np.float32)
            color[:, :, 3] = images.mean(plan) @ LUMA[:, None]
            plan.recolor(color)

    (batch,) = FastLoader(cache, 4, transforms=[NoContrast()])
    center = batch.images[:, :, batch.images.shape[2] // 2, batch.images.shape[3] // 2].numpy()
    np.testing.assert_allclose(center, (cache.means @ LUMA)[:, None].repeat(3, 1), atol=0.6)
