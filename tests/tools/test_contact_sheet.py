"""Contact sheets: every box is drawn where it is, in its class's colour, whatever kind of batch it comes in."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastload import Cache, CenterAlign
from fastload.cache.write.build import BuildOptions, build_cache
from fastload.cli.app import app
from fastload.errors import FastloadError
from fastload.sources.detect import find_datasets
from fastload.tools.contact_sheet import BACKGROUND, GAP, choose, class_colors, draw, view

CATEGORIES = [SimpleNamespace(id=number, name=name) for number, name in ((1, "cat"), (5, "dog"), (90, "hair drier"))]
COLORS = class_colors(CATEGORIES)


def target(*boxes: tuple[float, ...], labels: tuple[int, ...] = (), **more) -> dict:
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels), **more}


def shown(sheet: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    """(H, W): where the sheet has exactly this colour."""
    return (np.asarray(sheet) == color).all(2)


def grey(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 127, dtype=torch.uint8)


def test_box_is_where_it_is():
    """A box is drawn at its scaled place, in its class's colour, on an image shown at a known scale."""
    sheet = draw([grey(368, 736)], [target((100, 120, 300, 200), labels=(5,))], CATEGORIES)
    rows, cols = np.nonzero(shown(sheet, COLORS[5])[: 368 + GAP])
    assert (cols.min() - GAP, cols.max() - GAP) == (100, 300)
    assert rows.max() - GAP == 200 and 95 <= rows.min() - GAP <= 120  # the label stands above
    assert shown(sheet, COLORS[5])[GAP + 160, GAP + 100]
    assert not shown(sheet, COLORS[1]).any() and not shown(sheet, COLORS[90]).any()


def test_crowd_is_dashed():
    """A crowd's frame has gaps, another's has none."""
    frames = []
    for crowd in (0, 1):
        note = target((100, 120, 700, 300), labels=(1,), iscrowd=torch.tensor([crowd]))
        frames.append(shown(draw([grey(368, 736)], [note], CATEGORIES), COLORS[1])[GAP + 300, GAP + 100 : GAP + 700])
    assert frames[0].all()
    assert 0.3 < frames[1].mean() < 0.8 and np.abs(np.diff(frames[1].astype(int))).sum() > 50


def test_every_class_has_its_own_colour():
    """80 categories get 80 colours, all of them bright."""
    colors = class_colors([SimpleNamespace(id=i, name=str(i)) for i in range(80)])
    assert len(set(colors.values())) == 80 and min(max(color) for color in colors.values()) == 255


def test_raw_images_of_any_size():
    """Images of different sizes, wide, high and tiny, without boxes too, stand in one sheet."""
    sizes = [(50, 700), (700, 50), (1, 1), (480, 640), (640, 480)]
    sheet = draw([grey(*size) for size in sizes], [target() for _ in sizes], CATEGORIES)
    assert shown(sheet, (127, 127, 127)).any() and shown(sheet, BACKGROUND).any()


def test_padding_is_visible():
    """A batch is drawn with its padding, in the colour it has."""
    batch = torch.zeros((2, 3, 64, 64), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    batch[:, :, :32] = 200
    sheet = np.asarray(draw(batch, [target(), target()], CATEGORIES))
    assert (sheet == 200).all(2).sum() == pytest.approx((sheet == 0).all(2).sum(), rel=0.05)


def test_predictions_show_scores():
    """Scores are written: other scores, another picture; boxes the same."""
    box = (10.0, 60.0, 200.0, 180.0)
    sheets = [
        draw([grey(200, 300)], [target(box, labels=(90,), scores=torch.tensor([score]))], CATEGORIES)
        for score in (0.25, 0.75, 0.75)
    ]
    pixels = [np.asarray(sheet).astype(int) for sheet in sheets]
    assert (pixels[0] != pixels[1]).any() and (pixels[1] == pixels[2]).all()


def test_labels_do_not_hide_each_other():
    """Many boxes in one place: fewer labels than boxes, but all frames."""
    box = (100.0, 100.0, 300.0, 300.0)
    one = draw([grey(736, 736)], [target(box, labels=(1,))], CATEGORIES)
    many = draw([grey(736, 736)], [target(*[box] * 40, labels=(1,) * 40)], CATEGORIES)
    areas = [shown(sheet, COLORS[1]).sum() for sheet in (one, many)]
    assert areas[0] < areas[1] < 7 * areas[0]


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        ([], [], "no image"),
        ([grey(4, 4)], [], "one of each"),
        ([torch.zeros(3, 4, 4)], [target()], "uint8"),
        ([torch.zeros((4, 4, 3), dtype=torch.uint8)], [target()], r"\(3, H, W\)"),
    ],
)
def test_what_cannot_be_drawn(images, targets, message):
    """Nothing, unequal numbers, floats and channels-last arrays are refused with a reason."""
    with pytest.raises(ValueError, match=message):
        draw(images, targets, CATEGORIES)


