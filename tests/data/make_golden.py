"""Makes the golden records of tests/data/golden: run it only when the packed format changes on purpose."""

from __future__ import annotations

import json
from pathlib import Path

from fastload import _core
from fastload._core import testing

DATA = Path(__file__).parent
NAMES = ("gray_2x2", "rgb", "s411", "scans_420", "s444_unusual")


def main() -> None:
    """Write a packed record of each encoding per JPEG, and their planes' checksums."""
    checksums = {}
    for name in NAMES:
        jpeg = (DATA / "jpeg" / f"{name}.jpg").read_bytes()
        (DATA / "golden" / f"{name}.dct").write_bytes(testing.dct_encode(jpeg, True))
        (DATA / "golden" / f"{name}.dct-fast").write_bytes(testing.dct_encode(jpeg, False))
        planes, _ = _core.decode_planes(jpeg)
        checksums[name] = [f"{_core.xxh64(plane.reshape(-1)):016x}" for plane in planes]
    (DATA / "golden" / "planes.json").write_text(json.dumps(checksums, indent=1) + "\n")


if __name__ == "__main__":
    main()
