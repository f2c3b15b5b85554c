"""Building: complete, in order, resumable, exclusive, with skipped images listed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastload
import fastload._core as _core
from fastload.cache.format.layout import Encoding
from fastload.cache.format.problems import read_problems
from fastload.cache.read.verify import verify_cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.write.fitting import turn_boxes
from fastload.cache.write.writer import CacheWriter
from fastload.errors import CacheError, SourceError
from fastload.sources.detect import Format, find_datasets
from tests.support.datasets import awkward_jpegs, box, encoded, jpeg, many_jpegs, pixels, write_coco
from tests.support.killing import kill_until_done, start


def build(root: Path, **options):
    dataset = find_datasets(root)[0]
    options = {"encoding": Encoding.ORIGINAL, "workers": 2, **options}
    return build_cache(dataset.load(), dataset.cache, BuildOptions(**options))


def problems(root: Path) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = {}
    for problem in read_problems(find_datasets(root)[0].cache):
        found.setdefault(problem.image_id, []).append((problem.kind, problem.reason))
    return found


def contents(path: Path) -> tuple:
    """Records and index, byte for byte."""
    cache = fastload.Cache(path)
    index = {name: array.tobytes() for name, array in cache._mapping.index.items()}
    return [bytes(cache.record_bytes(i)) for i in range(len(cache))], index, cache.manifest.to_bytes()


def leftovers(root: Path) -> set[str]:
    return {path.name for path in (root / "fastload").iterdir()}


def test_nothing_but_the_cache_is_left(tmp_path):
    """A build leaves the cache and nothing else beside it; its report counts what is in it."""
    root = write_coco(tmp_path, many_jpegs(20))
    report = build(root)
    assert leftovers(root) == {"train.lmdb"}
    assert (report.images, report.boxes, report.categories, report.built) == (20, 20, 2, True)
    assert report.bytes == report.path.stat().st_size and not report.problems
    assert verify_cache(report.path) == []


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_order_is_the_sources(tmp_path, workers):
    """Whatever the number of workers, the cache is the same to the byte."""
    root = write_coco(tmp_path, many_jpegs(40))
    build(root, workers=1)
    one = contents(tmp_path / "fastload/train.lmdb")
    build(root, workers=workers, overwrite=True)
    assert contents(tmp_path / "fastload/train.lmdb") == one


def test_problem_images_are_skipped_and_listed(tmp_path):
    """Each image that cannot be stored is skipped with a reason; the others keep their order and boxes."""
    good = jpeg()
    files = {
        "good.jpg": good,
        "missing.jpg": good,
        "truncated.jpg": good[:-200],
        "text.jpg": b"not found",
        "empty.jpg": b"",
        "wrong-size.jpg": jpeg(60, 48),
        "turned.jpg": jpeg(48, 64),
        "really.png.jpg": encoded(pixels(64, 48), "PNG"),
        "last.jpg": good,
    }
    root = write_coco(tmp_path, files)
    (root / "train/missing.jpg").unlink()
    document = json.loads((root / "annotations/instances_train.json").read_text())
    document["images"].insert(1, document["images"][0] | {"file_name": "last.jpg"})  # its id is taken
    document["images"].append({"id": 500, "file_name": "../train/good.jpg"})
    (root / "annotations/instances_train.json").write_text(json.dumps(document))
    report = build(root)
    cache = fastload.Cache(report.path)
    assert [record.name for record in cache.records()] == ["good.jpg", "really.png.jpg", "last.jpg"]
    assert [record.boxes[0, 2] for record in cache.records()] == [11, 18, 19]
    assert report.problems == {"skipped": 8, "converted": 1}
    found = problems(root)
    assert {id: kinds[0][0] for id, kinds in found.items()} == {
        **dict.fromkeys([10, 20, 30, 40, 50, 60, 70, 500], "skipped"),
        80: "converted",
    }
    reasons = {10: "id 10", 20: "missing", 30: "truncated", 40: "not an image", 50: "empty", 80: "PNG"}
    reasons |= {60: "wrong size: the image is 60", 70: "--exif-rotate", 500: "points outside"}
    for id, word in reasons.items():
        assert word in found[id][0][1], found[id]
    lines = (root / "fastload/train.problems.jsonl").read_text().splitlines()
    assert all(set(json.loads(line)) == {"image_id", "file", "kind", "reason"} for line in lines)


def test_boxes_are_fitted(tmp_path):
    """Boxes are clipped to the picture; those without area, outside or of no class are dropped; all is told."""
    boxes = [
        box(1, 10, [0, 0, 64, 48]),
        box(2, 10, [-5, -5, 10, 10]),
        box(3, 10, [60, 40, 10.25, 8.25], 18),
        box(4, 10, [100, 100, 5, 5]),
        box(5, 10, [5, 5, 0, 5]),
        box(6, 10, [5, 5, 5, -5]),
        box(7, 10, [1, 1, 5, 5], 77),
        box(8, 10, [float("nan"), 1, 5, 5]),
        box(9, 10, [1, 1]),
        box(10, 10, [0, 0, 64.3, 48.3]),
        box(11, 10, [30, 30, 1e-7, 5]),
        box(12, 10, [0, 0, float("inf"), 10]),
    ]
    root = write_coco(tmp_path, {"a.jpg": jpeg()}, boxes)
    report = build(root)
    record = fastload.Cache(report.path).record(0)
    assert record.annotation_ids.tolist() == [1, 2, 3, 10]
    assert record.boxes.tolist() == [[0, 0, 64, 48], [0, 0, 5, 5], [60, 40, 64, 48], [0, 0, 64, 48]]
    assert record.labels.tolist() == [0, 0, 1, 0] and record.area.tolist() == [64 * 48, 25, 32, 64 * 48]
    assert report.problems == {"box dropped": 8, "box clipped": 2}
    told = {reason.split()[1]: (kind, reason) for kind, reason in problems(root)[10]}
    for id, word in {"4": "outside", "5": "no area", "7": "unknown category 77", "8": "not four numbers"}.items():
        assert told[id][0] == "box dropped" and word in told[id][1]


def test_greyscale_and_converted_pictures_decode(tmp_path):
    """Grey, CMYK, palette, 16-bit and WebP pictures are all in the cache and decode to three or one planes."""
    picture = Image.fromarray(pixels(64, 48))
    files = {
        "gray.jpg": encoded(picture.convert("L")),
        "cmyk.jpg": encoded(picture.convert("CMYK")),
        "palette.png": encoded(picture.quantize(16), "PNG"),
        "deep.png": encoded(Image.fromarray(pixels(64, 48, channels=1).astype(np.uint16) * 257), "PNG"),
        "web.webp": encoded(picture, "WEBP"),
    }
    root = write_coco(tmp_path, files)
    report = build(root)
    assert report.images == 5 and report.problems == {"converted": 4}
    assert verify_cache(report.path) == []
    planes = [len(_core.decode_planes(record.data)[0]) for record in fastload.Cache(report.path).records()]
    assert planes == [1, 3, 3, 1, 3]


@pytest.mark.parametrize("encoding", list(Encoding))
def test_every_encoding_holds_the_same_pixels(tmp_path, encoding):
    """However payloads are encoded, the records decode to the planes of the original JPEG."""
    files = {"a.jpg": jpeg(), "b.jpg": jpeg(subsampling=2, progressive=True), "c.jpg": encoded(pixels(64, 48, 1, 1))}
    root = write_coco(tmp_path, files)
    report = build(root, encoding=encoding)
    cache = fastload.Cache(report.path)
    assert cache.encodings.tolist() == [encoding] * 3 and verify_cache(report.path) == []
    assert cache.manifest.encoding == encoding.label
    for i, data in enumerate(files.values()):
        planes, expected = _core.decode_record(cache.record_bytes(i))[0], _core.decode_planes(data)[0]
        assert len(planes) == len(expected) and all(map(np.array_equal, planes, expected))


def marked(orientation: int) -> tuple[bytes, list[float]]:
    """A 64 x 48 JPEG with a white rectangle and an EXIF orientation; the rectangle in stored pixels."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:16, 16:48] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, quality=95, subsampling=0, exif=exif), [16, 8, 48, 16]


