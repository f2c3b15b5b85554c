"""Lossy reduction of images before they are stored, in pixels or in bytes. Off by default."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, replace
from math import floor
from typing import Any

from PIL import Image

from fastload.cache.format.layout import Subsampling
from fastload.cache.write.checked_image import QUALITY, CheckedImage, checked_jpeg
from fastload.errors import DecodeError

SUBSAMPLINGS = {"444": Subsampling.S444, "422": Subsampling.S422, "420": Subsampling.S420}  # that Pillow can write


@dataclass(frozen=True, slots=True)
class Reduction:
    """How images are reduced before they are stored. By default they are stored unchanged.

        build_cache(source, "small.lmdb", BuildOptions(reduction=Reduction(short=512, quality=90, subsampling="420")))

    Images are never enlarged. Shrinking is antialiased (Pillow's Lanczos filter).

    Args:
        short: maximum length of the shorter edge in pixels.
        max_size: maximum length of the longer edge in pixels.
        quality: JPEG quality, 1 to 100. Default: 95 for images that must be re-encoded.
        subsampling: chroma subsampling: "444", "422" or "420". Default: that of the image.
    """

    short: int | None = None
    max_size: int | None = None
    quality: int | None = None
    subsampling: str | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in self.describe().values())

    def describe(self) -> dict[str, Any]:
        """Return the settings by name, as the manifest stores them."""
        return asdict(self)

    def after(self, earlier: Reduction) -> Reduction:
        """Return the reduction that is equivalent to `earlier` followed by this one."""
        return Reduction(
            short=min(filter(None, (self.short, earlier.short)), default=None),
            max_size=min(filter(None, (self.max_size, earlier.max_size)), default=None),
            quality=self.quality or earlier.quality,
            subsampling=self.subsampling or earlier.subsampling,
        )

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the stored size of an image.

        Args:
            size: width and height of the image in pixels.

        Returns:
            Width and height, rounded half up.
        """
        scale = min(1.0, (self.short or min(size)) / min(size), (self.max_size or max(size)) / max(size))
        width, height = (max(1, floor(side * scale + 0.5)) for side in size)
        return width, height

    def apply(self, image: CheckedImage) -> CheckedImage:
        """Reduce an image.

        An image whose size and subsampling do not change is re-encoded only if `quality` is given and the result is
        smaller. Otherwise its bytes stay the same.

        Args:
            image: the image to reduce.

        Returns:
            The reduced image, or `image` itself if it is unchanged.

        Raises:
            DecodeError: Pillow cannot decode the image.
        """
        size, subsampling = self.size_of(image.size), self._subsampling_of(image)
        same_planes = size == image.size and subsampling == image.subsampling
        if same_planes and self.quality is None:
            return image
        jpeg = _encode(_decode(image), size, self.quality or QUALITY, subsampling)
        if same_planes and len(jpeg) >= len(image.jpeg):
            return image
        return replace(checked_jpeg(jpeg), orientation=image.orientation, change=image.change)

    def _subsampling_of(self, image: CheckedImage) -> Subsampling:
        if image.subsampling == Subsampling.GRAY:
            return Subsampling.GRAY
        return image.subsampling if self.subsampling is None else SUBSAMPLINGS[self.subsampling]


def _decode(checked: CheckedImage) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(checked.jpeg), formats=["JPEG"])
        image.load()
    except Exception as error:  # Pillow's decoders raise any type of exception on unusual files
        raise DecodeError(f"cannot be reduced: {error}") from error
    return image


def _encode(image: Image.Image, size: tuple[int, int], quality: int, subsampling: Subsampling) -> bytes:
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Pillow cannot write 4:4:0 and 4:1:1. 4:4:4 keeps all of their chroma.
    writable = subsampling if subsampling in SUBSAMPLINGS.values() else Subsampling.S444
    image.save(stream, "JPEG", quality=quality, subsampling=int(writable), optimize=True)
    return stream.getvalue()