def test_unknown_class_and_boxes_beyond_the_image():
    """Boxes that leave the image, are empty or of an unknown class are drawn as far as they can be."""
    note = target((-50, -50, 900, 900), (20, 20, 20, 20), (300, 10, 10, 5), labels=(7, 1, 5))
    assert draw([grey(100, 100)], [note], CATEGORIES).width > 100


@pytest.fixture(scope="module")
def cache(sample_set, tmp_path_factory) -> Cache:
    path = tmp_path_factory.mktemp("cache") / "val.lmdb"
    build_cache(find_datasets(sample_set, splits=["val"])[0].load(), path, BuildOptions())
    return Cache(path)


def test_choose_images(cache):
    """By position, id and name, in that order; otherwise at random, the same for the same seed, none twice."""
    names = [cache.name(i) for i in range(len(cache))]
    assert choose(cache, [2, -1], [int(cache.image_ids[5])], [names[3]], images=16, seed=None) == [2, -1, 5, 3]
    chosen = choose(cache, [], [], [], images=4, seed=7)
    assert chosen == choose(cache, [], [], [], images=4, seed=7) and len(set(chosen)) == 4
    assert choose(cache, [], [], [], images=1000, seed=None) == list(range(len(cache)))


@pytest.mark.parametrize("wanted", [([9999], [], []), ([], [-5], []), ([], [], ["thesis.jpg"])])
def test_images_that_are_not_there(cache, wanted):
    """An image that the cache does not hold is named, and so is the cache."""
    with pytest.raises(FastloadError, match=r"val\.lmdb.*(9999|-5|thesis\.jpg)"):
        choose(cache, *wanted, images=1, seed=None)


def test_view_raw_shows_the_stored_pixels(cache, sample_set):
    """A raw sheet shows an image of the cache as Pillow decodes its file, but for what is drawn over it."""
    (empty,) = cache.images_without_boxes[:1]
    sheet = np.asarray(view(cache, [int(empty)]))
    with Image.open(sample_set / "val" / cache.name(int(empty))) as image:
        scale = 736 / max(image.size)
        expected = image.resize((round(image.width * scale), round(image.height * scale)), reducing_gap=2)
    shown = sheet[GAP : GAP + expected.height, GAP : GAP + expected.width]
    assert np.abs(shown.astype(int) - np.asarray(expected)).mean() <= 1


def test_view_as_batched_shows_the_padding(cache):
    """A batch of a high and a wide image has padding in the collator's colour, where the collator puts it."""
    sizes = cache.sizes
    pair = [int((sizes[:, 0] / sizes[:, 1]).argmin()), int((sizes[:, 0] / sizes[:, 1]).argmax())]
    grey = [
        shown(view(cache, pair, collator), (1, 2, 3))
        for collator in (CenterAlign(fill=(1, 2, 3)), CenterAlign(fill=(0, 0, 0)))
    ]
    assert grey[0].mean() > 0.1 and not grey[1].any()
    left = GAP + 5
    assert grey[0][GAP + 200, left] and grey[0][:, : grey[0].shape[1] // 2].any()


def test_view_command(cache, tmp_path):
    """The command writes the sheet where it is told and says so; what cannot be written is an error of ours."""
    out = tmp_path / "sheet.png"
    run = CliRunner()
    done = run.invoke(
        app, ["view", str(cache.path), "--batch", "--align", "center", "--images", "3", "--out", str(out)]
    )
    assert done.exit_code == 0 and "3 images" in done.stdout
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
    for bad in (tmp_path / "no" / "folder.png", tmp_path / "sheet.thesis", tmp_path / "sheet"):
        done = run.invoke(app, ["view", str(cache.path), "--images", "1", "--out", str(bad)])
        assert isinstance(done.exception, FastloadError) and str(bad) in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