def white_part(record) -> list[int]:
    bright = _core.decode_planes(record.data)[0][0] > 128
    ys, xs = np.where(bright)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    ("drawn_on", "orientation"),
    [*(("upright", turn) for turn in range(2, 9)), *(("stored", turn) for turn in range(5, 9))],
)
def test_boxes_stay_right_when_pictures_are_turned(tmp_path, orientation, drawn_on):
    """With exif_rotate the boxes surround the same thing: those drawn on the upright picture as they are, and those of
    a source that states the stored size, which quarter turns show, turned with it."""
    data, stored = marked(orientation)
    upright = turn_boxes(np.array([stored], float), orientation, (64, 48))[0]
    size = (48, 64) if orientation >= 5 else (64, 48)
    x0, y0, x1, y1 = upright if drawn_on == "upright" else stored
    sizes = {"a.jpg": size if drawn_on == "upright" else (64, 48)}
    root = write_coco(tmp_path, {"a.jpg": data}, [box(1, 10, [x0, y0, x1 - x0, y1 - y0])], sizes=sizes)
    report = build(root, exif_rotate=True)
    record = fastload.Cache(report.path).record(0)
    assert record.size == size and record.boxes[0].tolist() == upright.tolist()
    assert np.abs(np.array(white_part(record)) - record.boxes[0]).max() <= 1
    assert problems(root)[10][0][0] == "converted"


