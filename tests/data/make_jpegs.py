"""Makes the JPEGs of tests/data/jpeg, in coding processes that Pillow and OpenCV do not write.

Needs cjpeg and jpegtran of libjpeg-turbo 2.1 or later; run it to replace the files, then tests/data/make_golden.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "jpeg"
SCANS = "0;\n1;\n2;\n"  # one component a scan
SCANS_PAIR = "0;\n1,2;\n"

CJPEG = {
    "arithmetic": ["-arithmetic", "-sample", "2x2"],
    "arithmetic_progressive": ["-arithmetic", "-progressive"],
    "progressive": ["-progressive", "-sample", "2x1"],
    "gray_2x2": ["-grayscale", "-sample", "2x2"],
    "rgb": ["-rgb"],
    "s411": ["-sample", "4x1", "-restart", "1B"],
    "s440": ["-sample", "1x2", "-restart", "1"],
    "s422_unusual": ["-sample", "2x2,1x2,1x2"],
    "s444_unusual": ["-sample", "2x1,2x1,2x1"],
    "irregular": ["-sample", "2x2,2x1,1x2"],
    "quality_1": ["-quality", "1"],
}
JPEGTRAN = {
    "scans_420": (["-sample", "2x2"], SCANS, ["-restart", "3B"]),
    "scans_422": (["-sample", "2x1"], SCANS_PAIR, ["-optimize"]),
}


def pixels(height: int = 45, width: int = 61) -> np.ndarray:
    """(H, W, 3) uint8 of waves and a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 7 + c) * 60 + np.cos(y / (5 + c)) * 60 + 128 for c in range(3)]
    noise = np.random.default_rng(3).normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def run(command: list[str], data: bytes) -> bytes:
    """The output of `command` given `data`."""
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def main() -> None:
    """Write every file."""
    image = pixels()
    ppm = b"P6 %d %d 255\n" % (image.shape[1], image.shape[0]) + image.tobytes()
    for name, options in CJPEG.items():
        (FOLDER / f"{name}.jpg").write_bytes(run(["cjpeg", *options], ppm))
    for name, (sampling, scans, options) in JPEGTRAN.items():
        script = FOLDER / "scans.txt"
        script.write_text(scans)
        (FOLDER / f"{name}.jpg").write_bytes(
            run(["jpegtran", "-scans", str(script), *options], run(["cjpeg", *sampling], ppm))
        )
        script.unlink()


if __name__ == "__main__":
    main()
