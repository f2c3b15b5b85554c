"""The annotations of a COCO file as columns, collected batch by batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import POLYGONS, RLE, Column, Ragged, keypoints_column, offsets_of
from fastload.sources.base import Extras
from fastload.sources.coco_values import Mask, areas, boxes, flags, outlines, read_mask, whole_numbers
from fastload.sources.columns import Request
from fastload.sources.flip_pairs import FlipPairs

DROPPED, MASK_DROPPED, KEYPOINTS_DROPPED = "box dropped", "mask dropped", "keypoints dropped"  # kinds of problems


class KeptFields:
    """Those fields of annotations or images that are requested as columns, as `read_columns` takes them."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._names = {Request.of(text).name for text in columns} | {"id"} if columns else set()
        self._seen: dict[str, None] = {}
        self._kept: list[dict[str, Any]] = []

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Keep the fields of further entries."""
        if self._names:
            self._kept += [{name: entry[name] for name in self._names & entry.keys()} for entry in entries]
            self._seen |= dict.fromkeys(chain.from_iterable(entries))

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The fields of each entry. The first entry has every name, since errors list the fields there are."""
        return [self._seen | kept if i == 0 else kept for i, kept in enumerate(self._kept)]


class CocoObjects:
    """The annotations of a COCO file, as arrays with a row an annotation.

    Args:
        extras: what to read besides boxes.
    """

    def __init__(self, extras: Extras) -> None:
        self.kept = KeptFields(extras.columns)
        self.dropped: dict[int, str] = {}  # the reason by row
        self.problems: list[tuple[int, str, str]] = []  # row, kind, reason
        self._extras = extras
        self._count = 0
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._masks: dict[int, Mask] = {}  # by row
        self._unnumbered: dict[int, str] = {}  # the ids that are no whole numbers, by row

    def add(self, entries: list[dict[str, Any]]) -> None:
        """Read the next annotations."""
        self.kept.add(entries)
        ids, has_id = whole_numbers(_values(entries, "id"))
        stated = [i for i in np.flatnonzero(~has_id).tolist() if "id" in entries[i]]
        self._unnumbered |= {self._count + i: shown(entries[i]["id"]) for i in stated}
        images, sound = whole_numbers(_values(entries, "image_id"))
        self._drop(entries, "image_id", sound, "is no whole number")
        labels, sound = whole_numbers(_values(entries, "category_id"))
        self._drop(entries, "category_id", sound, "is no whole number")
        crowd, sound = flags(_values(entries, "iscrowd"))
        self._drop(entries, "iscrowd", sound, "is neither 0 nor 1")
        area = areas(_values(entries, "area"))
        self._append(annotation_id=ids, has_id=has_id, image_id=images, label=labels, crowd=crowd, area=area)
        self._add_boxes(entries)
        if self._extras.keypoints:
            self._add_keypoints(_values(entries, "keypoints"))
        self._count += len(entries)

    def finish(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of boxes by column, and `image_id`. Call it once, after the last `add`."""
        names = ("image_id", "label", "crowd", "area", "boxes", "annotation_id", "has_id")
        arrays = {name: self._joined(name) for name in names}
        has, self._ids = arrays.pop("has_id").astype(np.bool_), arrays["annotation_id"]
        # Annotations without an id are numbered after the others.
        self._ids[~has] = np.max(self._ids, where=has, initial=-1) + 1 + np.arange(np.count_nonzero(~has))
        for row in self._unnumbered:
            self.problems.append((row, "renumbered", f"its id is no whole number: it is {self._ids[row]} here"))
        ordered = np.argsort(self._ids, kind="stable")
        for row in ordered[1:][np.diff(self._ids[ordered]) == 0].tolist():
            self.problems.append((row, "duplicate id", "an earlier annotation has the same id: both are kept"))
        return arrays

    def masks(self, sizes: NDArray[np.int64]) -> dict[Column, Ragged]:
        """Return the columns of outlines and run lengths that there are.

        Args:
            sizes: (n, 2) height and width of the image of each annotation; 0 if unknown.
        """
        found = {}
        counts = self._joined("polygon_counts")
        if counts.any():
            offsets = (offsets_of(counts), offsets_of(self._joined("polygon_lengths")))
            found[POLYGONS] = Ragged(POLYGONS, self._joined("points"), offsets)
        data = [b""] * self._count
        for row, mask in self._masks.items():
            if mask.size == tuple(sizes[row].tolist()):
                data[row] = mask.data
            else:
                (height, width), (image_height, image_width) = mask.size, sizes[row]
                image = f"{image_width} x {image_height}" if image_width and image_height else "not stated"
                reason = f"the size of its mask is {width} x {height}, that of its image is {image}"
                self.problems.append((row, MASK_DROPPED, reason))
        if self._masks:
            found[RLE] = Ragged(RLE, np.frombuffer(b"".join(data), np.uint8), (offsets_of(map(len, data)),))
        return found

    def keypoints(
        self, labels: NDArray[np.int64], counts: Mapping[int, int], flip_pairs: FlipPairs = ()
    ) -> dict[Column, NDArray[np.float32]]:
        """Return the column of keypoints, unless there are none. Objects with fewer keypoints than others are padded.

        Args:
            labels: (n) the categories of the annotations.
            counts: the number of keypoints by category, for those that state it.
            flip_pairs: the pairs of keypoints that are exchanged when an image is mirrored.
        """
        values, lengths = self._joined("keypoints"), self._joined("keypoint_lengths")
        (usual, _), *_ = Counter(lengths[(lengths > 0) & (lengths % 3 == 0)].tolist()).most_common(1) or [(0, 0)]
        most = max(counts.values(), default=0) or usual // 3
        if not most or not lengths.any():
            return {}
        expected = np.full(len(labels), most)
        for category, count in counts.items():
            expected[labels == category] = count
        starts = offsets_of(lengths)[:-1]
        found = np.zeros((len(labels), most, 3), np.float32)
        for count in np.unique(expected).tolist():
            rows = np.flatnonzero((expected == count) & (lengths == 3 * count))
            found[rows, :count] = values[starts[rows, None] + np.arange(3 * count)].reshape(-1, count, 3)
        for row in np.flatnonzero((lengths > 0) & (lengths != 3 * expected)).tolist():
            reason = f"its keypoints are {lengths[row]} numbers, not 3 for each of {expected[row]}"
            self.problems.append((row, KEYPOINTS_DROPPED, reason))
        for row in np.flatnonzero(~np.isfinite(found).all((1, 2))).tolist():
            found[row] = 0
            self.problems.append((row, KEYPOINTS_DROPPED, "its keypoints are not finite"))
        return {keypoints_column(most, flip_pairs): found}

    def name(self, row: int) -> str:
        """Name an annotation by its id in the file."""
        return f"annotation {self._unnumbered.get(row, self._ids[row])}"

    def _add_boxes(self, entries: list[dict[str, Any]]) -> None:
        stated = _values(entries, "bbox")
        found = boxes(stated)
        without = np.array([not box for box in stated], np.bool_)
        masks = [
            entry.get("segmentation") if self._extras.masks or missing else None
            for entry, missing in zip(entries, without.tolist(), strict=True)
        ]
        polygons, reasons = outlines(masks)
        found[without] = polygons.boxes()[without]
        for i, value in enumerate(masks):
            if isinstance(value, dict):
                try:
                    mask = read_mask(value)
                except ValueError as error:
                    reasons.append((i, str(error)))
                    continue
                found[i] = mask.box if without[i] else found[i]
                if self._extras.masks:
                    self._masks[self._count + i] = mask
            elif value is not None and not isinstance(value, (str, list)):
                reasons.append((i, f"its segmentation {shown(value)} is neither polygons nor run lengths"))
        self.problems += [(self._count + i, MASK_DROPPED, reason) for i, reason in reasons]
        self._append(boxes=found)
        if self._extras.masks:
            self._append(points=polygons.points, polygon_lengths=polygons.lengths, polygon_counts=polygons.counts)

    def _add_keypoints(self, values: list[Any]) -> None:
        lists = [value if isinstance(value, list) else [] for value in values]
        try:
            with np.errstate(over="ignore"):
                numbers = np.fromiter(chain.from_iterable(lists), np.float32)
        except (ValueError, TypeError, OverflowError):
            for i, value in enumerate(lists):
                if not all(isinstance(number, (int, float)) and abs(number) < 1e30 for number in value):
                    self.problems.append((self._count + i, KEYPOINTS_DROPPED, "its keypoints are not all numbers"))
                    lists[i] = []
            numbers = np.fromiter(chain.from_iterable(lists), np.float32)
        self._append(keypoints=numbers, keypoint_lengths=np.fromiter(map(len, lists), np.int64, len(lists)))

    def _append(self, **arrays: NDArray[Any]) -> None:
        for name, array in arrays.items():
            self._parts.setdefault(name, []).append(array)

    def _joined(self, name: str) -> NDArray[Any]:
        parts = self._parts.pop(name, [])
        return np.concatenate(parts) if parts else np.zeros((0, 4) if name == "boxes" else 0, np.int64)

    def _drop(self, entries: list[dict[str, Any]], field: str, sound: NDArray[np.bool_], why: str) -> None:
        for i in np.flatnonzero(~sound).tolist():
            self.dropped.setdefault(self._count + i, f"its {field} {shown(entries[i].get(field))} {why}")


def _values(entries: Iterable[dict[str, Any]], field: str) -> list[Any]:
    return [entry.get(field) for entry in entries]


def shown(value: Any) -> str:
    """Return a value as JSON, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