def test_orientation_is_ignored_by_default(tmp_path):
    """Without exif_rotate the stored pixels and the annotations' boxes are kept as they are."""
    data, stored = marked(6)
    x0, y0, x1, y1 = stored
    root = write_coco(tmp_path, {"a.jpg": data}, [box(1, 10, [x0, y0, x1 - x0, y1 - y0])])
    record = fastload.Cache(build(root).path).record(0)
    assert bytes(record.data) == data and record.boxes[0].tolist() == stored == white_part(record)


def test_relative_boxes_take_the_real_size(tmp_path):
    """YOLO boxes become pixels of the decoded picture."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("thing\n")
    (tmp_path / "images/a.jpg").write_bytes(jpeg(200, 100))
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n0 0.95 0.5 0.3 0.2\n")
    record = fastload.Cache(build(tmp_path).path).record(0)
    assert record.boxes.tolist() == [[50, 25, 150, 75], [160, 40, 200, 60]]


def test_a_folder_of_pictures(tmp_path):
    """A folder without annotations becomes a cache of images without boxes or classes."""
    for name, data in many_jpegs(3).items():
        (tmp_path / name).write_bytes(data)
    dataset = find_datasets(tmp_path, Format.FOLDER)[0]
    build_cache(dataset.load(), dataset.cache, BuildOptions())
    cache = fastload.Cache(dataset.cache)
    assert len(cache) == 3 and cache.categories == () and cache.images_without_boxes.tolist() == [0, 1, 2]
    assert build_cache(dataset.load(), dataset.cache, BuildOptions()).built is False


def test_up_to_date_and_changed_sources(tmp_path):
    """Built again, an unchanged source is up to date; a changed one, or other options, ask for overwrite."""
    root = write_coco(tmp_path, many_jpegs(5))
    first = build(root)
    stamp = first.path.stat().st_mtime_ns
    again = build(root)
    assert not again.built and again.images == 5 and first.path.stat().st_mtime_ns == stamp
    with pytest.raises(CacheError, match=r"exif_rotate differ.*--overwrite"):
        build(root, exif_rotate=True)
    write_coco(tmp_path, many_jpegs(6))
    with pytest.raises(CacheError, match=r"annotations have changed.*--overwrite"):
        build(root)
    assert build(root, overwrite=True).images == 6


def test_a_damaged_cache_asks_for_overwrite(tmp_path):
    """Over a file that is no cache nothing is built unasked."""
    root = write_coco(tmp_path, many_jpegs(2))
    build(root)
    (root / "fastload/train.lmdb").write_bytes(b"x" * 9000)
    with pytest.raises(CacheError, match="--overwrite"):
        build(root)
    assert build(root, overwrite=True).images == 2


def test_strict(tmp_path):
    """With strict, a skipped image fails the build and an older cache stays; an up-to-date cache fails as well."""
    root = write_coco(tmp_path, many_jpegs(4))
    build(root)
    (root / "train/00002.jpg").write_bytes(b"x")
    with pytest.raises(CacheError, match=r"1 images were skipped.*problems.jsonl"):
        build(root, strict=True, overwrite=True)
    assert len(fastload.Cache(root / "fastload/train.lmdb")) == 4
    assert leftovers(root) == {"train.lmdb", "train.problems.jsonl"}
    build(root, overwrite=True)
    with pytest.raises(CacheError, match="1 images were skipped"):
        build(root, strict=True)
    (root / "train/00002.jpg").write_bytes(encoded(pixels(64, 48), "PNG"))
    assert build(root, strict=True, overwrite=True).problems == {"converted": 1}


def test_problems_files_of_older_versions(tmp_path):
    """A problems file that says "left out", as older versions wrote, is read as "skipped" and fails a strict build."""
    root = write_coco(tmp_path, {"a.jpg": jpeg(), "b.jpg": b"x"})
    listed = build(root).path.with_suffix(".problems.jsonl")
    listed.write_text(listed.read_text().replace('"skipped"', '"left out"'))
    assert [problem.kind for problem in read_problems(root / "fastload/train.lmdb")] == ["skipped"]
    with pytest.raises(CacheError, match="1 images were skipped"):
        build(root, strict=True)


def test_problems_of_an_older_build_go(tmp_path):
    """When a new build meets no problem, the old list of problems is removed."""
    root = write_coco(tmp_path, many_jpegs(2) | {"x.jpg": b"x"})
    build(root)
    (root / "train/x.jpg").write_bytes(jpeg())
    assert not build(root, overwrite=True).problems and leftovers(root) == {"train.lmdb"}


def test_nothing_left_is_an_error(tmp_path):
    """A source without images, or whose images all fail, is an error and leaves no cache."""
    with pytest.raises(SourceError, match="lists no images"):
        build(write_coco(tmp_path / "a", {}))
    root = write_coco(tmp_path / "b", {"x.jpg": b"x"})
    with pytest.raises(CacheError, match="all 1 images"):
        build(root)
    assert leftovers(root) == {"train.problems.jsonl"}


BUILD = """
import sys, time
import fastload.cache.write.assemble as module
from pathlib import Path
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.format.layout import Encoding
from fastload.sources.detect import find_datasets
module.COMMIT_BYTES, module.COMMIT_SECONDS = 20_000, 0.02
dataset = find_datasets(Path(sys.argv[1]))[0]
def progress(done, total):
    print(done, flush=True)
    time.sleep(0.001)  # so that whoever reads along is not far behind
