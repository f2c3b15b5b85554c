"""The cache format: one LMDB file, described here and nowhere else.

Keys, in LMDB's (byte) order:

    b"index/" + name      a flat little-endian array over all images or boxes (see INDEX, OPTIONAL and
                          `annotations.Column.keys`)
    b"manifest"           b"xxh64=" + 16 hex digits of the JSON's checksum + b"\\n" + JSON (see manifest keys below)
    b"record/" + position the image at this position of the source; position is 8 bytes, big-endian
    b"source/files"       optional: the source files and their stamps, see `source_files.SourceFiles`

A record is a RECORD_HEADER followed by the payload. Its checksum is xxh64(payload, seed=xxh64(header without
the checksum, seed=0)), so a flipped bit anywhere in the record is detected. Skipped images have no record, so the n
records in key order are images 0 .. n-1 of the index.

The manifest is written last, in the transaction that completes the cache, so a file without a manifest is an
interrupted build. Manifest keys: version, encoding, images, boxes, categories [{id, name, supercategory}], source,
arrays {name: {dtype, shape, checksum}} (with the `traits` of an `annotations.Column` that has some), fingerprint (hex;
changes whenever images or annotations change).

The Python readers and the C++ core treat every byte of the file as untrusted. Nothing is ever unpickled.
"""

from enum import IntEnum

import numpy as np

from fastload.annotations import DTYPES, SCHEMA

VERSION = 1
MANIFEST_KEY = b"manifest"
INDEX_PREFIX = b"index/"
RECORD_PREFIX = b"record/"
SOURCE_FILES_KEY = b"source/files"


class Encoding(IntEnum):
    """How a cache stores images: the encoding of a record's payload. All encodings give the same pixels.

        build_cache(source, "train.lmdb", BuildOptions(encoding=Encoding.ORIGINAL))

    ORIGINAL: a JPEG file that libjpeg-turbo decodes without a warning.
    DCT: the JPEG's quantized coefficients, entropy coded for SIMD.
    DCT_FAST: the JPEG's quantized coefficients without entropy coding.
    PLANES: decoded planes.
    """

    ORIGINAL = 0
    DCT = 1
    DCT_FAST = 2
    PLANES = 3

    @property
    def label(self) -> str:
        """The name in manifests and on the command line: "original", "dct", "dct-fast" or "planes"."""
        return self.name.lower().replace("_", "-")


class Subsampling(IntEnum):
    """Chroma subsampling, with the numbers of TurboJPEG's TJSAMP."""

    S444 = 0
    S422 = 1
    S420 = 2
    GRAY = 3
    S440 = 4
    S411 = 5


RECORD_MAGIC = 0x31524C46  # b"FLR1"
RECORD_HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("encoding", "u1"),
        ("subsampling", "u1"),
        ("rgb", "u1"),  # 1: the planes are R, G, B instead of Y, Cb, Cr
        ("reserved", "u1"),
        ("width", "<u4"),  # of the decoded image, in pixels
        ("height", "<u4"),
        ("payload", "<u8"),  # bytes that follow the header
        ("checksum", "<u8"),
    ]
)
assert RECORD_HEADER.itemsize == 32

# The arrays that every cache has, as name: (dtype, length). "image": one entry per image; "image+1": offsets;
# "object": one entry per annotation; "bytes": characters.
INDEX = {
    "image_id": ("<i8", "image"),
    "size": ("<i4", "image"),  # (n, 2) width, height of the decoded image
    "source_size": ("<i4", "image"),  # (n, 2) of the annotated image; larger than `size` if it was shrunk
    "encoding": ("u1", "image"),
    "name_offset": ("<i8", "image+1"),  # into `names`
    "checksum": ("<u8", "image"),  # of the record, as in its header
    "names": ("u1", "bytes"),  # file names, UTF-8, concatenated
    "box_offset": ("<i8", "image+1"),  # boxes of image i: rows box_offset[i] to box_offset[i + 1]
    **{column.key: (DTYPES[column.dtype], column.per) for column in SCHEMA},
}

# Arrays that a cache has unless it was built before they existed, as name: (dtype, shape of the value of one image).
COLOR_MEAN = "color/mean"  # of R, G and B over the decoded image, in levels of 0 to 255
COLOR_STD = "color/std"  # the standard deviation
OPTIONAL = {COLOR_MEAN: ("<f4", (3,)), COLOR_STD: ("<f4", (3,))}


def record_key(position: int) -> bytes:
    """Return the key of the image at `position` in the source."""
    return RECORD_PREFIX + position.to_bytes(8, "big")
