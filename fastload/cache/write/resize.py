"""The lossy dial: pictures made smaller, in pixels or in bytes, before they are stored. Off unless asked for."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, replace
from math import floor
from typing import Any

from PIL import Image

from fastload.cache.format.layout import Subsampling
from fastload.cache.write.checked_image import QUALITY, CheckedImage, checked_jpeg
from fastload.errors import DecodeError

SUBSAMPLINGS = {"444": Subsampling.S444, "422": Subsampling.S422, "420": Subsampling.S420}  # those Pillow writes


@dataclass(frozen=True, slots=True)
class Reduction:
    """How pictures are made smaller; what is None is left as it is."""

    short: int | None = None  # pixels: the shorter edge at most
    max_size: int | None = None  # pixels: the longer edge at most
    quality: int | None = None  # of the JPEG, 1 to 100; None: 95 where a picture has to be encoded anew
    subsampling: str | None = None  # of SUBSAMPLINGS; None: the picture's own

    def __bool__(self) -> bool:
        return any(value is not None for value in self.describe().values())

    def describe(self) -> dict[str, Any]:
        """The settings by name, None where there is none: what a manifest keeps."""
        return asdict(self)

    def after(self, earlier: Reduction) -> Reduction:
        """What pictures have been through that were reduced by `earlier`, then by this."""
        return Reduction(
            short=min(filter(None, (self.short, earlier.short)), default=None),
            max_size=min(filter(None, (self.max_size, earlier.max_size)), default=None),
            quality=self.quality or earlier.quality,
            subsampling=self.subsampling or earlier.subsampling,
        )

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that a picture of `size` is stored with: never larger, rounded half up."""
        scale = min(1.0, (self.short or min(size)) / min(size), (self.max_size or max(size)) / max(size))
        width, height = (max(1, floor(side * scale + 0.5)) for side in size)
        return width, height

    def apply(self, picture: CheckedImage) -> CheckedImage:
        """The picture as it is to be stored. One that nothing has to be done to keeps its very bytes.

        Shrinking is antialiased (Pillow's Lanczos filter). A picture whose size and subsampling stay is encoded anew
        only when `quality` is given, and kept as it was if that would take more bytes. `DecodeError` when it does not
        decode.
        """
        size, subsampling = self.size_of(picture.size), self._subsampling_of(picture)
        same_planes = size == picture.size and subsampling == picture.subsampling
        if same_planes and self.quality is None:
            return picture
        jpeg = _encode(_decode(picture), size, self.quality or QUALITY, subsampling)
        if same_planes and len(jpeg) >= len(picture.jpeg):
            return picture
        return replace(checked_jpeg(jpeg), orientation=picture.orientation, change=picture.change)

    def _subsampling_of(self, picture: CheckedImage) -> Subsampling:
        if picture.subsampling == Subsampling.GRAY:
            return Subsampling.GRAY
        return picture.subsampling if self.subsampling is None else SUBSAMPLINGS[self.subsampling]


def _decode(picture: CheckedImage) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(picture.jpeg), formats=["JPEG"])
        image.load()
    except Exception as error:  # as in `picture`: whatever a rare file makes Pillow trip over
        raise DecodeError(f"cannot be made smaller: {error}") from error
    return image


def _encode(image: Image.Image, size: tuple[int, int], quality: int, subsampling: Subsampling) -> bytes:
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Pillow has no 4:4:0 and no 4:1:1: what was stored so keeps all its colour in 4:4:4.
    known = subsampling if subsampling in SUBSAMPLINGS.values() else Subsampling.S444
    image.save(stream, "JPEG", quality=quality, subsampling=int(known), optimize=True)
    return stream.getvalue()
