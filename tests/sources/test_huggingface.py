"""Hugging Face datasets, by a stand-in with the interface that is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from fastload import BuildOptions, Cache, Encoding, SourceError, build_cache
from tests.support.datasets import jpeg

OPTIONS = BuildOptions(Encoding.ORIGINAL, workers=1)


@dataclass
class Image:
    decode: bool = True


@dataclass
class Value:
    dtype: str


@dataclass
class ClassLabel:
    names: list[str]
    dtype: str = "int64"


@dataclass
class List:
    feature: Any


@dataclass
class Stand:
    """A stand-in for `datasets.Dataset`: rows have undecoded images only after a cast."""

    features: dict[str, Any]
    rows: list[dict[str, Any]]
    _fingerprint: str = "1"
    cast: dict[str, Any] = field(default_factory=dict)

    def cast_column(self, name: str, feature: Any) -> Stand:
        return Stand({**self.features, name: feature}, self.rows, self._fingerprint, {**self.cast, name: feature})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert self.cast == {"image": Image(decode=False)}
        return self.rows[index]


def image(**more: Any) -> dict[str, Any]:
    return {"bytes": jpeg(), "path": "a/photo.jpg", **more}


BBOX = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(["cat", "dog"])), "id": List(Value("int64"))}
OLD = List({"bbox": List(Value("float32")), "category": ClassLabel(["cat", "dog"]), "id": Value("int64")})
OLDEST = [OLD.feature]
COLUMNS = {"bbox": [[2, 3, 38, 27]], "category": [1], "id": [7]}


@pytest.mark.parametrize(
    ("objects", "row"),
    [(BBOX, COLUMNS), (OLD, COLUMNS), (OLDEST, [{"bbox": [2, 3, 38, 27], "category": 1, "id": 7}])],
    ids=["dict of lists", "list of dicts", "Python list"],
)
def test_boxes(tmp_path, objects, row):
    """Objects in the forms of all versions; JPEGs keep their bytes; numbers are columns, text is not stored."""
    features = {"image": Image(), "image_id": Value("int64"), "width": Value("int32"), "blur": Value("float32")}
    rows = [{"image": image(), "image_id": 5, "width": 64, "blur": 0.5, "objects": row, "text": "x"}]
    dataset = Stand({**features, "objects": objects, "text": Value("string")}, rows)
    build_cache(dataset, tmp_path / "a.lmdb", OPTIONS, format="xywh")
    cache = Cache(tmp_path / "a.lmdb")
    assert bytes(cache.record(0).data) == jpeg() and cache.record(0).name == "photo.jpg"
    assert cache.boxes.tolist() == [[2, 3, 40, 30]] and cache.labels.tolist() == [1]
    assert cache.image_ids.tolist() == [5] and cache.annotation_ids.tolist() == [7]
    assert [category.name for category in cache.categories] == ["cat", "dog"] and set(cache.columns) == {"blur"}
    with pytest.raises(SourceError, match="how the boxes of `objects` are written: format='xywh'"):
        build_cache(dataset, tmp_path / "b.lmdb", OPTIONS)


def test_classes_of_images_and_fingerprints(tmp_path):
    """A ClassLabel is the class of an image, which may be a path; the dataset's fingerprint tells versions apart."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    features = {"image": Image(), "label": ClassLabel(["cat", "dog"])}
    rows = [{"image": image(), "label": 1}, {"image": image(bytes=None, path=str(path)), "label": 0}]
    for version, built in (("1", True), ("1", False)):
        assert build_cache(Stand(features, rows, version), tmp_path / "a.lmdb", OPTIONS).built == built
    assert Cache(tmp_path / "a.lmdb").columns["class_id"].tolist() == [1, 0]
    with pytest.raises(Exception, match="changed"):
        build_cache(Stand(features, rows, "2"), tmp_path / "a.lmdb", OPTIONS)


def test_features_without_an_image(tmp_path):
    """The error lists the features, and the call that takes samples of one's own."""
    with pytest.raises(SourceError, match=r"one Image feature.* its features are text: Value. Write build_cache\("):
        build_cache(Stand({"text": Value("string")}, []), tmp_path / "a.lmdb", OPTIONS)
