"""Pascal VOC: an XML file per image, images in a folder of their own or beside it, lists in `ImageSets/Main`."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fastload.annotations import Column, Per
from fastload.errors import SourceError
from fastload.sources.base import MERGED, Dataset, Pair, Problem, Sample, box_columns
from fastload.sources.columns import Fields, Request, read_columns
from fastload.sources.files import (
    CACHE_FOLDER,
    IMAGE_SUFFIXES,
    digest_of,
    images_below,
    inside,
    number_categories,
    number_images,
    read_lines,
    unlisted_images,
)
from fastload.sources.listed import split_beside

OUTSIDE = "its name in the list, {}, points outside the image folder"
FLAGS = ("difficult", "truncated", "occluded")
_FALSE, _TRUE = ("0", "false", "no", "unspecified", ""), ("1", "true", "yes")
_ANNOTATION_FOLDERS = ("annotations", "annotation", "annots", "xmls", "xml", "labels")
_IMAGE_FOLDERS = ("jpegimages", "images", "imgs", "img")
_SPLIT_FOLDERS = ("train", "val", "test")  # how the names of folders of splits begin
_ROOT = re.compile(rb"<(\w+:)?annotation[\s>]", re.IGNORECASE)
_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # a line in the list of a class: the image, and whether it shows it
_ENCODING = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([^"']+)""")
_TAGS = {"object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax", "size", "width", "height", "filename", *FLAGS}


