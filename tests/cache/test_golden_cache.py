"""A whole cache written by the first release: it must open and give the same for as long as the version is 1."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fastload import Cache, FastLoader, _core
from fastload.cache.format.layout import INDEX, RECORD_HEADER, VERSION, Encoding
from fastload.cache.read.verify import verify_cache
from fastload.plan.align import TopLeftAlign
from tests.data.make_golden_cache import batches

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden/cache.lmdb"


def test_it_opens_and_decodes_to_the_same():
    """Fingerprint, sizes, annotations and every plane of every encoding are what they were."""
    cache, known = Cache(GOLDEN), json.loads(GOLDEN.with_suffix(".json").read_text())
    assert verify_cache(GOLDEN) == [] and cache.fingerprint == known["fingerprint"]
    assert cache.encodings.tolist() == list(Encoding) and cache.image_ids.tolist() == [100, 101, 102, 103]
    for i, checksums in enumerate(known["planes"]):
        planes = _core.decode_record(cache.record_bytes(i))[0]
        assert [f"{_core.xxh64(plane.reshape(-1)):016x}" for plane in planes] == checksums
    assert cache.boxes.tolist() == known["boxes"] and cache.box_offsets.tolist() == [0, 0, 1, 3, 6]
    assert cache.labels.tolist() == [0, 0, 1, 0, 1, 0] and cache.crowd.tolist() == [False] * 5 + [True]
    assert cache.annotation_ids.tolist() == [7, 7, 8, 7, 8, 9]
    assert [record.name for record in cache.records()] == ["rgb.jpg", "s411.jpg", "gray_2x2.jpg", "scans_420.jpg"]
    assert [category.name for category in cache.categories] == ["person", "dog"]
    assert [record.size == record.source_size for record in cache.records()] == [True, True, True, False]


def test_its_lossless_records_are_the_pictures():
    """The planes of the pictures that were not made smaller are those of the JPEGs they came from."""
    cache = Cache(GOLDEN)
    for i in range(3):
        expected, _ = _core.decode_planes((DATA / "jpeg" / cache.name(i)).read_bytes())
        planes = _core.decode_record(cache.record_bytes(i))[0]
        assert [plane.tolist() for plane in planes] == [plane.tolist() for plane in expected]


def test_a_loader_reads_it():
    """All its images in one batch, with the annotated sizes."""
    (batch,) = FastLoader(GOLDEN, 4, collate_fn=TopLeftAlign())
    assert batch.targets.original_size.tolist() == Cache(GOLDEN).source_sizes[:, ::-1].tolist()
    assert batch.targets.num_boxes == (0, 1, 2, 3)


def test_its_batches_are_what_they_were():
    """Images bit for bit, and boxes, labels and places on the canvas, of whole, cropped, flipped and mixed images."""
    known = json.loads(GOLDEN.with_suffix(".json").read_text())["batches"]
    for batch, before in zip(batches(), known, strict=True):
        for name, values in before.items():
            exact = values if isinstance(values, str) else pytest.approx(np.array(values), rel=1e-5, abs=1e-4)
            assert (batch[name] if isinstance(values, str) else np.array(batch[name])) == exact, name


def test_the_document_is_complete():
    """docs/format.md names the version, every index array with its type, every header field and every encoding."""
    text = (Path(__file__).parents[2] / "docs/format.md").read_text()
    assert f"version {VERSION}" in text.splitlines()[0]
    types = {"<i8": "int64", "<i4": "int32", "<u8": "uint64", "u1": "uint8", "<f4": "float32"}
    for name, (dtype, _) in INDEX.items():
        assert f"| `{name}` | {types[dtype]} |" in text
    for name in RECORD_HEADER.names:
        dtype, offset = RECORD_HEADER.fields[name][:2]
        assert re.search(rf"\| {offset} \| {dtype.name} \| {name} \|", text), name
    for encoding in Encoding:
        assert f"{encoding:d} {encoding.label}" in text and f"`{encoding.label}`" in text
