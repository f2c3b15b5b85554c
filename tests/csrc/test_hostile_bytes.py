"""Files made to do harm: mutated JPEGs under sanitizers, decompression bombs, payloads that want to be executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from tempfile import gettempdir

import lmdb
import numpy as np
import pytest

from fastload import Cache, CacheError, _core
from fastload.cache.format.layout import INDEX, INDEX_PREFIX, MANIFEST_KEY, Encoding, Subsampling
from fastload.cache.format.record import HEADER_SIZE, pack_record
from fastload.cache.write.build import BuildOptions, build_cache, describe_job
from fastload.cache.write.writer import JOB_KEY, PART_PREFIX
from fastload.sources.detect import find_datasets
from tests.csrc.test_dct import JPEGS, opencv_jpeg, picture
from tests.engines.test_engines import jpeg_of_kind, smooth
from tests.support.datasets import encoded, jpeg, many_jpegs, pixels, write_coco
from tests.support.native_programs import CSRC, INCLUDES, ROOT, build_program
from tests.support.records import record


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/native/hostile.cpp, built with the sanitizers."""
    return build_program("hostile", tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JPEGs to mutate: every coding process and every chroma subsampling."""
    folder = tmp_path_factory.mktemp("seeds")
    for i, sampling in enumerate(["444", "422", "420", "440", "411"]):
        (folder / f"{sampling}.jpg").write_bytes(opencv_jpeg(picture(37, 51, i), sampling, 80, restart=i % 3))
    return [*JPEGS, *sorted(folder.iterdir())]


def run_hostile(program: Path, rounds: int, seed: int, seeds: list[Path]) -> None:
    """Meet so many mutated JPEGs and records; every pixel of theirs and little memory."""
    settings = {"FASTLOAD_TURBOJPEG": _core.turbojpeg_path(), "FASTLOAD_MAX_PIXELS": "1000000"}
    command = [program, str(rounds), str(seed), *seeds]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    assert run.returncode == 0, run.stderr[-5000:]
    accepted, sequential, decoded, _ = (int(word) for word in run.stdout.split() if word.isdigit())
    assert min(accepted, sequential) > rounds / 100 and decoded > rounds / 10, (
        "the mutations should leave some files whole"
    )


def test_mutated_files_under_sanitizers(hostile, seeds):
    """2,000 mutated JPEGs, and as many records: no report; what is accepted has libjpeg-turbo's own pixels."""
    run_hostile(hostile, 2000, 1, seeds)


@pytest.mark.long
def test_records_overwritten_while_they_are_decoded(seeds, tmp_path):
    """Records of each encoding decoded while another thread writes over them: no report from the sanitizers."""
    program = build_program("overwritten", tmp_path)
    settings = {"FASTLOAD_TURBOJPEG": _core.turbojpeg_path(), "FASTLOAD_MAX_PIXELS": "1000000"}
    run = subprocess.run([program, "1000", *seeds], capture_output=True, text=True, env={**os.environ, **settings})
    assert run.returncode == 0 and run.stdout == "done\n", run.stderr[-5000:]


def test_a_coefficient_beyond_all_bounds_is_not_packed():
    """A JPEG whose DC overflows, which libjpeg-turbo itself does not rewrite without loss, is kept as it is."""
    data = (ROOT / "tests/data/hostile/overflowing_dc.jpg").read_bytes()
    for encoding in (Encoding.DCT, Encoding.DCT_FAST):
        with pytest.raises(_core.JpegError, match="would not stay the same"):
            _core.encode_payload(data, encoding)
    assert _core.encode_payload(data, Encoding.ORIGINAL) == data


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_mutated_files_under_sanitizers(hostile, seeds):
    """The same with 20,000 of each."""
    run_hostile(hostile, 20_000, 2, seeds)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_property_tests_under_sanitizers(tmp_path):
    """The core built with both sanitizers runs the tests of its properties without a report."""
    compiler = shutil.which("g++") or pytest.skip("needs g++, whose sanitizers can be preloaded")
    tree = tmp_path / "tree"
    for name in ("fastload", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    environment = {**os.environ, "FASTLOAD_SANITIZE": "address,undefined", "CC": "gcc", "CXX": compiler}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=tree, env=environment, check=True)
    libraries = [
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    environment |= {"LD_PRELOAD": ":".join(libraries), "PYTHONPATH": str(tree)}
    environment["ASAN_OPTIONS"] = "detect_leaks=0"  # Python itself keeps what it has
    files = ("csrc/test_dct", "csrc/test_jpeg_write", "engines/test_engines", "cache/test_lmdb_tree")
    files += ("cache/test_cache", "cache/test_cache_dataset", "cache/test_damaged_cache")
    tests = [f"tests/{file}.py" for file in files]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    unsuited = (
        "sanitizers or every_simd_level or large_cache or resident or one_mapping or opening_is_quick or photographs"
    )
    run = subprocess.run([*command, "-k", f"not ({unsuited})", "-m", "not slow"], cwd=tree, env=environment,
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


def claims(data: bytes, format: str, width: int, height: int) -> bytes:
    """`data` with another size in its header."""
    changed = bytearray(data)
    if format == "JPEG":
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        changed[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif format == "PNG":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    elif format == "GIF":
        changed[6:10] = struct.pack("<HH", width, height)
    elif format == "BMP":
        changed[18:26] = struct.pack("<ii", width, height)
    else:
        changed = bytearray(data.replace(b"64 48", b"%d %d" % (width, height), 1))
    return bytes(changed)


def bombs() -> dict[str, bytes]:
    """Small files that promise 12,000 x 12,000 pixels, and a PNG that keeps the promise."""
    small = pixels(64, 48)
    files = {f"{format.lower()}.bin": claims(encoded(small, format), format, 12_000, 12_000)
             for format in ("JPEG", "PNG", "GIF", "BMP", "PPM")}  # fmt: skip
    files["progressive.bin"] = claims(jpeg(progressive=True), "JPEG", 12_000, 12_000)
    black = b"".join(b"\0" * 12_001 for _ in range(12_000))
    head = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(black, 9)), (b"IEND", b"")]
    files["kept.png"] = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return files


ADMIT = """
import resource, sys
from functools import partial
from pathlib import Path
from fastload import _core
from fastload._core import testing
from fastload.cache.write.checked_image import admit
from fastload.errors import DecodeError
from tests.support.datasets import jpeg
admit(jpeg())
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
meets = [admit, partial(admit, exif_rotate=True)]
meets += [testing.jpeg_transform, testing.dct_encode, partial(_core.encode_payload, encoding=3)]
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    for meet in meets:
        try:
            meet(path.read_bytes())
        except (DecodeError, ValueError) as error:
            print(path.name, str(error).replace("\\n", " "))
        else:
            assert False, path
print(peak() - before)
"""


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    """Files of a few kilobytes that would be 144 megapixels, under a limit of one: refused within a few megabytes."""
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
    environment = {**os.environ, "FASTLOAD_MAX_PIXELS": "1000000"}
    done = subprocess.run([sys.executable, "-c", ADMIT, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *refusals, megabytes = done.stdout.splitlines()
    assert len(refusals) == 5 * len(list(tmp_path.iterdir())) and float(megabytes) < 20
    assert sum("FASTLOAD_MAX_PIXELS" in line for line in refusals) >= len(refusals) / 4


LOAD = """
import sys
from fastload import Cache, CacheError, _core
for path in sys.argv[1:]:
    try:
        assert len(Cache(path)) == 2
        print("opened")
    except CacheError as error:
        print(error)
    try:
        _core.decode_record(open(path + ".record", "rb").read())
        print("decoded")
    except ValueError as error:
        print(error)
"""


def test_records_beyond_the_limit_are_refused(tmp_path):
    """The limit holds for caches too, whatever the encoding: for what their index says, and for what a record does."""
    root = write_coco(tmp_path, {"small.jpg": jpeg(), "large.jpg": jpeg(640, 480)}, sizes={"large.jpg": (640, 480)})
    source = find_datasets(root)[0].load()
    paths = [root / f"{encoding.label}.lmdb" for encoding in Encoding]
    for encoding, path in zip(Encoding, paths, strict=True):
        build_cache(source, path, BuildOptions(encoding, workers=1))
        path.with_name(path.name + ".record").write_bytes(Cache(path).record_bytes(1))
    for limit, told in (("307200", ("opened", "decoded")), ("307199", ("image 20 is 640 x 480", "absurdly large"))):
        environment = {**os.environ, "FASTLOAD_MAX_PIXELS": limit}
        done = subprocess.run([sys.executable, "-c", LOAD, *paths], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 8 and all(word in line for word, line in zip(told * 4, lines, strict=True))


def test_a_manifest_that_is_sound_but_absurd_is_refused(tmp_path):
    """Nested without end, numbers without end, not even an object: a CacheError each."""
    root = write_coco(tmp_path, many_jpegs(2))
    whole = build_cache(find_datasets(root)[0].load(), root / "c.lmdb", BuildOptions(workers=1)).path
    head = b'{"version": 1, "encoding": "dct", "boxes": 2, "categories": [], "source": {}, "arrays": {}, "images": '
    for i, text in enumerate((b"[" * 100_000, head + b"Infinity}", head + b"-1}", head + b"1e400}", b"[1]", b"null")):
        path = tmp_path / f"{i}.lmdb"
        shutil.copy(whole, path)
        with lmdb.open(str(path), subdir=False, lock=False) as env, env.begin(write=True) as txn:
            txn.put(MANIFEST_KEY, b"xxh64=%016x\n" % _core.xxh64(text) + text)
        with pytest.raises(CacheError, match=r"manifest|another version"):
            Cache(path)


def test_a_limit_that_is_no_number_is_said(tmp_path):
    """FASTLOAD_MAX_PIXELS=lots is an error that names it, not a limit of nothing."""
    for wrong in ("lots", "0", "-5", "1e6", "99999999999999999999"):
        environment = {**os.environ, "FASTLOAD_MAX_PIXELS": wrong}
        done = subprocess.run([sys.executable, "-c", "from fastload import _core; _core.max_pixels()"],
                              capture_output=True, text=True, env=environment)  # fmt: skip
        assert done.returncode == 1 and f"FASTLOAD_MAX_PIXELS={wrong} is not a number" in done.stderr


NO_EXECUTION = """
import shutil, sys
from pathlib import Path
from fastload import Cache, CacheError, FastLoader
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cache.read.verify import verify_cache
from fastload.sources.detect import find_datasets
from fastload.cache.format.layout import Encoding

def use(path):
    try:
        cache = Cache(path)
        verify_cache(path, 1)
        [cache[i] for i in range(len(cache))]
        list(FastLoader(cache, on_error="skip"))
    except CacheError:
        return False
    return True

def meet_all(root, caches):
    opened = [use(path) for path in caches]
    shutil.copy(root / "evil.partial", root / "resumed.lmdb.partial")
    source = find_datasets(root)[0].load()
    restarted = build_cache(source, root / "resumed.lmdb", BuildOptions(Encoding.ORIGINAL)).restarted
    (root / "resumed.lmdb").unlink()
    assert restarted and any(opened) and not all(opened)

root, *caches = map(Path, sys.argv[1:])
meet_all(root, caches)  # what is imported on the way is imported now
met = []
forbidden = ("pickle.", "marshal.", "exec", "os.system", "os.exec", "os.posix_spawn", "subprocess.", "import")
sys.addaudithook(lambda event, _: met.append(event) if event.startswith(forbidden) else None)
meet_all(root, caches)
print(len(met), *met)
"""


EXECUTED = Path(gettempdir()) / f"fastload-executed-{os.getpid()}"


class Evil:
    """What a pickle can do to whoever loads it."""

    def __reduce__(self):
        return os.system, (f"touch {EXECUTED}",)


def test_nothing_is_ever_unpickled_or_executed(tmp_path):
    """Caches and unfinished builds whose every value is a pickle, sound checksums and all, run no code on opening."""
    payload = pickle.dumps(Evil())
    root = write_coco(tmp_path / "set", many_jpegs(3))
    source, options = find_datasets(root)[0].load(), BuildOptions(Encoding.ORIGINAL, workers=1)
    whole = build_cache(source, root / "whole.lmdb", options).path
    keys = [INDEX_PREFIX + name.encode() for name in INDEX] + [MANIFEST_KEY, b"record/" + (1).to_bytes(8, "big")]
    caches = [whole]
    for i, key in enumerate(keys):
        caches.append(tmp_path / f"{i}.lmdb")
        shutil.copy(whole, caches[-1])
        with lmdb.open(str(caches[-1]), subdir=False, lock=False) as env, env.begin(write=True) as txn:
            line = b"xxh64=%016x\n" % _core.xxh64(payload) if key == MANIFEST_KEY else b""
            txn.put(key, line + payload)
    part = io.BytesIO()
    np.savez(part, problems=np.array([Evil()], object), **{name: np.array([Evil()], object) for name in INDEX})
    with lmdb.open(str(root / "evil.partial"), subdir=False, lock=False) as env, env.begin(write=True) as txn:
        txn.put(JOB_KEY, json.dumps(describe_job(source, options)).encode())
        txn.put(PART_PREFIX + (1).to_bytes(8, "big"), part.getvalue())
    command = [sys.executable, "-c", NO_EXECUTION, root, *caches]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n" and not EXECUTED.exists()


def test_static_analysis_finds_nothing():
    """cppcheck has no complaint about the core and its test programs."""
    if not shutil.which("cppcheck"):
        pytest.skip("needs cppcheck")
    options = ["--enable=warning,performance,portability", "--inline-suppr", "--std=c++17", "--language=c++", "-q"]
    command = ["cppcheck", *options, *INCLUDES, "--error-exitcode=1", CSRC, ROOT / "tests/native"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_cut_anywhere_spoils_none_that_follows():
    """After a JPEG that ends early, wherever, the same thread decodes the next one as ever."""
    whole = record(jpeg_of_kind(smooth(40, 56), "4:2:0"))
    payload = whole[HEADER_SIZE:]
    expected = [plane.tobytes() for plane in _core.decode_record(whole)[0]]
    for length in range(2, len(payload) - 8, 7):
        cut = pack_record(payload[:length], Encoding.ORIGINAL, Subsampling.S420, (56, 40))
        with pytest.raises(ValueError):
            _core.decode_record(cut)
        assert [plane.tobytes() for plane in _core.decode_record(whole)[0]] == expected, length