class Folders(NamedTuple):
    """Where the XML files and the images of a dataset or a split are."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class VocObject:
    """One object in an annotation file."""

    name: str
    xyxy: list[float]
    flags: dict[str, str]  # those of FLAGS that it has, as written
    fields: Fields  # its elements that hold a single value


@dataclass(frozen=True)
class VocFile:
    """What an annotation file says, or `reason`: why it cannot be read."""

    objects: list[VocObject] = field(default_factory=list)
    size: tuple[int, int] | None = None
    filename: str = ""
    fields: Fields = field(default_factory=dict)
    reason: str | None = None


def voc_folders(root: Path) -> dict[str, Folders]:
    """Return the folders of the dataset at `root` as {"": ...}, or those of its splits by name; {} if there are none.

    XML files are beside the images or in a folder beside theirs: in `root`, in `root/train` and so on, or in folders
    such as `annotations/train` and `images/train`.
    """
    whole = _pair(root)
    if whole:
        return {"": whole}
    children = _subfolders(root)
    splits = {child.name: pair for child in children if child.name.startswith(_SPLIT_FOLDERS) if (pair := _pair(child))}
    if splits:
        return splits
    images = next((child for child in children if child.name.lower() in _IMAGE_FOLDERS), None)
    homes = (child for child in children if child.name.lower() in _ANNOTATION_FOLDERS)
    parts = (part for home in homes for part in _subfolders(home) if images and (images / part.name).is_dir())
    return {part.name: Folders(part, images / part.name) for part in parts if images and has_xml(part)}


def voc_splits(root: Path) -> list[str]:
    """Return the names of the splits: lists of images, except those of one class, or folders, or `all`."""
    folders = voc_folders(root)
    return sorted(_lists(root, folders)) or ([name for name in folders if name] or ["all"])


def pair(given: Pair) -> Dataset:
    """Return the dataset of one folder of XML files and one image folder."""
    home = Folders(given.annotations, given.images)
    if not has_xml(home.annotations):
        raise SourceError(f"{home.annotations} holds no VOC annotations (*.xml): give the folder that holds them.")
    names = read_lines(given.classes) if given.classes else ()
    return split_beside(
        home.annotations, partial(VocSource, home.annotations, "all", given.extras.columns, home, names)
    )


class VocSource:
    """One split of a VOC folder: a list of images, a folder, or `all`, which has every image.

    VOC counts pixels from 1 and a box includes its last pixel, so x0 = xmin - 1 and x1 = xmax. Objects marked
    difficult become crowds, which are ignored in training and evaluation. `difficult`, `truncated` and `occluded` are
    columns if the files have them. The classes are those of the whole folder, sorted by name, so that all splits have
    the same category ids. An image without an annotation file is skipped, and is not taken as background.

    Args:
        root: the folder.
        split: the name of the split, one of `voc_splits(root)`.
        columns: extra fields of objects or images to keep, such as `pose` (see `Request`).
        folders: the folders of XML files and images, of which `all` is the only split. Default: those found in `root`.
        classes: the names of the classes, in order. Default: those of the objects, sorted.

    Raises:
        SourceError: the list cannot be read, there is no such split, or no such field.
    """

    format = "voc"

    def __init__(
        self,
        root: Path,
        split: str,
        columns: Sequence[str] = (),
        folders: Folders | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.location = f"{root} ({split})"
        pairs = {"": folders} if folders else voc_folders(root)
        lists = {} if folders else _lists(root, pairs)
        if split not in (lists or pairs) and (split != "all" or "" not in pairs):
            raise SourceError(f"{root} has no split {split}: choose from {', '.join(voc_splits(root))}.")
        home = pairs.get(split) or pairs[""]
        contents = {each: _read(each) for pair in pairs.values() for each in _xml_files(pair.annotations)}
        parsed = {path: _parse(content) for path, content in contents.items()}
        files = {path.stem: file for path, file in parsed.items() if path.parent == home.annotations}
        names = classes or sorted({each.name for file in parsed.values() for each in file.objects if each.name})
        self.categories = number_categories(names)
        self._category_id = {category.name: category.id for category in self.categories}
        images = _Images(home)
        entries = lists[split] if split in lists else sorted({*files, *(images.stems.keys() - images.taken(files))})
        self.stems = list(dict.fromkeys(images.stem_of(entry, files) for entry in entries))
        self._files = [files.get(stem) or _missing(home, stem) for stem in self.stems]
        self.files = [images.of(stem, file.filename) for stem, file in zip(self.stems, self._files, strict=True)]
        self.image_ids = number_images(self.files)
        self._extra = self._read_extra(columns)
        wanted = {Request.of(column).name for column in columns}
        present = {name for file in parsed.values() for each in file.objects for name in each.flags}
        self._flags = tuple(Column(name, "bool") for name in FLAGS if name in present - wanted)
        self.columns = (*(column for column, _ in self._extra), *self._flags)
        content_of = {path.stem: content for path, content in contents.items() if path.parent == home.annotations}
        listed = [_encoded(f"{stem}\n") + _encoded(content_of.get(stem, b"")) for stem in self.stems]
        self.digest = digest_of("\n".join(names).encode(), *listed)
        self.problems = tuple(self._problems(len(entries) - len(self.stems)))
        if split in lists:
            where = str(root / "ImageSets" / "Main")
            entries = [entry for other in lists.keys() - {split} for entry in lists[other]]
            self.problems += tuple(unlisted_images(self.files, where, lambda: images.names_of(entries, files)))

    def __len__(self) -> int:
        return len(self.stems)

    def samples(self, start: int = 0) -> Iterator[Sample]:
        """Yield the images of the split from position `start` on."""
        first = sum(len(file.objects) for file in self._files[:start])
        for i in range(start, len(self)):
            file, path = self._files[i], self.files[i]
            columns, reason = self._columns_of(i, file.objects, first), file.reason
            first += len(file.objects)
            yield Sample(self.image_ids[i], path.name, path, columns, size=file.size, skip_reason=reason)

    def _entries(self) -> Iterator[tuple[str, VocFile]]:
        return zip(self.stems, self._files, strict=True)

    def _problems(self, repeated: int) -> Iterator[Problem]:
        if repeated:
            reason = f"{repeated} names repeat an earlier one and are merged with it"
            yield Problem(-1, self.location, MERGED, reason)
        for i, file in enumerate(self._files):
            for number, each in enumerate(file.objects, 1):
                for name, text in each.flags.items():
                    if _flag(text) is None:
                        reason = f"object {number}: `{name}` is {text!r}, which is neither 0 nor 1: it is taken as 0"
                        yield Problem(self.image_ids[i], self.files[i].name, "flag ignored", reason)

    def _columns_of(self, i: int, objects: list[VocObject], first: int) -> dict[str, NDArray[Any]]:
        """Return the columns of image i with `objects`; the images before it have `first` objects."""
        columns = box_columns([(each.xyxy, self._category_id.get(each.name, -1)) for each in objects], 1 + first)
        columns["crowd"] = np.array([bool(_flag(each.flags.get("difficult", "0"))) for each in objects], np.bool_)
        for flag in self._flags:
            columns[flag.name] = np.array([bool(_flag(each.flags.get(flag.name, "0"))) for each in objects], np.bool_)
        rows = slice(first, first + len(objects))
        extra = {column.name: values[rows if column.per == "object" else i] for column, values in self._extra}
        return columns | extra

    def _read_extra(self, columns: Sequence[str]) -> list[tuple[Column, NDArray[Any]]]:
        objects = [(stem, each.fields) for stem, file in self._entries() for each in file.objects]
        images = [(stem, file.fields) for stem, file in self._entries()]
        entries: dict[Per, list[tuple[str, Fields]]] = {"object": objects, "image": images}
        fields: dict[Per, list[Fields]] = {per: [each for _, each in entries[per]] for per in entries}
        return read_columns(columns, fields, self.location, lambda per, i: f"{entries[per][i][0]}.xml")


class _Images:
    """The images of a folder, by the names that lists and XML files use."""

    def __init__(self, home: Folders) -> None:
        self._home = home
        beside = home.annotations == home.images or home.images in home.annotations.parents
        found = [path for path in images_below(home.images) if not beside or path.parent == home.images]
        self._names = {path.name: path for path in found}
        self.stems: dict[str, list[Path]] = {}
        for path in found:
            self.stems.setdefault(path.stem, []).append(path)

    def of(self, stem: str, filename: str) -> Path:
        """Return the image of an XML file: the one of its name, else the one that it states."""
        same = self.stems.get(stem, [])
        stated = self._names.get(filename)
        if stated and (stated in same or not same):
            return stated
        suffix = "" if Path(stem).suffix.lower() in IMAGE_SUFFIXES else ".jpg"
        return same[0] if same else self._home.images / f"{stem}{suffix}"

    def names_of(self, entries: list[str], files: dict[str, VocFile]) -> set[str]:
        """Return the file names of the images of entries in lists."""
        stems = {self.stem_of(entry, files) for entry in entries}
        return {self.of(stem, files[stem].filename if stem in files else "").name for stem in stems}

    def taken(self, files: dict[str, VocFile]) -> set[str]:
        """Return the stems of the images that XML files of other names state."""
        return {self.of(stem, file.filename).stem for stem, file in files.items()}

    def stem_of(self, entry: str, files: dict[str, VocFile]) -> str:
        """Return the name without suffix of an entry in a list, which may have the suffix of an image."""
        path = Path(entry)
        names = (entry, path.stem, path.name) if path.suffix.lower() in IMAGE_SUFFIXES else (entry, path.name)
        known = (name for name in names if name in files or name in self.stems)
        return entry if inside(self._home.images, entry) is None else next(known, entry)


def _missing(home: Folders, stem: str) -> VocFile:
    if inside(home.images, stem) is None:
        return VocFile(reason=OUTSIDE.format(stem))
    return VocFile(reason=f"it has no annotation file: there is no {home.annotations / stem}.xml")


def _subfolders(folder: Path) -> list[Path]:
    folders = sorted(each for each in folder.glob("*") if each.is_dir())
    return [each for each in folders if not each.name.startswith(".") and each.name != CACHE_FOLDER]


def _pair(root: Path) -> Folders | None:
    """Return the one folder of XML files and the one folder of images in `root`, each of which may be `root`."""
    children = _subfolders(root)
    annotations = _only([child for child in children if has_xml(child)], _ANNOTATION_FOLDERS)
    if annotations is None and not has_xml(root):
        return None
    here = _has_image(root)
    others = [] if here and annotations is None else [each for each in children if each != annotations]
    images = _only([each for each in others if _has_image(each) or each.name.lower() in _IMAGE_FOLDERS], _IMAGE_FOLDERS)
    images = images or (root if here else None)
    return Folders(annotations or root, images or root) if images or annotations is None else None


def _only(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    """Return the folder with the first of the usual `names`, or else the only folder."""
    usual = [folder for name in names for folder in folders if folder.name.lower() == name]
    return usual[0] if usual else folders[0] if len(folders) == 1 else None


def _xml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.[xX][mM][lL]") if not path.name.startswith("."))


def has_xml(folder: Path) -> bool:
    """Return whether one of the first XML files in `folder` is an annotation."""
    for path in islice(folder.glob("*.[xX][mM][lL]"), 20):
        with suppress(OSError), open(path, "rb") as stream:
            if _ROOT.search(stream.read(1 << 14)):
                return True
    return False


def _has_image(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.glob("*"))


def _lists(root: Path, folders: dict[str, Folders]) -> dict[str, list[str]]:
    """Return the entries of each list of images, as written.

    A list of one class, such as `dog_train.txt` beside `train.txt`, has a flag in each line, and is no split.
    """
    lists = {path.stem: read_lines(path) for path in sorted((root / "ImageSets" / "Main").glob("*.txt"))}
    splits, known = {}, None
    for name, entries in lists.items():
        flagged = [_FLAGGED.fullmatch(entry) for entry in entries]
        if entries and all(flagged):
            known = known or {path.stem for home in folders.values() for path in _xml_files(home.annotations)}
            if not known.intersection(entries):
                if any(name.endswith(f"_{other}") for other in lists):
                    continue
                entries = [match[1] for match in flagged if match]
        splits[name] = entries
    return splits


def _read(path: Path) -> bytes | str:
    """Return the content of a file, or why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error.strerror or str(error)


