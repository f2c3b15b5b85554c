"""Caches whose bytes were changed, of every encoding: an error that names the place, or the very pixels; no crash."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from fastload import Cache, CacheError, DecodeError, FastLoader
from fastload.cache.format.layout import Encoding
from fastload.cache.read.verify import verify_cache
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.sources.detect import find_datasets
from tests.support.datasets import encoded, jpeg, pixels, write_coco

PAGE = 4096


@pytest.fixture(scope="module", params=list(Encoding), ids=lambda encoding: encoding.label)
def cache(request, tmp_path_factory) -> Path:
    """A cache of twelve pictures of several kinds, and one that cannot be packed, with an extra column."""
    files = {f"{i:02}.jpg": jpeg(seed=i, subsampling=i % 3, progressive=i % 4 == 3) for i in range(12)}
    files |= {"gray.jpg": encoded(pixels(64, 48, 2, 1)), "png.png": encoded(pixels(64, 48, 3), "PNG")}
    root = write_coco(tmp_path_factory.mktemp("set"), files)
    path = root / "whole.lmdb"
    build_cache(find_datasets(root, columns=["id"])[0].load(), path, BuildOptions(request.param, workers=2))
    return path


def damage(data: bytearray, rng: random.Random) -> None:
    """A few flipped bits, a byte, a page of zeros, a page in another's place, or the end cut off."""
    kind, at = rng.randrange(6), rng.randrange(len(data))
    page, other = (rng.randrange(len(data) // PAGE) * PAGE for _ in range(2))
    if kind <= 1:
        for _ in range(1 if kind == 0 else 8):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at] = rng.randrange(256)
    elif kind == 3:
        data[page : page + PAGE] = bytes(PAGE)
    elif kind == 4:
        data[page : page + PAGE] = data[other : other + PAGE]
    else:
        del data[at:]


def loaded(cache: Cache) -> tuple[dict[int, bytes], set[int]]:
    """{image id: pixels and boxes} as the loader gives them, and the ids of those it says are damaged."""
    loader = FastLoader(cache, batch_size=5, num_workers=2, on_error="skip", group_by_aspect=False)
    found = {}
    for images, targets in loader:
        for i, image_id in enumerate(targets.image_id.tolist()):
            parts = images[i], targets[i]["boxes"], targets[i]["id"]
            found[image_id] = b"".join(part.numpy().tobytes() for part in parts)
    return {id: content for id, content in found.items() if id not in loader.skipped}, set(loader.skipped)


def meet(path: Path, whole: dict[int, bytes]) -> str:
    """Open, verify and load a damaged cache; returns how the damage showed. Whatever loads is as it was built."""
    try:
        cache = Cache(path)
    except CacheError as error:
        assert str(path) in str(error)
        return "opening"
    damaged = {found.image_id for found in verify_cache(path, workers=1)}
    for record_id, index in zip(cache.image_ids.tolist(), range(len(cache)), strict=True):
        try:
            assert cache[index][1]["image_id"] == cache.record(index).image_id == record_id not in damaged
        except CacheError as error:
            assert f"image {record_id} (" in str(error) and record_id in damaged
    sound, skipped = loaded(cache)
    assert skipped == damaged and sound.keys() | skipped == whole.keys()
    assert all(whole[image_id] == content for image_id, content in sound.items())
    return "reading" if damaged else "nowhere"


def meet_many(source: Path, scratch: Path, rounds: int, seed: int) -> dict[str, int]:
    """How the damage of `rounds` differently damaged copies of `source` showed."""
    data, whole = source.read_bytes(), loaded(Cache(source))[0]
    shown = dict.fromkeys(("opening", "reading", "nowhere"), 0)
    warnings.simplefilter("ignore")
    for i in range(rounds):
        copy = bytearray(data)
        damage(copy, random.Random(f"{seed} {i}"))
        scratch.unlink(missing_ok=True)
        scratch.write_bytes(copy)
        try:
            shown[meet(scratch, whole)] += 1
        except BaseException:
            print(f"round {i} of seed {seed}", file=sys.stderr)
            raise
    return shown


RUN = "import sys; from pathlib import Path; from tests.cache.test_damaged_cache import meet_many; "
RUN += "print(*meet_many(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), 1).values())"


def run_many(cache: Path, scratch: Path, rounds: int) -> list[int]:
    command = [sys.executable, "-X", "faulthandler", "-c", RUN, cache, scratch, str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + rounds)
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(word) for word in done.stdout.split()]


def test_damage_anywhere_is_named_or_harmless(cache, tmp_path):
    """60 damaged copies of a cache are opened, verified and loaded: what is damaged is named, the rest is right."""
    opening, reading, nowhere = run_many(cache, tmp_path / "x.lmdb", 60)
    assert opening + reading + nowhere == 60 and opening >= 5 and reading >= 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_damage_anywhere_at_length(cache, tmp_path):
    """The same with 5,000 copies."""
    assert sum(run_many(cache, tmp_path / "x.lmdb", 5000)) == 5000


def place(cache: Cache, index: int) -> slice:
    """Where a record lies in the file."""
    start = int(cache._mapping.offsets[index])
    return slice(start, start + int(cache.lengths[index]))


def test_a_sound_record_in_anothers_place_is_noticed(tmp_path):
    """A record written over another one, whole and with its own checksum, is not taken for it."""
    root = write_coco(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg(seed=1)})
    path = build_cache(find_datasets(root)[0].load(), root / "c.lmdb", BuildOptions(Encoding.PLANES)).path
    first, second = (place(Cache(path), i) for i in range(2))
    data = bytearray(path.read_bytes())
    data[second] = data[first]
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=r"image 20 \(b.jpg\).*not the record that the index knows"):
        list(FastLoader(path, batch_size=2))
    assert len(list(FastLoader(path, batch_size=2, verify_checksums="never"))) == 1


def test_checksums_are_verified_as_often_as_asked(cache, tmp_path):
    """With "first" damage is noticed when an image is first read, with "always" also when it comes afterwards."""
    path = tmp_path / "x.lmdb"
    path.write_bytes(cache.read_bytes())
    loaders = {how: FastLoader(path, verify_checksums=how, on_error="skip") for how in ("first", "always", "never")}
    for loader in loaders.values():
        assert len(list(loader)) == 14 and not loader.skipped
    inside = place(Cache(path), 4)
    with open(path, "r+b") as file:
        file.seek(inside.stop - 70)
        byte = file.read(1)[0]
        file.seek(inside.stop - 70)
        file.write(bytes([byte ^ 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        noticed = {how: bool(list(loader)) and 50 in loader.skipped for how, loader in loaders.items()}
        assert noticed["always"] and not (noticed["first"] and Cache(path).encodings[4] == Encoding.PLANES)
        fresh = FastLoader(path, on_error="skip")
        assert list(fresh) and list(fresh.skipped) == [50]
