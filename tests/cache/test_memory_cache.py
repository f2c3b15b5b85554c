"""Images of one's own on the fast path, without a cache on disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastload import Cache, CenterAlign, DecodeError, FastLoader, ShortestEdge
from fastload.cache.format.layout import Encoding
from fastload.cache.memory import MemoryCache, read_images
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from tests.support.datasets import encoded, jpeg, pixels, write_coco


def turned(orientation: int, format: str) -> bytes:
    image = Image.fromarray(pixels(64, 48, orientation))
    image.getexif()[0x0112] = orientation
    return encoded(image, format, exif=image.getexif())


FILES = {
    "plain.jpg": jpeg(seed=1),
    "progressive.jpg": jpeg(seed=2, subsampling=2, progressive=True),
    "gray.jpg": encoded(pixels(64, 48, 3, channels=1)),
    "cmyk.jpg": encoded(Image.fromarray(pixels(64, 48, 4)).convert("CMYK")),
    "turned.jpg": turned(6, "JPEG"),
    "turned.png": turned(3, "PNG"),
    "plain.png": encoded(pixels(64, 48, 5), "PNG"),
    "deep.png": encoded(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20, "PNG"),
    "clear.png": encoded(pixels(64, 48, 6, channels=4), "PNG"),
    "lossless.webp": encoded(pixels(64, 48, 7), "WEBP", lossless=True),
}


def batches(cache: Cache, **options) -> list[torch.Tensor]:
    loader = FastLoader(
        cache, 3, collate_fn=CenterAlign(), transforms=[ShortestEdge(40, 60)], group_by_aspect=False,
        device="cpu", dtype=torch.uint8, **options,
    )  # fmt: skip
    return [images for images, _ in loader]


def folder_of(root: Path) -> list[Path]:
    write_coco(root, FILES, [], sizes={"turned.jpg": (48, 64)})
    return [root / "train" / name for name in FILES]


@pytest.mark.parametrize("encoding", [Encoding.ORIGINAL, Encoding.DCT, Encoding.PLANES])
def test_pixels_are_those_of_a_cache_on_disk(tmp_path, encoding):
    """JPEGs of all kinds, PNGs, 16 bits, CMYK, transparency, EXIF: files, their bytes, and a cache of them, however
    encoded, give equal batches."""
    paths = folder_of(tmp_path)
    built = tmp_path / "built.lmdb"
    build_cache(find_datasets(tmp_path)[0].load(), built, BuildOptions(encoding, exif_rotate=True))
    expected = batches(Cache(built))
    for images in (paths, [path.read_bytes() for path in paths]):
        found = batches(MemoryCache.of(images), num_workers=2)
        assert len(found) == len(expected) == 4 and all(map(torch.equal, found, expected))


def test_an_array_is_what_a_png_of_it_would_be():
    """In colour and grey; image ids are positions, there are no boxes, sizes are the arrays'."""
    arrays = [pixels(64, 48, 1), pixels(30, 50, 2, channels=1)]
    cache, files = MemoryCache.of(arrays), MemoryCache.of([encoded(array, "PNG") for array in arrays])
    assert all(map(torch.equal, batches(cache), batches(files)))
    assert cache.image_ids.tolist() == [0, 1] and cache.sizes.tolist() == [[64, 48], [30, 50]] and not len(cache.boxes)


def test_exif_is_ignored_when_asked():
    """Without exif_rotate an image stays as it is stored."""
    assert MemoryCache.of([turned(6, "JPEG")], exif_rotate=False).sizes.tolist() == [[64, 48]]
    assert MemoryCache.of([turned(6, "JPEG")]).sizes.tolist() == [[48, 64]]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("missing.jpg", r"missing\.jpg cannot be read: missing file"),
        (jpeg()[:-100], r"image 1 cannot be read: truncated"),
        (b"", r"image 1 cannot be read: the file is empty"),
        (np.zeros((4, 5, 3)), r"image 1 cannot be read: .* not float64 \(4, 5, 3\)"),
        (np.zeros((4, 5, 4), np.uint8), r"image 1 .* not uint8 \(4, 5, 4\)"),
        (np.zeros(7, np.uint8), r"image 1 .* not uint8 \(7,\)"),
        (np.zeros((0, 5), np.uint8), r"image 1 .* no pixels"),
    ],
)
def test_bad_images_are_named(image, reason):
    """What cannot be read raises an error that says which it is and why; `read_images` goes on after it."""
    images = [jpeg(), image, jpeg(seed=2)]
    with pytest.raises(DecodeError, match=reason):
        MemoryCache.of(images)
    assert [outcome.record is None for outcome in read_images(images)] == [False, True, False]


def test_any_number_of_images_is_read_a_few_at_a_time():
    """From an endless iterator the first images come, and few more than those are asked for."""
    asked = []

    def endless():
        while True:
            asked.append(jpeg(seed=len(asked)))
            yield asked[-1]

    outcomes = read_images(endless(), workers=2)
    assert [next(outcomes).entry.image_id for _ in range(3)] == [0, 1, 2] and len(asked) < 20
    outcomes.close()


def test_it_behaves_as_a_cache_does():
    """Records are checked and read, parts are loaded, pickling keeps everything."""
    cache = MemoryCache.of([jpeg(seed=i) for i in range(4)])
    again = pickle.loads(pickle.dumps(cache))
    assert again.fingerprint == cache.fingerprint and all(map(torch.equal, batches(again), batches(cache)))
    assert cache.check_record(2).width == 64 and cache.name(3) == "image 3"
    (part,) = batches(cache.subset([2, 0]))
    assert torch.equal(part, batches(cache)[0][[2, 0]])
