"""Where a YOLO dataset keeps its images: by a YAML file, by Darknet's `obj.data`, or by the names of folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fastload.errors import SourceError
from fastload.sources.base import FOUND_ELSEWHERE, MERGED, Problem
from fastload.sources.files import IMAGE_SUFFIXES, images_below, is_below, read_bytes, read_lines

NAME_FILES = ("classes.txt", "obj.names", "names.txt")
_SETTINGS_FILES = ("data.yaml", "data.yml", "dataset.yaml", "obj.data")
SPLITS = ("train", "val", "valid", "test")
OUTSIDE = "its path in the list, {}, points outside the dataset's folder"
_UNSET = ("", "~", "null", "None")
_SETTINGS_BYTES = 1 << 20  # no YAML file of a dataset is larger


@dataclass(frozen=True)
class YoloLayout:
    """The splits of a YOLO dataset, and the settings that its labels are read with.

    Args:
        folder: the dataset's folder, or that of its YAML file.
        settings: what the YAML file says, as text; empty without one.
        homes: the folders that paths are relative to.
        allowed: the folders that images may be in.
        splits: the image folders, list files and images of each split.
        missing: why a stated split cannot be read, by its name.
        problems: the paths of a split that were found elsewhere.
        labels: the folder of label files, if it is given. Default: see `label_paths`.
    """

    folder: Path
    settings: Mapping[str, Any]
    homes: tuple[Path, ...]
    allowed: tuple[Path, ...]
    splits: Mapping[str, list[Path]]
    missing: Mapping[str, str]
    problems: Mapping[str, list[Problem]]
    labels: Path | None = None

    def label_paths(self, image: Path) -> list[Path]:
        """Return where the labels of an image may be, the likeliest first."""
        if self.labels is None:
            return label_paths(image)
        ((images,),) = self.splits.values()
        return [(self.labels / image.relative_to(images)).with_suffix(".txt")]

    def allows(self, path: Path) -> bool:
        """Return whether images may be read from `path`."""
        return any(is_below(path, folder) for folder in self.allowed)

    def class_names(self) -> list[str]:
        """Return the names of the classes. SourceError if there are none."""
        names = self.settings.get("names")
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
        if isinstance(names, dict) and names.keys() == {str(i) for i in range(len(names))}:
            return [str(names[str(i)]) for i in range(len(names))]
        stated = [names] if isinstance(names, str) else []
        candidates = [path for name in (*stated, *NAME_FILES) for path in places(name, self.homes)]
        candidates += [self.folder / "labels" / name for name in NAME_FILES]
        for path in candidates:
            if os.path.isfile(path) and self.allows(path):
                return read_lines(path, "replace")
        raise SourceError(
            f"no class names in {self.folder}: add a YAML file with `names`, numbered from 0, or classes.txt."
        )


def read_layout(root: Path) -> YoloLayout:
    """Read the layout of the YOLO dataset at `root`: a folder, or its YAML file.

    Images must be inside a folder that is given, while a YAML file that is given may name any place.

    Raises:
        SourceError: the YAML file is invalid, or there are several and none is called data.yaml.
    """
    given = root.is_file()
    folder = root.parent if given else root
    file = root if given else _settings_file(folder)
    settings = _read_settings(file) if file else {}
    path = next(iter(_stated(settings.get("path"), "path", file)), ".")
    home = folder / path
    homes = tuple(dict.fromkeys([home, folder])) if os.path.isdir(home) else (folder,)
    stated = {split: texts for split in SPLITS if (texts := _stated(settings.get(split), split, file))}
    if not stated:
        usual = {split: [each] for split, each in _usual_splits(folder).items()}
        return YoloLayout(folder, settings, homes, (folder,), usual, {}, {})
    splits: dict[str, list[Path]] = {}
    missing: dict[str, str] = {}
    problems: dict[str, list[Problem]] = {}
    found = {text: _find(text, homes, None if given else folder) for texts in stated.values() for text in texts}
    lost = Path(path).is_absolute() and home not in homes
    for split, texts in stated.items():
        reason = f"`path` is given as {path}, which does not exist: {folder} is used"
        problems[split] = [Problem(-1, str(file), FOUND_ELSEWHERE, reason)] if lost else []
        for text in texts:
            place, moved, why = found[text]
            clash = _clash(text, found) if moved else None
            if place is None or clash:
                why = why or (f"does not exist, and {place} is also `{clash}`" if clash else "does not exist")
                missing[split] = (
                    f"{file} gives `{split}` as {text}, which {why}. Correct the path, or choose other splits with "
                    "--split."
                )
            elif moved:
                reason = f"`{split}` is given as {text}, which does not exist: {place} is used"
                problems[split].append(Problem(-1, str(file), FOUND_ELSEWHERE, reason))
        splits[split] = [place for place, _, _ in map(found.__getitem__, texts) if place is not None]
    allowed = [folder]
    if given:
        allowed += [*homes, *(path if path.is_dir() else path.parent for paths in splits.values() for path in paths)]
    return YoloLayout(folder, settings, homes, tuple(allowed), splits, missing, problems)


def pair_layout(labels: Path, images: Path, classes: Path | None) -> YoloLayout:
    """Return the layout of a folder of labels and an image folder.

    Args:
        labels: the folder of label files, which have the names of their images, in the same subfolders.
        images: the image folder.
        classes: a YAML file with `names`, or a text file of class names. Default: one that is beside the folders.

    Raises:
        SourceError: there are no label files or no class names, or their file cannot be read.
    """
    if next(labels.rglob("*.txt"), None) is None:
        raise SourceError(f"{labels} holds no label files (*.txt): give the folder that holds them.")
    homes = dict.fromkeys([*_homes(labels), *_homes(images)])
    names = (*_SETTINGS_FILES, *NAME_FILES)
    file = classes or next((path for home in homes for name in names if (path := home / name).is_file()), None)
    if file is None:
        raise SourceError(
            f"{labels} has no class names: looked for {', '.join(names)} in {', '.join(map(str, homes))}. Give a file "
            "of names, one a line, or a YAML file with `names`, by --classes."
        )
    is_settings = file.suffix.lower() in (".yaml", ".yml", ".data")
    settings = _read_settings(file) if is_settings else {"names": read_lines(file, "replace")}
    return YoloLayout(file.parent, settings, (file.parent,), (file.parent, images), {"all": [images]}, {}, {}, labels)


def _homes(folder: Path) -> list[Path]:
    """Return the folders that may hold the class names of a folder of labels or images."""
    folder = Path(os.path.abspath(folder))
    inner = folder.parent.name in ("labels", "images") or folder.parent.name.startswith(SPLITS)
    return [folder, folder.parent, *([folder.parent.parent] if inner else [])]


def looks_like_yolo(root: Path) -> bool:
    """Return whether `root` is the YAML file of a YOLO dataset, or a folder with labels for one of its splits."""
    if root.is_file():
        try:
            return root.stat().st_size < _SETTINGS_BYTES and bool({"names", "train"} & _read_settings(root).keys())
        except SourceError:
            return root.suffix in (".yaml", ".yml")
    try:
        layout = read_layout(root)
    except SourceError:
        return any(_has_labels(folder) for folder in _usual_splits(root).values())
    return bool(layout.missing) or any(_has_labels(path) for paths in layout.splits.values() for path in paths)


@dataclass(frozen=True)
class SplitImages:
    """The images of one split.

    Args:
        reasons: for each image, why it must be skipped, or None.
        folders: the image folders of the split.
        base: the folder that names are relative to.
        problems: repeated entries, and paths that were found elsewhere.
    """

    reasons: Mapping[Path, str | None]
    folders: list[Path]
    base: Path
    problems: list[Problem]


def list_images(layout: YoloLayout, split: str) -> SplitImages:
    """List the images of a split. SourceError if a list file cannot be read."""
    paths, problems = layout.splits[split], list(layout.problems.get(split, ()))
    found: list[tuple[Path, str | None]] = []
    for path in paths:
        if path.is_dir():
            found += [(image, None) for image in images_below(path)]
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            found.append((path, None))
        else:
            entries = _Entries(layout, path)
            found += [entries.find(entry) for entry in read_lines(path)]
            if entries.moved:
                reason = f"{entries.moved} of its paths do not exist: their images were found by the last parts"
                problems.append(Problem(-1, str(path), FOUND_ELSEWHERE, reason))
    reasons = dict(found)
    if repeated := len(found) - len(reasons):
        reason = f"{repeated} entries of `{split}` repeat an earlier one and are merged with it"
        problems.append(Problem(-1, str(paths[0]), MERGED, reason))
    folders = [path for path in paths if path.is_dir()]
    bases = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
    base = Path(os.path.commonpath(bases)) if len(paths) > 1 else paths[0] if folders else paths[0].parent
    return SplitImages(reasons, folders, base, problems)


class _Entries:
    """Finds the images that a list file names, with or without suffix."""

    def __init__(self, layout: YoloLayout, file: Path) -> None:
        self._layout = layout
        self._homes = tuple(dict.fromkeys([file.parent, *layout.homes]))
        self._stems: dict[Path, dict[str, list[Path]]] = {}
        self.moved = 0

    def find(self, entry: str) -> tuple[Path, str | None]:
        """Return the path of an entry, and why the image must be skipped."""
        candidates = list(places(entry, self._homes))
        existing = [path for path in candidates if os.path.isfile(path)]
        for path in existing:
            if self._layout.allows(path):
                return path, None
        if existing or ".." in entry.split("/"):
            return candidates[0], OUTSIDE.format(entry)
        same_stem = [image for path in candidates for image in self._images_of(path)]
        if len(same_stem) > 1:
            return candidates[0], f"{entry} may be {' or '.join(image.name for image in same_stem)}"
        for path in (*same_stem, *last_parts(entry, self._homes)):
            if os.path.isfile(path) and self._layout.allows(path):
                self.moved += not same_stem
                return path, None
        return candidates[0], None if self._layout.allows(candidates[0]) else OUTSIDE.format(entry)

    def _images_of(self, path: Path) -> list[Path]:
        """Return the images in the folder of `path` whose names without suffix are that of `path`."""
        if path.parent not in self._stems:
            stems: dict[str, list[Path]] = {}
            for image in path.parent.glob("*") if self._layout.allows(path) and os.path.isdir(path.parent) else ():
                if image.suffix.lower() in IMAGE_SUFFIXES:
                    stems.setdefault(image.stem, []).append(image)
            self._stems[path.parent] = stems
        return self._stems[path.parent].get(path.name, [])


def label_paths(image: Path) -> list[Path]:
    """Return where the labels of an image may be: `.../labels/a/b.txt` for `.../images/a/b.jpg`, or beside it."""
    beside = Path(os.path.splitext(image)[0] + ".txt")
    parts = beside.parts
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in ("images", "JPEGImages"):
            return [Path(*parts[:i], "labels", *parts[i + 1 :]), beside]
    return [beside]


def places(stated: str, homes: Sequence[Path]) -> Iterator[Path]:
    """Yield where a stated path may be. Roboflow begins paths with `..`, and CVAT with `data`, for its own folder."""
    path = Path(stated)
    yield from (home / path for home in homes)
    inner = [part for part in path.parts if part != ".."]
    if len(inner) < len(path.parts):
        yield from (home.joinpath(*inner) for home in homes)
    if inner[:1] == ["data"]:
        yield from (home.joinpath(*inner[1:]) for home in homes)


def last_parts(stated: str, homes: Sequence[Path]) -> Iterator[Path]:
    """Yield where a path may be that was stated before the dataset was moved, by its last parts, the most first."""
    parts = [part for part in Path(stated.replace("\\", "/")).parts if part not in ("..", "/")]
    for count in range(len(parts), 0, -1):
        yield from (home.joinpath(*parts[-count:]) for home in homes)


def _find(stated: str, homes: Sequence[Path], within: Path | None) -> tuple[Path | None, bool, str | None]:
    """Return the path of a split, whether it is elsewhere than stated, and what is wrong with it."""
    existing = [path for path in places(stated, homes) if os.path.exists(path)]
    inside = [path for path in existing if within is None or is_below(path, within)]
    if inside:
        return inside[0], False, None
    if existing:
        return None, False, f"is outside {within} (to allow that, give the YAML file itself as DATASET)"
    moved = (path for path in last_parts(stated, homes) if os.path.exists(path))
    return next((path for path in moved if within is None or is_below(path, within)), None), True, None


def _clash(stated: str, found: Mapping[str, tuple[Path | None, bool, str | None]]) -> str | None:
    """Return another stated path that shares images with what `stated` was taken for, or None."""
    path = found[stated][0]
    for other, (taken, _, _) in found.items():
        if other != stated and path and taken and (is_below(path, taken) or is_below(taken, path)):
            return other
    return None


def _stated(value: Any, split: str, file: Path | None) -> list[str]:
    paths = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(path, str) for path in paths):
        raise SourceError(f"{file} must give `{split}` as a path or a list of paths, of folders or list files.")
    return [path for path in paths if path not in _UNSET]


def _settings_file(folder: Path) -> Path | None:
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.data")])
    files.sort(key=lambda path: path.stem not in ("data", "dataset"))
    found = []
    for path in files:
        if "names" in _read_settings(path):
            if path.stem in ("data", "dataset"):
                return path
            found.append(path)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{folder} has several files with `names`: {names}. Give one of them as DATASET.")
    return found[0] if found else None


def _read_settings(path: Path) -> dict[str, Any]:
    """Return what a YAML file or Darknet's KEY = VALUE file says, as text: the class `no` stays `no`."""
    try:
        settings = yaml.load(read_bytes(path), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Correct it.") from error
    if isinstance(settings, str):
        pairs = (line.partition("=") for line in read_lines(path) if "=" in line)
        return {key.strip(): value.strip() for key, _, value in pairs}
    return settings if isinstance(settings, dict) else {}


def _usual_splits(root: Path) -> dict[str, Path]:
    """Return the image folders that a dataset without stated splits usually has."""
    images = root / "images"
    named = sorted(path for path in images.glob("*") if path.name.startswith(SPLITS) and path.is_dir())
    splits = {path.name: path for path in named}
    splits |= {split: root / split / "images" for split in SPLITS if (root / split / "images").is_dir()}
    if splits or images.is_dir():
        return splits or {"all": images}
    if not any((root / name).is_file() for name in NAME_FILES):
        return {}
    beside = any(path.with_suffix(suffix).is_file() for path in root.glob("*.txt") for suffix in IMAGE_SUFFIXES)
    return {"all": root} if beside else {}


def _has_labels(images: Path) -> bool:
    if not images.is_dir():
        return True
    labels = label_paths(images / "x.jpg")[0].parent
    if labels.is_dir() and next(labels.glob("*.xml"), None) is None:  # which would be Pascal VOC
        return True
    return next(images.glob("*.txt"), None) is not None