options = BuildOptions(Encoding.ORIGINAL, workers=2, overwrite=len(sys.argv) > 2)
build_cache(dataset.load(), dataset.cache, options, progress)
"""


def start_build(root: Path, *more: str) -> subprocess.Popen:
    return start([BUILD, root, *more])


@pytest.fixture(scope="module")
def awkward_set(tmp_path_factory) -> Path:
    """300 images, some of them skipped or converted, with an undisturbed build of them."""
    root = write_coco(tmp_path_factory.mktemp("awkward"), awkward_jpegs(300))
    build(root)
    return root


def test_killed_at_any_moment_it_carries_on(awkward_set, tmp_path):
    """kill -9 again and again at random moments, then finished: the same cache and problems as undisturbed; until
    then no cache is there, or all of it."""
    root = tmp_path / "set"
    shutil.copytree(awkward_set, root, ignore=shutil.ignore_patterns("fastload"))
    cache, whole = root / "fastload/train.lmdb", contents(awkward_set / "fastload/train.lmdb")[:2]

    def nothing_or_all() -> None:
        assert not cache.exists() or contents(cache)[:2] == whole

    runs = kill_until_done([BUILD, root], lines=(5, 60), seed=5, after_kill=nothing_or_all)
    assert runs.kills >= 3 and max(runs.starts) > 0
    assert contents(cache)[:2] == whole
    expected = (awkward_set / "fastload/train.problems.jsonl").read_text()
    assert (root / "fastload/train.problems.jsonl").read_text() == expected
    assert leftovers(root) == {"train.lmdb", "train.problems.jsonl"}


def test_killed_while_replacing_the_old_cache_stays(awkward_set, tmp_path):
    """A build over an old cache that is killed leaves the old one whole."""
    root = tmp_path / "set"
    shutil.copytree(awkward_set, root)
    before = contents(root / "fastload/train.lmdb")
    process = start_build(root, "overwrite")
    for _ in range(100):
        process.stdout.readline()
    process.kill()
    process.wait()
    assert contents(root / "fastload/train.lmdb") == before
    assert "train.lmdb.partial" in leftovers(root)
    assert build(root, overwrite=True).resumed > 0 and "train.lmdb.partial" not in leftovers(root)


def test_killed_before_the_last_rename(awkward_set, tmp_path, monkeypatch):
    """When all is written and only the rename is missing, the next run does just that."""
    root = tmp_path / "set"
    shutil.copytree(awkward_set, root, ignore=shutil.ignore_patterns("fastload"))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastload.cache.write.writer.os.replace", killed)
    monkeypatch.setattr("fastload.cache.write.build.write_problems", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        build(root)
    monkeypatch.undo()
    assert leftovers(root) == {"train.lmdb.partial"}
    build(root)
    assert contents(root / "fastload/train.lmdb")[:2] == contents(awkward_set / "fastload/train.lmdb")[:2]
    assert leftovers(root) == {"train.lmdb"}


@pytest.mark.parametrize("damage", ["other annotations", "garbage", "bits", "empty"])
def test_a_useless_partial_is_begun_afresh(tmp_path, damage):
    """An unfinished build of something else, or a damaged one, is thrown away and told."""
    root = write_coco(tmp_path, many_jpegs(100))
    process = start_build(root)
    for _ in range(80):
        process.stdout.readline()
    process.kill()
    process.wait()
    partial = root / "fastload/train.lmdb.partial"
    if damage == "other annotations":
        write_coco(tmp_path, many_jpegs(99))
    elif damage == "bits":
        data = bytearray(partial.read_bytes())
        for page in range(0, len(data), 4096):
            data[page + 13] ^= 0x55
        partial.write_bytes(data)
    else:
        partial.write_bytes(b"garbage" * 3000 if damage == "garbage" else b"")
    report = build(root)
    assert report.restarted == (damage != "empty") and report.resumed == 0
    assert report.images == len(find_datasets(root)[0].load()) and verify_cache(report.path) == []


def test_two_builders_at_once(awkward_set, tmp_path):
    """The second builder of a cache says who is building it and stops; the first is not disturbed."""
    root = tmp_path / "set"
    shutil.copytree(awkward_set, root, ignore=shutil.ignore_patterns("fastload"))
    process = start_build(root)
    for _ in range(30):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(CacheError, match=f"is being built by process {process.pid} on "):
            build(root)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.communicate()
    assert process.returncode == 0
    assert contents(root / "fastload/train.lmdb")[:2] == contents(awkward_set / "fastload/train.lmdb")[:2]


def test_many_builders_at_once_build_one_cache(awkward_set, tmp_path):
    """Of several builders started together each either builds, finds it done, or is told; the cache is sound."""
    root = tmp_path / "set"
    shutil.copytree(awkward_set, root, ignore=shutil.ignore_patterns("fastload"))
    builders = [start_build(root) for _ in range(4)]
    errors = [process.communicate()[1] for process in builders]
    for process, error in zip(builders, errors, strict=True):
        assert process.returncode == 0 or "is being built by" in error
    assert any(process.returncode == 0 for process in builders)
    assert contents(root / "fastload/train.lmdb")[:2] == contents(awkward_set / "fastload/train.lmdb")[:2]
    assert leftovers(root) == {"train.lmdb", "train.problems.jsonl"}


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
"""


