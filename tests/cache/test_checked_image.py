"""Every awkward file: what goes in untouched, what is converted and to what, what is refused and why."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import fastload._core as _core
from fastload.cache.format.layout import Subsampling
from fastload.cache.write.checked_image import admit
from fastload.errors import DecodeError
from tests.support.datasets import encoded, jpeg, pixels


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize(
    ("data", "subsampling", "rgb"),
    [
        (jpeg(), Subsampling.S444, False),
        (jpeg(subsampling=1), Subsampling.S422, False),
        (jpeg(subsampling=2), Subsampling.S420, False),
        (jpeg(progressive=True), Subsampling.S444, False),
        (jpeg(optimize=True, quality=30), Subsampling.S444, False),
        (jpeg(keep_rgb=True), Subsampling.S444, True),
        (jpeg(1, 1), Subsampling.S444, False),
        (jpeg(restart_marker_blocks=2), Subsampling.S444, False),
        (jpeg(comment=b"hello", dpi=(72, 72)), Subsampling.S444, False),
        (encoded(pixels(33, 17, channels=1)), Subsampling.GRAY, False),
        (jpeg() + b"bytes after the end", Subsampling.S444, False),
    ],
    ids=["444", "422", "420", "progressive", "optimized", "rgb", "1x1", "restarts", "comment", "gray", "trailing"],
)
def test_sound_jpegs_go_in_untouched(data, subsampling, rgb):
    """A JPEG that decodes without a warning keeps its bytes, whatever its sampling."""
    picture = admit(data)
    assert picture.jpeg == data and picture.change is None
    assert (picture.subsampling, picture.rgb) == (subsampling, rgb)
    assert picture.size == Image.open(io.BytesIO(data)).size


LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}, "PPM": {}}


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
def test_other_formats_are_converted(format, channels):
    """PNG, BMP, TIFF, WebP and PPM become 4:4:4 JPEGs close to the picture; grey stays grey."""
    image = pixels(61, 43, 1, channels)
    picture = admit(encoded(image, format, **LOSSLESS[format]))
    assert picture.change is not None and picture.change[0] == "converted"
    gray = channels == 1 and format != "WEBP"
    assert picture.subsampling == (Subsampling.GRAY if gray else Subsampling.S444)
    shown = decoded(picture.jpeg)
    assert difference(shown if shown.ndim == image.ndim else shown[..., 0], image) < 1.5
    assert picture.size == (61, 43)


def test_palettes_are_resolved():
    """A palette PNG and a GIF become what they look like."""
    image = Image.fromarray(pixels(40, 30)).quantize(64)
    expected = np.asarray(image.convert("RGB"))
    for format in ("PNG", "GIF"):
        assert difference(decoded(admit(encoded(image, format)).jpeg), expected) < 4


def test_the_first_frame_of_an_animation_counts():
    """Of a GIF with several frames the first is taken."""
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    shown = decoded(admit(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).jpeg)
    assert shown[..., 0].min() > 200 and shown[..., 2].max() < 60


def test_sixteen_bits_are_scaled_not_clipped():
    """16-bit grey keeps its whole range: a ramp over 0..65535 becomes a ramp over 0..255."""
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (16, 1))
    for format in ("PNG", "TIFF"):
        picture = admit(encoded(Image.fromarray(ramp), format))
        assert picture.subsampling == Subsampling.GRAY
        assert np.abs(decoded(picture.jpeg).astype(int) - np.arange(256)).max() <= 3


def test_sixteen_bit_colour_is_scaled():
    """A 16-bit RGB PNG keeps its colours."""
    image = pixels(32, 24).astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert difference(decoded(admit(png).jpeg), pixels(32, 24)) < 1.5


def test_numbers_without_a_range_are_refused():
    """Float and wide integer pictures have no agreed white: refused, not guessed."""
    for values in (np.ones((8, 8), np.float32), np.full((8, 8), 100_000, np.int32)):
        with pytest.raises(DecodeError, match="is not defined"):
            admit(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_over_white(mode):
    """What is transparent becomes white, what is opaque keeps its colour."""
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    image.paste((200, 0, 0, 0), (0, 0, 16, 32))
    image = image.convert(mode) if mode != "PA" else image.quantize(8)
    picture = admit(encoded(image, "PNG"))
    shown = decoded(picture.jpeg)
    assert shown[:, :15].min() > 245 and shown[:, 17:].max() < 10
    assert (picture.subsampling == Subsampling.GRAY) == (mode == "LA")


def test_bilevel_pictures_become_grey():
    """A 1-bit picture becomes black and white grey."""
    image = Image.fromarray(pixels(32, 32, channels=1) > 128)
    picture = admit(encoded(image, "PNG"))
    assert picture.subsampling == Subsampling.GRAY
    assert difference(decoded(picture.jpeg), np.asarray(image) * 255.0) < 12


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_cmyk_jpegs_are_converted(mode):
    """A CMYK JPEG, which libjpeg-turbo cannot turn into RGB, becomes the RGB picture that Pillow sees."""
    data = encoded(Image.fromarray(pixels(48, 32)).convert(mode), "JPEG", quality=95)
    picture = admit(data)
    assert (picture.change is not None) == (mode == "CMYK")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(decoded(picture.jpeg), expected) < 1.5
    assert _core.jpeg_header(picture.jpeg).colorspace == "ycbcr"


def test_irregular_sampling_is_converted():
    """Chroma sampling that TurboJPEG has no number for becomes 4:4:4 of the same picture."""
    data = bytearray(jpeg(64, 64, subsampling=2))
    at = data.index(b"\xff\xc0")
    assert data[at + 11] == 0x22
    data[at + 11], data[at + 14] = 0x22, 0x12  # Y 2x2, Cb 1x2, Cr 1x1
    try:
        header = _core.jpeg_header(bytes(data))
    except ValueError:
        header = None
    assert header is None or header.subsampling == -1
    try:
        picture = admit(bytes(data))
    except DecodeError:
        return  # the entropy-coded data no longer fits the sampling: refusing it is right as well
    assert picture.change is not None and picture.subsampling == Subsampling.S444


def test_names_do_not_matter():
    """Bytes decide: a PNG called .jpg is converted, a JPEG called .png goes in untouched."""
    assert admit(encoded(pixels(8, 8), "PNG")).change is not None
    assert admit(jpeg()).change is None


@pytest.mark.parametrize("cut", [3, 4, 100, 1500])
def test_truncated_jpegs_are_refused(cut):
    """A JPEG that ends too early is refused as truncated, however little is missing."""
    with pytest.raises(DecodeError, match=r"^(truncated|not an image)"):
        admit(jpeg(200, 200)[:-cut] if cut < 1000 else jpeg(200, 200)[:cut])


def test_jpegs_cut_in_their_header_are_refused():
    """Also after a sound one, which the decoder still remembers: wherever it is cut, the file is refused."""
    sound = jpeg()
    for cut in range(1, sound.index(b"\xff\xda"), 7):
        admit(sound)
        with pytest.raises(DecodeError):
            admit(sound[:cut])


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_pictures_of_other_formats_are_refused(format):
    """Half a file is refused, in every format."""
    data = encoded(pixels(100, 80), format)
    with pytest.raises(DecodeError):
        admit(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"<html>404</html>" * 100, bytes(5000)], ids=len)
def test_what_is_no_picture_is_refused(data):
    """Empty files, text and zeros are refused with a reason."""
    with pytest.raises(DecodeError) as error:
        admit(data)
    assert str(error.value)


def test_damage_in_mid_stream_is_refused():
    """A zeroed stretch inside the compressed data, which decodes to wrong pixels, is refused."""
    data = bytearray(jpeg(200, 200, quality=96))
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    with pytest.raises(DecodeError, match=r"corrupt|truncated"):
        admit(bytes(data))


def test_stray_bytes_between_segments_are_removed():
    """Junk in front of a header marker is cut out; the picture stays the same to the bit."""
    data = jpeg()
    at = data.index(b"\xff\xdb")
    picture = admit(data[:at] + b"junk" + data[at:])
    assert picture.jpeg == data and picture.change is not None and picture.change[0] == "repaired"


def test_padding_before_the_end_is_removed():
    """Zeros between the compressed data and the end marker, as some cameras write, are cut out."""
    data = jpeg()
    picture = admit(data[:-2] + bytes(64) + data[-2:])
    assert picture.change is not None and picture.change[0] == "repaired"
    assert np.array_equal(decoded(picture.jpeg), decoded(data))
    assert _core.decode_planes(picture.jpeg)[1] is None


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_blocks": 2}], ids=str
)
@pytest.mark.parametrize("cut", [1, 2])
def test_a_missing_end_is_added(cut, options):
    """A JPEG that lacks only its end-of-image marker is repaired: the same pixels, and its bytes as they were whole."""
    data = jpeg(200, 160, **options)
    image = admit(data[:-cut])
    assert image.jpeg == data and image.change == ("repaired", "Premature end of JPEG file")


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    """Cut between two scans it decodes without a warning, but to a coarser image."""
    data = jpeg(200, 160, progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for scan in scans[:-1]:
        end = min(at for marker in (b"\xff\xc4", b"\xff\xda") if (at := data.find(marker, scan + 2)) > 0)
        with pytest.raises(DecodeError, match="truncated"):
            admit(data[:end])


FURTHER = {"AVIF": {"quality": 95}, "JPEG2000": {}, "TGA": {}, "PPM": {}, "QOI": {}, "PCX": {}, "SGI": {}, "MPO": {}}


@pytest.mark.parametrize("format", FURTHER)
def test_further_formats_of_pillow_go_in(format):
    """AVIF, JPEG 2000, TGA, QOI, PCX, SGI and MPO are taken by their content, no name is needed."""
    if format not in {*Image.SAVE, *Image.SAVE_ALL}:
        pytest.skip(f"this Pillow does not write {format}")
    image = Image.fromarray(pixels(64, 48))
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]} if format == "MPO" else FURTHER[format]
    admitted = admit(encoded(image, format, **more))
    assert (admitted.change is None) == (format == "MPO")  # MPO begins with a whole JPEG
    assert difference(decoded(admitted.jpeg), np.asarray(image)) < 4


def test_of_an_animated_png_the_default_image_counts():
    """The first frame of an APNG is taken."""
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    shown = decoded(admit(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])).jpeg)
    assert shown[..., 0].min() > 200 and shown[..., 2].max() < 60


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC file.*install pillow-heif"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"8BPS" + bytes(50), "Photoshop"),
        (bytes(128) + b"DICM" + bytes(50), "DICOM"),
    ],
)
def test_formats_that_pillow_cannot_read_are_named(data, name):
    """The reason names the format, and what to do."""
    with pytest.raises(DecodeError, match=name):
        admit(data)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


BROKEN_CHUNKS = {
    "profile of 2 MiB": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 << 20))),
    "broken profile": chunk(b"iCCP", b"x\0\0nonsense"),
    "text with a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"\0",
    "exif with a wrong checksum": chunk(b"eXIf", b"MM\0*")[:-1] + b"\0",
    "text of 80 MiB": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20))),
}


@pytest.mark.parametrize("kind", BROKEN_CHUNKS)
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("exif_rotate", [False, True])
def test_damaged_text_does_not_cost_a_png(kind, at_end, exif_rotate):
    """Chunks that pixels do not depend on may be damaged or huge, before and after the pixels."""
    data = encoded(pixels(40, 30), "PNG")
    at = len(data) - 12 if at_end else 33
    image = admit(data[:at] + BROKEN_CHUNKS[kind] + data[at:], exif_rotate)
    assert image.jpeg == admit(data).jpeg


def test_damaged_pixels_cost_a_png():
    """A flipped bit in the pixels' chunk is refused."""
    data = bytearray(encoded(pixels(40, 30), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(DecodeError):
        admit(bytes(data))


def test_the_orientation_in_a_png_s_text_still_counts():
    """ImageMagick writes EXIF data into a text chunk."""
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = b"\nexif\n%8d\n%s\n" % (len(exif.tobytes()), exif.tobytes().hex().encode())
    data = encoded(pixels(40, 30), "PNG")
    turned = data[:33] + chunk(b"tEXt", b"Raw profile type exif\0" + raw) + data[33:]
    assert admit(turned, exif_rotate=True).size == (30, 40)


@pytest.mark.parametrize("size", [(65000, 65000), (20000, 10), (16384, 16384)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_absurd_sizes_are_refused_before_memory_is_taken(size, format):
    """A header that promises a giant picture is refused at once, by what it says."""
    width, height = size
    if format == "JPEG":
        data = bytearray(jpeg())
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    else:
        data = bytearray(encoded(pixels(8, 8), "PNG"))
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(DecodeError, match=r"too large|exceeds limit"):
        admit(bytes(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation(orientation, format):
    """Ignored by default; with `exif_rotate` the picture is turned as Pillow turns it."""
    from PIL import ImageOps

    image = Image.fromarray(pixels(64, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, format, exif=exif, **({"quality": 95, "subsampling": 0} if format == "JPEG" else {}))
    assert admit(data).size == (64, 40) and admit(data).orientation == 1
    if format == "JPEG":
        assert admit(data).jpeg == data
    upright = admit(data, exif_rotate=True)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert upright.orientation == orientation and upright.stored_size == (64, 40)
    assert upright.size == expected.shape[1::-1]
    assert difference(decoded(upright.jpeg), expected) < 1.5
    assert Image.open(io.BytesIO(upright.jpeg)).getexif().get(0x0112, 1) == 1 or orientation == 1


def test_formats_that_run_programs_are_not_opened():
    """PostScript, which Pillow would hand to another program, is not an image here."""
    with pytest.raises(DecodeError, match="PostScript file, which Pillow cannot read"):
        admit(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