def _encoded(text: bytes | str) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _parse(content: bytes | str) -> VocFile:
    if isinstance(content, str):
        return VocFile(reason=f"its annotations cannot be read: {content}")
    try:
        tree, encoding = _tree(content)
    except (ElementTree.ParseError, ValueError) as error:
        return VocFile(reason=f"its annotations cannot be read: {error}")
    for each in tree.iter():
        each.tag = _plain_tag(each.tag)
    if tree.tag.lower() != "annotation":
        return VocFile(reason=f"its annotations are no VOC file: they begin with <{tree.tag}>")
    objects = [_object(each) for each in tree.iter("object")]
    if any("\ufffd" in each.name for each in objects):
        return VocFile(reason=f"the name of a class is not {encoding}: save its XML file as UTF-8")
    width, height = (int(_number(tree, f"size/{side}", 0)) for side in ("width", "height"))
    size = (width, height) if width and height else None
    return VocFile(objects, size, (tree.findtext("filename") or "").strip(), _fields(tree))


@lru_cache(1 << 10)
def _plain_tag(tag: str) -> str:
    """Return a tag without namespace, and in lower case if it is one that is read here."""
    local = tag.rpartition("}")[2]
    return local.lower() if local.lower() in _TAGS else local


def _tree(content: bytes) -> tuple[ElementTree.Element, str]:
    """Parse XML in an encoding that expat or Python knows, or else as UTF-8; return its root and the encoding."""
    try:
        return ElementTree.fromstring(content), "utf-8"
    except (ElementTree.ParseError, ValueError, LookupError):
        stated = _ENCODING.match(content.lstrip(codecs.BOM_UTF8))
        encoding = stated[1].decode("ascii", "replace") if stated else "utf-8"
        try:
            encoding = "gb18030" if codecs.lookup(encoding).name in ("gb2312", "gbk") else encoding
            text = content.decode(encoding, "replace")
        except (LookupError, ValueError):
            encoding = "utf-8"
            text = content.decode(encoding, "replace")
        return ElementTree.fromstring(text.lstrip("\ufeff")), encoding


def _object(each: ElementTree.Element) -> VocObject:
    xmin, ymin, xmax, ymax = (_number(each, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    name = (each.findtext("name") or "").strip()
    flags = {flag: (text or "").strip() for flag in FLAGS if (text := each.findtext(flag)) is not None}
    return VocObject(name, [xmin - 1, ymin - 1, xmax, ymax], flags, _fields(each))


def _flag(text: str) -> bool | None:
    """Return the value of a flag, or None if it has none."""
    if text.lower() in _FALSE + _TRUE:
        return text.lower() in _TRUE
    try:
        number = float(text)
    except ValueError:
        return None
    return bool(number) if np.isfinite(number) else None


def _fields(tree: ElementTree.Element) -> Fields:
    """Return the children that hold a single value, as a number if it is one."""
    return {child.tag: _value(child.text) for child in tree if len(child) == 0 and child.text}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def _number(tree: ElementTree.Element, path: str, default: float = np.nan) -> float:
    try:
        number = float(tree.findtext(path) or default)
    except ValueError:
        return default
    return number if abs(number) < 1e9 else default
