"""Contact sheets: images of a batch or a cache, drawn with their annotations and class names."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from fastload.annotations import RLE
from fastload.errors import FastloadError
from fastload.tools.text import escaped

if TYPE_CHECKING:
    from fastload.cache.read.cache import Cache
    from fastload.plan.align import Collator
    from fastload.recipes import Recipe

SHEET_WIDTH = 1680  # pixels: about the width of a screen
LARGEST_TILE = 736
GAP = 12
BACKGROUND, TEXT = (22, 24, 29), (196, 200, 208)
FONT_SIZE = 13
DASH = 6
POINT = 3  # radius of a keypoint
_DRAWN = ("boxes", "labels", "iscrowd", "scores", "image_id", "polygons", "masks", "keypoints", "rotated")
Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1


class NamedCategory(Protocol):
    """A category for `draw`, such as those of `Cache.categories`."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


def draw(
    images: Iterable[Any],
    targets: Iterable[Mapping[str, Any]],
    categories: Sequence[NamedCategory],
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Draw images with their annotations and class names, side by side on one sheet.

        images, targets = next(iter(loader))
        draw(images, targets, cache.categories).save("batch.png")

    Args:
        images: (B, 3, H, W) uint8, or B of (3, h, w) of any sizes; tensors on any device, or arrays.
        targets: `Targets`, or a dict for each image with `boxes` (n, 4) xyxy in pixels of the image and `labels` (n)
            category ids. Optional: `iscrowd` (n), whose boxes are dashed, `scores` (n), shown after the class name,
            `polygons`, a list of rings (k, 2) for each box, `masks` (n, h, w), whose edges are drawn for boxes without
            polygons, `keypoints` (n, K, 3) x, y, visibility, where hidden ones are hollow, `rotated` (n, 4, 2) corners,
            and `image_id`.
        categories: objects with an `id` and a `name`, such as `Cache.categories`.
        captions: a line of text below each image. Default: its image id.

    Returns:
        The sheet as a Pillow image.

    Raises:
        ValueError: there is no image, the counts differ, or an image is not uint8 (3, h, w).
    """
    tiles = [_to_pillow(image) for image in images]
    arrays = [
        {name: value if name == "polygons" else _array(value) for name, value in target.items() if name in _DRAWN}
        for target in targets
    ]
    if captions is None:
        captions = [f"image {target['image_id']}" if "image_id" in target else "" for target in arrays]
    if not len(tiles) == len(arrays) == len(captions):
        raise ValueError(
            f"{len(tiles)} images, {len(arrays)} targets and {len(captions)} captions: give one of each per image"
        )
    if not tiles:
        raise ValueError("there is no image to draw: give one image or more")
    colors = class_colors(categories)
    columns, long_edge, width = _layout([tile.size for tile in tiles])
    tiles = [
        _captioned(_annotated(tile, target, long_edge, categories, colors), caption, width)
        for tile, target, caption in zip(tiles, arrays, captions, strict=True)
    ]
    present = {int(label) for target in arrays for label in target["labels"]}
    return _sheet(tiles, columns, [(escaped(c.name), colors[c.id]) for c in categories if c.id in present])


def class_colors(categories: Sequence[NamedCategory]) -> dict[int, Color]:
    """Return a bright color for each category id. Hues are a golden angle apart, so that neighbors differ most."""
    colors = {}
    for number, category in enumerate(categories):
        hue, saturation = (0.02 + number * 0.381966) % 1, (0.85, 0.6)[number // 8 % 2]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
        colors[category.id] = (round(255 * red), round(255 * green), round(255 * blue))
    return colors


def view_recipe(
    cache: Cache, indices: Sequence[int], recipe: Recipe, epoch: int = 0, seed: int | None = None
) -> Image.Image:
    """Draw images of a cache on a sheet as training sees them.

    Args:
        cache: the cache; recipes that mix images take the others from all of it.
        indices: the images to draw, as one batch.
        recipe: what happens to them.
        epoch: the epoch, for recipes with a schedule.
        seed: the seed of all random numbers. Default: random.
    """
    import torch

    from fastload.loader.fast_loader import FastLoader

    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    settings = {**recipe.train, "skip_empty": False}  # positions are those of the cache
    loader = FastLoader(cache, batch_sampler=[list(indices)], generator=generator, **settings)
    loader.set_epoch(epoch)
    ((images, targets),) = loader
    return draw(images, targets, cache.categories, [_caption(cache, i) for i in indices])


def view(cache: Cache, indices: Sequence[int], collator: Collator | None = None) -> Image.Image:
    """Draw images of a cache on a sheet.

    Args:
        cache: the cache.
        indices: the images to draw.
        collator: draw the images as a batch of the loader with this collator (short edge 512, long edge at most 736).
            Default: draw them as they are stored.
    """
    from fastload.loader.fast_loader import FastLoader
    from fastload.plan.transforms import ShortestEdge

    subset = cache.subset(indices)
    captions = [_caption(cache, position) for position in subset.indices]
    has_run_lengths = RLE in cache.store.columns
    if collator is None:
        examples = [cache[i] for i in subset.indices]
        for (_, target), i in zip(examples, subset.indices, strict=True):
            if has_run_lengths:
                target["masks"] = cache.masks(i)
        return draw([image for image, _ in examples], [target for _, target in examples], cache.categories, captions)
    transforms = [ShortestEdge(512, max_size=736)]
    ((images, targets),) = FastLoader(
        subset, len(subset), collate_fn=collator, transforms=transforms, masks=has_run_lengths
    )
    return draw(images, targets, cache.categories, captions)


def choose(
    cache: Cache, index: Sequence[int], image_id: Sequence[int], name: Sequence[str], images: int, seed: int | None
) -> list[int]:
    """Return the indices of the requested images, or of random images if none is requested.

    Args:
        cache: the cache.
        index: indices of images.
        image_id: image ids.
        name: file names.
        images: number of random images.
        seed: seed of the random choice.

    Raises:
        FastloadError: a requested image is not in the cache.
    """
    if not (index or image_id or name):
        rng = np.random.default_rng(seed)
        return sorted(rng.choice(len(cache), min(images, len(cache)), replace=False).tolist())
    chosen = []
    for position in index:
        if not -len(cache) <= position < len(cache):
            raise FastloadError(f"{cache.where} has no image {position}: choose from 0 to {len(cache) - 1}")
        chosen.append(position)
    chosen += cache.index_of(image_id).tolist()
    names = {cache.name(i): i for i in range(len(cache))} if name else {}
    for wanted in name:
        if wanted not in names:
            raise FastloadError(f"{cache.where} has no image {wanted}: give a name such as {next(iter(names))}")
        chosen.append(names[wanted])
    return chosen


def save(sheet: Image.Image, file: Path) -> None:
    """Write a sheet atomically, in the format of the file's suffix. FastloadError if it cannot be written."""
    if file.suffix.lower() not in Image.registered_extensions():
        raise FastloadError(f"{file}: choose a file name with the suffix of an image format, such as .png.")
    unfinished = file.with_name(f".{file.name}.{os.getpid()}{file.suffix}")
    try:
        sheet.save(unfinished)
        os.replace(unfinished, file)
    except (OSError, ValueError) as error:
        raise FastloadError(f"{file} cannot be written: {error}. Choose another file.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _caption(cache: Cache, index: int) -> str:
    width, height = cache.sizes[index]
    boxes = int(cache.box_offsets[index + 1] - cache.box_offsets[index])
    return f"{index}: {escaped(cache.name(index))}, {width} x {height}, {boxes} box{'' if boxes == 1 else 'es'}"


def _array(value: Any) -> NDArray[Any]:
    """Convert a tensor of any device, an array or a number to an array."""
    return np.asarray(value.cpu() if hasattr(value, "cpu") else value)


def _to_pillow(image: Any) -> Image.Image:
    pixels = _array(image)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"draw needs uint8 images (3, H, W), not {pixels.dtype} {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _layout(sizes: Sequence[tuple[int, int]]) -> tuple[int, float, int]:
    """Return the number of columns of a roughly square sheet, the long edge of its images and the column width."""
    shapes = np.array([(width / max(width, height), height / max(width, height)) for width, height in sizes])
    wide, high = shapes.max(0)
    columns = min(ceil(sqrt(len(sizes) * high / wide)), len(sizes))
    long_edge = min((SHEET_WIDTH // columns - GAP) / wide, LARGEST_TILE)
    return columns, float(long_edge), ceil(long_edge * wide)


def _annotated(
    image: Image.Image,
    target: dict[str, Any],
    long_edge: float,
    categories: Sequence[NamedCategory],
    colors: dict[int, Color],
) -> Image.Image:
    """Scale an image to a long edge and draw its annotations."""
    scale = long_edge / max(image.size)
    scaled = image.resize((round(image.width * scale) or 1, round(image.height * scale) or 1), reducing_gap=2)
    pen = ImageDraw.Draw(scaled)
    names = {category.id: escaped(category.name) for category in categories}
    boxes = target["boxes"].reshape(-1, 4) * scale
    labels = target["labels"].astype(int).tolist()
    crowd = target.get("iscrowd", np.zeros(len(boxes))).astype(bool)
    largest_first = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")
    for i in largest_first:
        color = colors.get(labels[i], TEXT)
        _box(pen, tuple(boxes[i].tolist()), color, dashed=bool(crowd[i]))
        outlines = [*target["polygons"][i]] if "polygons" in target else []
        if "rotated" in target and target["rotated"][i].any():
            outlines.append(target["rotated"][i])
        for ring in outlines:
            _outline(pen, _array(ring) * scale, color)
        if "masks" in target and not outlines:
            _edge(scaled, target["masks"][i], color)
        if "keypoints" in target:
            _points(pen, target["keypoints"][i] * (scale, scale, 1), color)
    taken: list[Rectangle] = []
    for i in largest_first:
        text = names.get(labels[i], str(labels[i])) + (" (crowd)" if crowd[i] else "")
        if "scores" in target:
            text += f" {target['scores'][i]:.2f}"
        _label(pen, scaled.size, tuple(boxes[i].tolist()), text, colors.get(labels[i], TEXT), taken)
    return scaled


def _captioned(image: Image.Image, caption: str, width: int) -> Image.Image:
    """Center an image in a column of `width` pixels, with its caption below."""
    tile = Image.new("RGB", (width, image.height + FONT_SIZE + 8), BACKGROUND)
    tile.paste(image, ((width - image.width) // 2, 0))
    ImageDraw.Draw(tile).text((2, image.height + 4), caption, TEXT, _font())
    return tile


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _box(pen: ImageDraw.ImageDraw, box: Rectangle, color: Color, dashed: bool) -> None:
    """Draw a frame two pixels wide with a dark outline, which is visible on any image."""
    x0, y0, x1, y1 = box
    if not dashed:
        pen.rectangle((x0 - 1, y0 - 1, max(x1, x0) + 1, max(y1, y0) + 1), outline=(0, 0, 0))
        pen.rectangle((x0, y0, max(x1, x0), max(y1, y0)), outline=color, width=2)
        return
    for start in np.arange(x0, x1, 2 * DASH):
        for y in (y0, y1):
            pen.line((start, y, min(start + DASH, x1), y), color, 2)
    for start in np.arange(y0, y1, 2 * DASH):
        for x in (x0, x1):
            pen.line((x, start, x, min(start + DASH, y1)), color, 2)


def _outline(pen: ImageDraw.ImageDraw, ring: NDArray[Any], color: Color) -> None:
    """Draw a closed line through the points (k, 2)."""
    closed = [*map(tuple, ring.tolist()), tuple(ring[0].tolist())] if len(ring) else []
    for line_color, width in (((0, 0, 0), 4), (color, 2)):
        pen.line(closed, line_color, width, joint="curve")


def _edge(image: Image.Image, mask: NDArray[Any], color: Color) -> None:
    """Draw the edge of a mask (h, w) of the image before it was scaled, as `_outline` draws a ring."""
    inside = Image.fromarray(mask.astype(np.bool_).astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    image.paste((0, 0, 0), mask=ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(3)), inside))
    image.paste(color, mask=ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(5))))


def _points(pen: ImageDraw.ImageDraw, points: NDArray[Any], color: Color) -> None:
    """Draw keypoints (K, 3): visible ones as discs, hidden ones as circles, unlabeled ones not at all."""
    for x, y, visibility in points.tolist():
        if visibility > 0:
            spot = (x - POINT, y - POINT, x + POINT, y + POINT)
            pen.ellipse(spot, fill=color if visibility > 1 else None, outline=(0, 0, 0) if visibility > 1 else color)


def _label(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Rectangle,
    text: str,
    color: Color,
    taken: list[Rectangle],
) -> None:
    """Draw a class name beside or in its box, at the first place where it covers no other name.

    Without such a place, nothing is drawn: the legend explains the colors.
    """
    width, height = pen.textlength(text, _font()) + 6, FONT_SIZE + 3
    x0, y0, x1, y1 = box
    for x, y in ((x0, y0 - height), (x0, y0), (x0, y1), (x0, y1 - height), (x1 - width, y0 - height), (x1 - width, y0)):
        x = min(max(x, 0), size[0] - width)
        spot = (x, y, x + width, y + height)
        if y < 0 or spot[3] > size[1] or any(_overlap(spot, other) for other in taken):
            continue
        pen.rectangle(spot, fill=color)
        red, green, blue = color
        light = 0.3 * red + 0.59 * green + 0.11 * blue > 110
        pen.text((x + 3, y), text, (0, 0, 0) if light else (255, 255, 255), _font())
        taken.append(spot)
        return


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _sheet(tiles: list[Image.Image], columns: int, legend: list[tuple[str, Color]]) -> Image.Image:
    """Arrange tiles in rows, each as high as its highest tile, with the legend below."""
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    width = columns * (tiles[0].width + GAP) + GAP
    lines = _legend_lines(legend, width - 2 * GAP)
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1) + len(lines) * (FONT_SIZE + 8)), BACKGROUND)
    y = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP + column * (tile.width + GAP), y))
        y += height + GAP
    pen = ImageDraw.Draw(sheet)
    for line in lines:
        for x, name, color in line:
            pen.rectangle((GAP + x, y - 2, GAP + x + FONT_SIZE, y + FONT_SIZE - 2), fill=color)
            pen.text((GAP + x + FONT_SIZE + 5, y - 3), name, TEXT, _font())
        y += FONT_SIZE + 8
    return sheet


def _legend_lines(legend: list[tuple[str, Color]], width: int) -> list[list[tuple[float, str, Color]]]:
    """Break the legend into lines of (x, name, color)."""
    lines: list[list[tuple[float, str, Color]]] = []
    x = float(width)
    for name, color in legend:
        advance = _font().getlength(name) + FONT_SIZE + 24
        if x + advance > width:
            lines.append([])
            x = 0
        lines[-1].append((x, name, color))
        x += advance
    return lines
