"""From an image file's bytes, whatever they are, to a JPEG that decodes everywhere to the same pixels.

Such a JPEG goes in untouched. Anything else that Pillow opens is decoded and stored as an 8-bit JPEG, 4:4:4 at quality
95. Greyscale stays greyscale, 16 bits are scaled to 8, what is transparent is laid over white, of several frames the
first counts. What is damaged so that pixels are missing or doubtful is refused.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

import fastload._core as _core
from fastload.cache.format.layout import Subsampling
from fastload.cache.write.jpeg_repair import repaired_jpegs
from fastload.errors import DecodeError

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = _core.max_pixels()  # by default where Pillow, too, takes a picture for an attack
QUALITY = 95
EXIF_ORIENTATION = 0x0112
Image.init()
# Formats that hold pictures. Pillow knows others, some of which start programs or fetch further files.
FORMATS = sorted({"JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM"} & Image.OPEN.keys())
PLAIN_COLORS = ("ycbcr", "gray", "rgb")


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """A JPEG that libjpeg-turbo decodes without a warning."""

    jpeg: bytes
    size: tuple[int, int]  # width, height
    subsampling: Subsampling
    rgb: bool  # its planes are R, G, B
    orientation: int = 1  # the EXIF orientation that was applied; 1: none
    change: tuple[str, str] | None = None  # ("converted" or "repaired", what was wrong) when not the file's own bytes

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width, height before it was turned."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def admit(data: bytes, exif_rotate: bool = False) -> CheckedImage:
    """The picture in a file's bytes; with `exif_rotate` turned upright. `DecodeError` says why it cannot go in."""
    if not data:
        raise DecodeError("the file is empty")
    orientation = _orientation(data) if exif_rotate else 1
    if orientation != 1:
        return _convert(data, f"turned upright (EXIF orientation {orientation})", orientation)
    if not data.startswith(b"\xff\xd8\xff"):
        return _convert(data, "not a JPEG")
    try:
        header = _core.jpeg_header(data)
    except ValueError as error:
        return _convert(data, f"a JPEG of a rare kind ({error})")
    _check_size((header.width, header.height))
    if header.subsampling < 0:
        return _convert(data, "a JPEG of irregular chroma sampling")
    if header.colorspace not in PLAIN_COLORS:
        return _convert(data, f"a {header.colorspace.upper()} JPEG")
    return _sound(data)


def _sound(data: bytes) -> CheckedImage:
    """A regular JPEG as it is, or repaired without loss."""
    try:
        planes, warning = _core.decode_planes(data)
    except ValueError as error:
        return _convert(data, f"a JPEG of a rare kind ({error})")
    if warning is None:
        return checked_jpeg(data)
    if "remature end" in warning:
        raise DecodeError(f"truncated: {warning}")
    for jpeg in repaired_jpegs(data):
        with suppress(ValueError):
            again, still = _core.decode_planes(jpeg)
            if still is None and all(map(np.array_equal, again, planes)):
                return checked_jpeg(jpeg, change=("repaired", warning))
    raise DecodeError(f"corrupt: {warning}")


def checked_jpeg(jpeg: bytes, orientation: int = 1, change: tuple[str, str] | None = None) -> CheckedImage:
    """The picture in the bytes of a JPEG that is known to be sound and regular."""
    header = _core.jpeg_header(jpeg)
    size = (header.width, header.height)
    return CheckedImage(jpeg, size, Subsampling(header.subsampling), header.colorspace == "rgb", orientation, change)


def _convert(data: bytes, why: str, orientation: int = 1) -> CheckedImage:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.size)
        why = f"{why}: {image.format} of mode {image.mode}"
        image.load()
        image = eight_bits(ImageOps.exif_transpose(image) if orientation != 1 else image)
    except DecodeError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them trip over
        raise DecodeError(_refusal(error)) from error
    return _encode(image, orientation, why)


def admit_pixels(pixels: NDArray[np.uint8]) -> CheckedImage:
    """The picture of an array (H, W, 3) RGB or (H, W) grey: what `admit` makes of a PNG of it. `DecodeError` says why
    it is none."""
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[2:] not in ((), (3,)):
        raise DecodeError(
            f"an image is a uint8 array (height, width, 3) or (height, width), not {pixels.dtype} {pixels.shape}"
        )
    _check_size((pixels.shape[1], pixels.shape[0]))
    return _encode(Image.fromarray(pixels), 1, "an array of pixels")


def _encode(image: Image.Image, orientation: int, why: str) -> CheckedImage:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return checked_jpeg(stream.getvalue(), orientation, ("converted", why))


def _refusal(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"truncated: {text}" if "truncated" in text.lower() else f"corrupt: {text}"


def eight_bits(image: Image.Image) -> Image.Image:
    """The image as 8-bit grey or RGB."""
    if image.mode.startswith(("I", "F")):
        return _scaled(image)
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.has_transparency_data:
        gray = image.mode in ("LA", "La")
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("L" if gray else "RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits. Wider numbers have no white that everybody agrees on."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise DecodeError(f"{image.mode} pixels have no agreed range: convert the file to 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise DecodeError("the image has no pixels")
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DecodeError(
            f"absurd size: {width} x {height} pixels, more than {MAX_SIDE} a side or the {MAX_PIXELS} in all that "
            "FASTLOAD_MAX_PIXELS allows"
        )


def _orientation(data: bytes) -> int:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.size)  # for its EXIF data a whole PNG is decoded
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # as above: what is wrong with the file is found, and said, when it is decoded
        return 1
    return orientation if orientation in range(1, 9) else 1