def test_a_full_disk_is_said_clearly_and_resumed(awkward_set, tmp_path):
    """When the file cannot grow the error names it and says what to do; with room again the build is finished."""
    root = tmp_path / "set"
    shutil.copytree(awkward_set, root, ignore=shutil.ignore_patterns("fastload"))
    done = subprocess.run([sys.executable, "-c", LIMITED + BUILD, str(root)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "CacheError" in done.stderr and "cannot be written" in done.stderr and "Make room" in done.stderr
    assert build(root).resumed > 0
    assert contents(root / "fastload/train.lmdb")[:2] == contents(awkward_set / "fastload/train.lmdb")[:2]


def test_the_file_grows_as_needed(tmp_path, monkeypatch):
    """The map starts small and grows without losing anything."""
    monkeypatch.setattr("fastload.cache.write.writer.FIRST_MAP_SIZE", 1 << 16)
    root = write_coco(tmp_path, many_jpegs(120))
    report = build(root)
    assert report.images == 120 and verify_cache(report.path) == []


def test_a_lock_leaves_with_its_owner(tmp_path):
    """A partial file left by a stopped build does not lock the next one out."""
    path = tmp_path / "x.lmdb.partial"
    with contextlib.suppress(KeyboardInterrupt), CacheWriter.locked(path, {"a": 1}):
        raise KeyboardInterrupt
    with CacheWriter.locked(path, {"a": 1}) as partial:
        assert not partial.restarted
        with pytest.raises(CacheError, match="being built by process"), CacheWriter.locked(path, {"a": 1}):
            pass


def test_coco_mini(coco_mini, tmp_path):
    """Real images go in untouched, all of them, with all their boxes."""
    for dataset in find_datasets(coco_mini):
        source = dataset.load()
        report = build_cache(source, tmp_path / dataset.cache.name, BuildOptions(Encoding.ORIGINAL))
        cache = fastload.Cache(report.path)
        samples = list(source.samples())
        boxes = sum(len(sample.columns["boxes"]) for sample in samples)
        assert report.images == len(samples) and report.boxes == boxes
        assert not report.problems and verify_cache(report.path) == []
        ids = np.array([category.id for category in cache.categories])
        for record, sample in zip(cache.records(), samples, strict=True):
            assert bytes(record.data) == sample.path.read_bytes() and record.size == sample.size
            assert np.abs(record.boxes - sample.columns["boxes"]).max(initial=0) < 1e-4
            assert ids[record.labels].tolist() == sample.columns["label"].tolist()
            assert record.crowd.tolist() == sample.columns["crowd"].tolist()
            assert np.allclose(record.area, sample.columns["area"], rtol=1e-6)
            assert record.annotation_ids.tolist() == sample.columns["annotation_id"].tolist()
