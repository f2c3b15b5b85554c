"""Hugging Face datasets as samples. The package `datasets` is not imported: the objects that are given suffice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastload.annotations import Column
from fastload.errors import SourceError
from fastload.sources.python import BoxFormat, Classes, PythonSource

# The names that datasets use, by the key of a sample.
_OBJECT_KEYS = {
    **dict.fromkeys(("bbox", "bboxes", "boxes"), "boxes"),
    **dict.fromkeys(("category", "categories", "category_id", "label", "labels"), "labels"),
    **dict.fromkeys(("iscrowd", "is_crowd"), "iscrowd"),
    **dict.fromkeys(("area", "keypoints"), ""),
    **dict.fromkeys(("id", "bbox_id"), "annotation_id"),
}
_NOT_STORED = {"width", "height"}  # which the cache has anyway


def is_huggingface(samples: Any) -> bool:
    """Return whether `samples` is a `Dataset` or `IterableDataset` of Hugging Face."""
    return hasattr(samples, "features") and hasattr(samples, "cast_column")


def read_huggingface(
    dataset: Any, classes: Classes | None = None, box_format: BoxFormat | None = None, columns: Sequence[Column] = ()
) -> PythonSource:
    """Return the source of a Hugging Face dataset.

    It has one Image feature. Boxes and labels are a feature of lists, such as `objects` with `bbox` and `category`. A
    ClassLabel feature beside it is the class of the image. Other numbers become columns; text is not stored.

    Args:
        dataset: the dataset.
        classes: see `PythonSource`. Default: the names of the ClassLabel feature.
        box_format: required if there are boxes, because datasets differ.
        columns: see `PythonSource`.

    Raises:
        SourceError: the features are not those of a dataset of images.
    """
    features: Mapping[str, Any] = dataset.features or {}
    images = [name for name, feature in features.items() if _kind(feature) == "Image"]
    objects = [name for name, feature in features.items() if "boxes" in _object_fields(feature).values()]
    if len(images) != 1 or len(objects) > 1:
        found = ", ".join(f"{name}: {_kind(feature)}" for name, feature in features.items()) or "none"
        raise SourceError(
            f"a dataset needs one Image feature, and at most one with boxes, but its features are {found}. Write "
            "build_cache([{'image': row[...], 'boxes': ..., 'labels': ...} for row in dataset], path, classes=[...])."
        )
    if objects and box_format is None:
        raise SourceError(
            f"say how the boxes of `{objects[0]}` are written: format='xywh' as in COCO, 'xyxy' or 'cxcywh'."
        )
    rows = _Rows(dataset.cast_column(images[0], type(features[images[0]])(decode=False)), images[0], objects)
    samples = rows if hasattr(dataset, "__len__") else map(rows.sample, rows.dataset)
    named = rows.classes if classes is None else classes
    return PythonSource(samples, named, box_format or "xyxy", columns, getattr(dataset, "_fingerprint", None))


class _Rows:
    """The rows of a dataset as samples."""

    def __init__(self, dataset: Any, image: str, objects: list[str]) -> None:
        self.dataset, self._image, self._objects = dataset, image, objects
        features = dataset.features
        self._fields = _object_fields(features[objects[0]]) if objects else {}
        labels = [name for name, feature in features.items() if _kind(feature) == "ClassLabel"]
        self._label = labels[0] if labels and not objects else None
        self._numbers = [name for name in features if name != self._label and _is_number(features[name])]
        inner = _inner(features[objects[0]]) if objects else features
        named = [_inner(feature) for feature in inner.values() if _kind(_inner(feature)) == "ClassLabel"]
        self.classes: Sequence[str] | None = named[0].names if named else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample(self.dataset[index])

    def sample(self, row: Mapping[str, Any]) -> dict[str, Any]:
        image = row[self._image]
        sample = {name: row[name] for name in self._numbers if name not in _NOT_STORED}
        sample["image"] = image["path"] if image["bytes"] is None else image["bytes"]
        if image["path"]:
            sample["name"] = image["path"].replace("\\", "/").rpartition("/")[2]
        if self._label:
            sample["class_id"] = row[self._label]
        for objects in (row[name] for name in self._objects):
            for name, key in self._fields.items():
                listed = isinstance(objects, list)
                sample[key] = [each[name] for each in objects] if listed else objects[name]
        return sample


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _inner(feature: Any) -> Any:
    """Return the feature of the elements of a list feature, in the forms of all versions; else the feature itself."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)


def _is_number(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return _kind(feature) in ("Value", "ClassLabel") and dtype.startswith(("int", "uint", "float", "bool"))


def _object_fields(feature: Any) -> dict[str, str]:
    """Return the keys of a sample by the fields of objects: those with a known name, and other numbers."""
    fields = _inner(feature)
    if not isinstance(fields, Mapping):
        return {}
    return {
        name: _OBJECT_KEYS.get(name) or name
        for name, inner in fields.items()
        if name in _OBJECT_KEYS or _is_number(_inner(inner))
    }
