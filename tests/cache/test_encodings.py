"""The two dials of a build: how pictures are stored, and whether they are made smaller first."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastload import Cache, CacheError, FastLoader, RandomFlip, Resize, ShortestEdge, _core
from fastload.cache.format.layout import Encoding, Subsampling
from fastload.cache.format.problems import read_problems
from fastload.cache.read.verify import verify_cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.checked_image import admit
from fastload.cache.write.resize import Reduction
from fastload.cache.write.writer import CacheWriter
from fastload.plan.align import RandomAlign
from fastload.sources.detect import find_datasets
from tests.cli.test_cli import fastload_command
from tests.support.datasets import box, encoded, jpeg, many_jpegs, pixels, write_coco

SIZE = (640, 427)  # width, height of the pictures whose boxes are followed
BOXES = [[0.0, 0.0, 640.0, 427.0], [10.5, 20.25, 100.0, 50.5], [600.0, 400.0, 40.0, 27.0]]  # x, y, w, h


def build(root: Path, name: str = "train.lmdb", **options) -> Cache:
    path = root / "fastload" / name
    build_cache(find_datasets(root)[0].load(), path, BuildOptions(workers=2, **options))
    return Cache(path)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    """Four pictures of SIZE with BOXES each, the second box with a segmentation's area."""
    files = {f"{i}.jpg": jpeg(*SIZE, seed=i) for i in range(4)}
    boxes = [box(10 * i + j, 10 * (i + 1), bbox) for i in range(4) for j, bbox in enumerate(BOXES)]
    for annotation in boxes[1::3]:
        annotation["area"] = 1234.5
    return write_coco(tmp_path_factory.mktemp("annotated"), files, boxes, sizes=dict.fromkeys(files, SIZE))


def test_dct_is_the_default(tmp_path):
    """Without --encoding a cache holds packed coefficients, and says so."""
    root = write_coco(tmp_path, many_jpegs(3))
    assert fastload_command("build-cache", root).returncode == 0
    cache = Cache(root / "fastload/train.lmdb")
    assert cache.encodings.tolist() == [Encoding.DCT] * 3 and cache.manifest.encoding == "dct"
    assert verify_cache(cache.path) == []


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_command_takes_every_encoding(tmp_path, encoding):
    """--encoding stores every record so; `info` shows it with its bytes; the same command again changes nothing."""
    root = write_coco(tmp_path, many_jpegs(3))
    for word in ("seconds", "up to date"):
        done = fastload_command("build-cache", root, "--encoding", encoding.label)
        assert done.returncode == 0 and word in done.stdout
    cache = Cache(root / "fastload/train.lmdb")
    assert cache.encodings.tolist() == [encoding] * 3
    assert f"{encoding.label}: 3 images, {cache.lengths.sum():,} bytes" in fastload_command("info", cache.path).stdout


def test_another_dial_is_another_cache(tmp_path):
    """A cache built with other settings is not taken for the one asked for; the message names the setting."""
    root = write_coco(tmp_path, many_jpegs(2))
    assert fastload_command("build-cache", root, "--short", 40).returncode == 0
    for options, word in (((), "short"), (("--short", 40, "--encoding", "planes"), "encoding")):
        done = fastload_command("build-cache", root, *options)
        assert done.returncode == 1 and f"{word} differ" in done.stderr and "--overwrite" in done.stderr
    source = Cache(root / "fastload/train.lmdb").manifest.source
    assert source["short"] == 40 and source["quality"] is None and source["encoding"] == "dct"


def test_a_partial_build_with_another_dial_is_not_resumed(tmp_path, monkeypatch):
    """An interrupted build is carried on only with the same settings."""
    root = write_coco(tmp_path, many_jpegs(3))
    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(root, reduction=Reduction(quality=50))
    report = build_cache(find_datasets(root)[0].load(), root / "fastload/train.lmdb", BuildOptions())
    assert report.restarted and not report.resumed


def test_what_cannot_be_packed_is_kept_and_told(tmp_path):
    """A picture beyond what `dct` holds is kept as its JPEG, is told of, and still comes out of the loader."""
    root = write_coco(tmp_path, {"a.jpg": jpeg(), "strange.jpg": _with_extreme_steps(jpeg())})
    cache = build(root)
    assert cache.encodings.tolist() == [Encoding.DCT, Encoding.ORIGINAL]
    (problem,) = read_problems(cache.path)
    assert (problem.image_id, problem.kind) == (20, "not packed") and "dct cannot hold it" in problem.reason
    assert verify_cache(cache.path) == [] and len(list(FastLoader(cache))) == 2


def _with_extreme_steps(data: bytes) -> bytes:
    """The JPEG with 16-bit quantisation steps so large that its coefficients are beyond 8-bit pictures'."""
    start = data.index(b"\xff\xdb")
    end = data.index(b"\xff\xc0")
    tables = b"".join(b"\xff\xdb" + (131).to_bytes(2, "big") + bytes([16 | i]) + b"\x7f\xff" * 64 for i in (0, 1))
    return data[:start] + tables + b"\xff\xc1" + data[end + 2 :]


@given(st.integers(1, 3000), st.integers(1, 3000), st.none() | st.integers(1, 3000), st.none() | st.integers(1, 3000))
def test_sizes(width, height, short, longest):
    """Edges are at most as asked, never enlarged, the aspect ratio stays but for rounding."""
    stored = Reduction(short, longest).size_of((width, height))
    assert 1 <= stored[0] <= width and 1 <= stored[1] <= height
    assert min(stored) <= (short or 3000) and max(stored) <= (longest or 3000)
    scale = max(stored) / max(width, height)
    assert abs(stored[0] - width * scale) <= 1 and abs(stored[1] - height * scale) <= 1
    if (short or 3000) >= min(width, height) and (longest or 3000) >= max(width, height):
        assert stored == (width, height)


