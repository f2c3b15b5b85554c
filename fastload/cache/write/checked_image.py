"""From the bytes of an image file to a JPEG that every decoder decodes to the same pixels.

Such a JPEG is kept unchanged. Other images that Pillow opens are decoded and stored as an 8-bit JPEG, 4:4:4 at quality
95: grayscale stays grayscale, 16 bits are scaled to 8, transparent images are composited over white, and of several
frames the first is used. Damaged images with missing or doubtful pixels are rejected.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

import fastload._core as _core
from fastload.cache.format.index import ColorMoments
from fastload.cache.format.layout import Subsampling
from fastload.cache.write.jpeg_repair import repaired_jpegs, with_end
from fastload.cache.write.png_chunks import pixel_chunks
from fastload.errors import DecodeError

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = _core.max_pixels()  # the default is Pillow's limit for decompression bombs
QUALITY = 95
EXIF_ORIENTATION = 0x0112
Image.init()
with suppress(ImportError, OSError):
    import_module("pillow_heif").register_heif_opener()
# Pillow knows other formats, but some of them start programs or open other files. TGA comes last, as it has no magic
# number. APNG opens as PNG, and MPO as JPEG.
_KNOWN = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "DIB",
    "GIF",
    "TIFF",
    "PPM",
    "AVIF",
    "JPEG2000",
    "QOI",
    "PCX",
    "SGI",
    "HEIF",
    "TGA",
)
FORMATS = [name for name in _KNOWN if name in Image.OPEN]
# How other formats begin, at which byte, for messages.
_SIGNATURES = (
    (4, b"ftypavif", "AVIF"),
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"<svg", "SVG"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"\x93NUMPY", "NumPy"),
    (128, b"DICM", "DICOM"),
)
PLAIN_COLORS = ("ycbcr", "gray", "rgb")


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """A JPEG that libjpeg-turbo decodes without a warning.

    Args:
        jpeg: the bytes of the JPEG.
        size: width and height in pixels.
        subsampling: the chroma subsampling.
        rgb: whether the planes are R, G, B instead of Y, Cb, Cr.
        orientation: the EXIF orientation that was applied; 1: none.
        change: ("converted" or "repaired", reason). None: the bytes are those of the file.
        color: the mean and standard deviation of its colors. None: not computed.
    """

    jpeg: bytes
    size: tuple[int, int]
    subsampling: Subsampling
    rgb: bool
    orientation: int = 1
    change: tuple[str, str] | None = None
    color: ColorMoments | None = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before the EXIF orientation was applied."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def exif_orientation(data: bytes) -> int:
    """Return the EXIF orientation of an image file; 1 if there is none. Fast for files without EXIF data."""
    head = data[: 1 << 17] if data.startswith(b"\xff\xd8") else data  # a JPEG has it before its pixels
    stated = data.startswith((b"II*\0", b"MM\0*")) or any(mark in head for mark in (b"Exif", b"eXIf", b"EXIF"))
    return _orientation(data) if stated else 1


def admit(data: bytes, exif_rotate: bool = False) -> CheckedImage:
    """Check the bytes of an image file, and convert or repair them if needed.

    Args:
        data: the bytes of the file.
        exif_rotate: whether to rotate the image upright as its EXIF data says.

    Raises:
        DecodeError: the image cannot be stored. The message is the reason; callers add the name of the file.
    """
    if not data:
        raise DecodeError("the file is empty")
    orientation = _orientation(data) if exif_rotate else 1
    if orientation != 1:
        return _convert(data, f"rotated upright (EXIF orientation {orientation})", orientation)
    if not data.startswith(b"\xff\xd8\xff"):
        return _convert(data, "not a JPEG")
    try:
        header = _core.jpeg_header(data)
    except ValueError as error:
        return _convert(data, f"an unusual JPEG ({error})")
    _check_size((header.width, header.height))
    if header.subsampling < 0:
        return _convert(data, "a JPEG with irregular chroma subsampling")
    if header.colorspace not in PLAIN_COLORS:
        return _convert(data, f"a {header.colorspace.upper()} JPEG")
    return _checked_or_repaired(data)


def _checked_or_repaired(data: bytes) -> CheckedImage:
    """Return a regular JPEG unchanged, or repaired without loss."""
    try:
        color, planes, warning = _core.check_jpeg(data)
    except ValueError as error:
        return _convert(data, f"an unusual JPEG ({error})")
    if color is not None:
        return replace(checked_jpeg(data), color=ColorMoments(*color))
    truncated = "remature end" in warning
    for jpeg in with_end(data) if truncated else repaired_jpegs(data):
        with suppress(ValueError):
            repaired, remaining = _core.decode_planes(jpeg)
            if remaining is None and all(map(np.array_equal, repaired, planes)):
                return checked_jpeg(jpeg, change=("repaired", warning))
    raise DecodeError(f"{'truncated' if truncated else 'corrupt'}: {warning}")


def checked_jpeg(jpeg: bytes, orientation: int = 1, change: tuple[str, str] | None = None) -> CheckedImage:
    """Wrap the bytes of a JPEG that is known to be valid and regular."""
    header = _core.jpeg_header(jpeg)
    size = (header.width, header.height)
    return CheckedImage(jpeg, size, Subsampling(header.subsampling), header.colorspace == "rgb", orientation, change)


def _convert(data: bytes, reason: str, orientation: int = 1) -> CheckedImage:
    try:
        image = _open(data)
        _check_size(image.size)
        reason = f"{reason}: {image.format} of mode {image.mode}"
        image.load()
        image = eight_bits(ImageOps.exif_transpose(image) if orientation != 1 else image)
    except DecodeError:
        raise
    except Exception as error:  # Pillow's decoders raise any type of exception on broken files
        raise DecodeError(_describe(error, data)) from error
    return _encode(image, orientation, reason)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(pixel_chunks(data)), formats=FORMATS)


def admit_pixels(pixels: NDArray[np.uint8] | Image.Image) -> CheckedImage:
    """Convert decoded pixels as `admit` converts a PNG of them.

    Args:
        pixels: (H, W, 3) RGB or (H, W) gray, uint8; or a PIL image.

    Raises:
        DecodeError: the pixels have another type or shape, cannot be decoded, or are too many.
    """
    if isinstance(pixels, Image.Image):
        _check_size(pixels.size)
        try:
            gray_or_rgb = eight_bits(pixels)
        except (OSError, SyntaxError, ValueError) as error:  # it is decoded only now
            raise DecodeError(_describe(error, b"")) from error
        return _encode(gray_or_rgb, 1, f"a PIL image of mode {pixels.mode}")
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[2:] not in ((), (3,)):
        raise DecodeError(
            f"an image is a uint8 array (height, width, 3) or (height, width), not {pixels.dtype} {pixels.shape}"
        )
    _check_size((pixels.shape[1], pixels.shape[0]))
    return _encode(Image.fromarray(pixels), 1, "an array of pixels")


def _encode(image: Image.Image, orientation: int, reason: str) -> CheckedImage:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return checked_jpeg(stream.getvalue(), orientation, ("converted", reason))


def _describe(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        for start, signature, name in _SIGNATURES:
            if data.startswith(signature, start):
                advice = "convert it to PNG" if name != "HEIC" else "install pillow-heif, or convert it to PNG"
                return f"a {name} file, which Pillow cannot read here: {advice}"
        return "not an image of a supported format"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"truncated: {text}" if "truncated" in text.lower() else f"corrupt: {text}"


def eight_bits(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit gray or RGB."""
    if image.mode.startswith(("I", "F")):
        return _scaled(image)
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.has_transparency_data:
        gray = image.mode in ("LA", "La")
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("L" if gray else "RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits. DecodeError for other ranges, whose white is not defined."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise DecodeError(f"the range of {image.mode} pixels is not defined: convert the file to 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise DecodeError("the image has no pixels")
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DecodeError(
            f"image too large: {width} x {height} pixels, more than {MAX_SIDE} per side or than the {MAX_PIXELS} in "
            "total that FASTLOAD_MAX_PIXELS allows"
        )


def _orientation(data: bytes) -> int:
    try:
        image = _open(data)
        _check_size(image.size)  # because reading the EXIF data of a PNG decodes all of it
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # any type, as above; decoding the file reports the error
        return 1
    return orientation if orientation in range(1, 9) else 1