def test_nothing_to_do_leaves_the_bytes():
    """A picture that is small enough and has the subsampling asked for keeps its very bytes."""
    picture = admit(jpeg(64, 48, subsampling=2))
    for reduction in (Reduction(), Reduction(48, 64), Reduction(short=500), Reduction(subsampling="420")):
        assert reduction.apply(picture) is picture
    gray = admit(encoded(pixels(64, 48, channels=1)))
    assert Reduction(subsampling="420").apply(gray) is gray
    assert Reduction(quality=100).apply(picture) is picture, "encoding anew would only cost bytes"


@pytest.mark.parametrize(
    "name, kind", [("444", Subsampling.S444), ("422", Subsampling.S422), ("420", Subsampling.S420)]
)
def test_quality_and_subsampling(name, kind):
    """Without an edge no picture is resized; chroma is as asked, or as it was; a lower quality takes fewer bytes."""
    picture = admit(jpeg(130, 97, quality=97, subsampling=int(kind)))
    low, lower = (Reduction(quality=quality).apply(picture) for quality in (80, 40))
    assert low.size == picture.size and low.subsampling == kind
    assert len(lower.jpeg) < len(low.jpeg) < len(picture.jpeg)
    for other in ("444", "422", "420"):
        assert Reduction(subsampling=other).apply(picture).subsampling == int(Subsampling[f"S{other}"])
    assert Reduction(short=50).apply(picture).subsampling == kind


def test_shrinking_is_antialiased():
    """A fine checkerboard shrinks to grey, not to a moiré pattern."""
    y, x = np.mgrid[:512, :512]
    board = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, 2)
    small = Reduction(short=100).apply(admit(encoded(board, quality=100, subsampling=0)))
    assert np.abs(np.asarray(Image.open(io.BytesIO(small.jpeg))).astype(int) - 128).max() < 8


@pytest.mark.parametrize("encoding", list(Encoding))
def test_boxes_follow(annotated, encoding):
    """Boxes, areas and sizes are those of the smaller picture, in exact proportion; the annotated size is kept."""
    cache = build(annotated, f"{encoding.label}.lmdb", encoding=encoding, reduction=Reduction(200, 280, 90, "420"))
    assert cache.sizes.tolist() == [[280, 187]] * 4 and cache.source_sizes.tolist() == [[640, 427]] * 4
    scale = np.array([280 / 640, 187 / 427])
    record = cache.record(1)
    assert record.size == (280, 187) and record.source_size == SIZE
    expected = np.array(BOXES)
    expected[:, 2:] += expected[:, :2]
    np.testing.assert_allclose(record.boxes, expected * np.tile(scale, 2), rtol=1e-6)
    np.testing.assert_allclose(record.area, np.array([640 * 427, 1234.5, 40 * 27]) * scale.prod(), rtol=1e-6)
    assert (record.boxes <= [280, 187, 280, 187]).all()
    assert verify_cache(cache.path) == []


def test_targets_lead_back_to_the_annotated_picture(annotated):
    """From a cache of smaller pictures, `to_original` gives the pixels of the annotation file, `original_size` too."""
    whole = build(annotated, "whole.lmdb")
    small = build(annotated, "small.lmdb", reduction=Reduction(short=213))
    expected = torch.tensor(BOXES)
    expected[:, 2:] += expected[:, :2]
    for cache in (whole, small):
        for edits in ([ShortestEdge([150, 300])], [Resize((100, 333)), RandomFlip(1.0)]):
            _, targets = next(iter(FastLoader(cache, 4, transforms=edits, collate_fn=RandomAlign())))
            assert targets.original_size.tolist() == [[427, 640]] * 4
            for i, target in enumerate(targets):
                torch.testing.assert_close(targets.to_original(target["boxes"], i), expected, atol=1e-2, rtol=0)


def test_targets_are_the_same_whatever_is_stored(annotated):
    """At one training size, a cache of smaller pictures gives the geometry of the whole ones."""
    caches = [build(annotated, "whole.lmdb"), build(annotated, "half.lmdb", reduction=Reduction(max_size=320))]
    batches = [next(iter(FastLoader(cache, 4, transforms=[Resize((160, 320)), RandomFlip(1.0)]))) for cache in caches]
    for name in ("boxes", "scale", "offset", "area", "original_size", "size"):
        torch.testing.assert_close(*(getattr(batch.targets, name) for batch in batches), rtol=1e-4, atol=1e-3)
    difference = (batches[0].images.float() - batches[1].images.float()).abs().mean()
    assert difference < 3


def test_wrong_settings_are_refused(tmp_path):
    """Values that make no sense are wrong usage: exit status 2, nothing is made."""
    root = write_coco(tmp_path, many_jpegs(1))
    for option, value in (("--short", 0), ("--quality", 101), ("--subsampling", "410"), ("--encoding", "webp")):
        assert fastload_command("build-cache", root, option, value).returncode == 2
    assert not (root / "fastload").exists()


def test_original_bytes_stay_in_original_caches(tmp_path):
    """With `original` and no reduction, payloads are the files, and a cache of them opens and feeds the loader."""
    files = many_jpegs(3)
    cache = build(write_coco(tmp_path, files), encoding=Encoding.ORIGINAL)
    assert [bytes(record.data) for record in cache.records()] == list(files.values())
    assert sum(len(images) for images, _ in FastLoader(cache, 2)) == 3
    with pytest.raises(CacheError, match="encoding differ"):
        build(tmp_path, encoding=Encoding.PLANES)
    assert _core.decode_record(cache.record_bytes(0))[1] == Subsampling.S444
