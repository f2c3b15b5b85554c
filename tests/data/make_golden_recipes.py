"""Makes tests/data/recipes: what published recipes do to the sample set, with the random numbers that they drew.

Run it in an environment of its own with torchvision, OpenCV and the packages that the repositories import, on a sample
set of 48 images (`make_sample("sample", images=48)`, as the tests' fixture makes it) and checkouts of the repositories
(see benchmarks/published.py for their names):

    python tests/data/make_golden_recipes.py --repositories repositories/ --sample sample/

A source is an image of the `train` split, by its position in the annotations. An object is an annotation of the split
that is not a crowd, by its position in the order of images. tests/support/recipes.py reads the files.
`images.npz` holds

- `sizes` (S, 2): width, height; `checksums` (S) uint32: CRC-32 of the decoded RGB pixels; `thumbnails` (S, 8, 8, 3);
- `boxes` (N, 4) float32, `labels` (N): boxes x0 y0 x1 y1 and classes, counted from 0, of the objects;
- `offsets` (S + 1): the objects of source i are those from offsets[i] to offsets[i + 1].

Each recipe has a JSON file of cases by name and an .npz file of their pixels. A case in the JSON file has

- `sources`: the sources in the order of use; `size`: width, height of the result;
- `draws`: the numbers drawn by name, and what follows from them at once, such as a crop (x, y, width, height);
- `boxes` (M, 4), `objects` (M), `labels` (M): boxes x0 y0 x1 y1 of the result, in its pixels, and their objects;
  missing if the transform knows no boxes;
- `crops_at` (C, 2): x, y of squares of the result.

The .npz file has `thumbnails` (cases, 16, 16, 3) uint8, the results resized by Pillow's BOX, and `crops`
(squares of all cases, n, n, 3) uint8, both in the order of the JSON file.

Numbers only: no code of the repositories is stored.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
import torchvision.transforms.functional as F
import yaml
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, ColorJitter, InterpolationMode, RandomResizedCrop, Resize, autoaugment
from torchvision.transforms import v2 as T2

DATA = Path(__file__).parent
sys.path.insert(0, str(DATA.parents[1] / "benchmarks"))

import published  # noqa: E402

Pixels = NDArray[np.uint8]
SIDE = 16  # of the stored squares
MEAN = (123.0, 117.0, 104.0)  # of torchvision's presets


@dataclass
class Sample:
    """The `train` split of the sample set. `boxes` (N, 4) and `labels` (N) are of all objects."""

    folder: Path
    annotations: Path
    names: list[str]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int32]

    @classmethod
    def read(cls, folder: Path) -> Sample:
        """Read the annotations of a sample set."""
        file = folder / "annotations" / "instances_train.json"
        document = json.loads(file.read_text())
        classes = {category: i for i, category in enumerate(sorted(c["id"] for c in document["categories"]))}
        kept: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            if not annotation["iscrowd"]:
                kept[annotation["image_id"]].append(annotation)
        objects = [annotation for found in kept.values() for annotation in found]
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]  # in float32, as the published loaders add them
        return cls(
            folder / "train",
            file,
            [image["file_name"] for image in document["images"]],
            boxes.numpy(),
            np.array([classes[o["category_id"]] for o in objects], np.int32),
            np.cumsum([0, *map(len, kept.values())]).astype(np.int32),
        )

    def image(self, source: int) -> Image.Image:
        """Decode an image."""
        return Image.open(self.folder / self.names[source]).convert("RGB")

    def objects(self, source: int) -> NDArray[np.int64]:
        """Return the numbers of the objects of an image."""
        return np.arange(self.offsets[source], self.offsets[source + 1])

    def target(self, source: int) -> dict[str, torch.Tensor]:
        """Return boxes, and numbers of objects as labels."""
        objects = self.objects(source)
        area = torch.ones(len(objects))
        crowd = torch.zeros(len(objects), dtype=torch.int64)
        boxes = torch.from_numpy(self.boxes[objects])
        return {"boxes": boxes, "labels": torch.from_numpy(objects), "area": area, "iscrowd": crowd}

    def write(self, file: Path) -> None:
        """Write sizes, checksums, thumbnails and objects."""
        images = [self.image(i) for i in range(len(self.names))]
        bgr = cv2.imread(str(self.folder / self.names[0]))
        assert np.array_equal(bgr[..., ::-1], np.asarray(images[0])), "OpenCV and Pillow decode differently"
        np.savez_compressed(
            file,
            sizes=np.array([image.size for image in images], np.int32),
            checksums=np.array([zlib.crc32(np.asarray(image).tobytes()) for image in images], np.uint32),
            thumbnails=np.stack([shrunk(np.asarray(image), 8) for image in images]),
            boxes=self.boxes,
            labels=self.labels,
            offsets=self.offsets,
        )


@dataclass
class Golden:
    """The cases of one file."""

    sample: Sample
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    thumbnails: list[Pixels] = field(default_factory=list)
    crops: list[Pixels] = field(default_factory=list)

    def add(
        self,
        name: str,
        sources: list[int],
        draws: dict[str, Any],
        image: Pixels,
        target: dict[str, Any] | None = None,
        crops: int = 2,
    ) -> None:
        """Add a case. `image` is (H, W, 3) RGB; `target` has `boxes` x0 y0 x1 y1 in pixels and objects as `labels`."""
        at = corners(image, crops)
        self.thumbnails.append(shrunk(image, 16))
        self.crops.extend(image[y : y + SIDE, x : x + SIDE] for x, y in at)
        case: dict[str, Any] = {"sources": sources, "size": image.shape[1::-1], "crops_at": at.tolist()}
        case["draws"] = {key: short(value) for key, value in draws.items()}
        if target is not None:
            objects = np.asarray(target["labels"]).astype(int)
            boxes = np.asarray(target["boxes"]).astype(float).reshape(-1, 4)
            case |= {"boxes": boxes.round(3).tolist(), "objects": objects.tolist()}
            case["labels"] = self.sample.labels[objects].tolist()
        self.cases[name] = case
        print(name, case["draws"])

    def write(self, folder: Path, name: str) -> None:
        """Write the cases and their pixels."""
        lines = [f"{json.dumps(case)}: {json.dumps(content)}" for case, content in self.cases.items()]
        (folder / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        np.savez_compressed(folder / f"{name}.npz", thumbnails=np.stack(self.thumbnails), crops=np.stack(self.crops))


def short(value: Any) -> Any:
    """Return the value as JSON, with 9 digits."""
    array = np.asarray(value)
    return (array.round(9) if array.dtype.kind == "f" else array).tolist()


def shrunk(image: Pixels, side: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))


def corners(image: Pixels, count: int) -> NDArray[np.int32]:
    """Return left top corners (count, 2) of squares with much contrast, in one grid."""
    rows, columns = image.shape[0] // SIDE, image.shape[1] // SIDE
    cells = image[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3).astype(float)
    contrast = cells.std((1, 3)).mean(-1).ravel()
    chosen = np.argsort(contrast, kind="stable")[[-1 - i * len(contrast) // 8 for i in range(count)]]
    return (np.stack([chosen % columns, chosen // columns], 1) * SIDE).astype(np.int32)


@contextmanager
def watched(**functions: tuple[Any, str]) -> Iterator[dict[str, list[SimpleNamespace]]]:
    """Record the calls of `attribute` of `owner`, by the name of each: their `args`, `kwargs` and `result`."""
    calls: dict[str, list[SimpleNamespace]] = {name: [] for name in functions}
    originals = {name: vars(owner)[attribute] for name, (owner, attribute) in functions.items()}

    def wrapper(name: str, owner: Any, attribute: str) -> Any:
        function = getattr(owner, attribute)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            calls[name].append(SimpleNamespace(args=args, kwargs=kwargs, result=result))
            return result

        return staticmethod(call) if isinstance(originals[name], staticmethod) else call

    for name, (owner, attribute) in functions.items():
        setattr(owner, attribute, wrapper(name, owner, attribute))
    try:
        yield calls
    finally:
        for name, (owner, attribute) in functions.items():
            setattr(owner, attribute, originals[name])


def seed(number: int) -> None:
    """Seed every generator that a repository uses."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def results(calls: list[SimpleNamespace]) -> NDArray[Any]:
    """The results of calls, one after another."""
    return np.concatenate([np.zeros(0), *(np.ravel(np.asarray(call.result)) for call in calls)])


def cropped(calls: list[SimpleNamespace], size: tuple[int, int]) -> list[int]:
    """Return x, y, width, height of the crop of torchvision's `crop(image, top, left, height, width)`, or all."""
    if not calls:
        return [0, 0, *size]
    top, left, height, width = calls[0].args[1:5]
    return [left, top, width, height]


# torchvision's references/detection, on Pillow images


def torchvision_cases(sample: Sample, repositories: Path) -> Golden:
    """RandomIoUCrop, RandomZoomOut, RandomPhotometricDistort, lsj, RandomShortestSize, flips, and the ssd preset."""
    golden = Golden(sample)
    T = published.torchvision_reference(repositories, "transforms")
    presets = published.torchvision_reference(repositories, "presets")

    def run(name: str, transform: Callable[..., Any], cases: list[tuple[int, int]], draws: Callable[..., Any]) -> None:
        for case, (source, number) in enumerate(cases):
            seed(number)
            image = sample.image(source)
            with (
                watched(rand=(torch, "rand"), randint=(torch, "randint"), randperm=(torch, "randperm")) as torch_calls,
                watched(crop=(F, "crop"), pad=(F, "pad"), resize=(F, "resize"), hflip=(F, "hflip")) as geometry,
                watched(**{key: (F, f"adjust_{key}") for key in COLOR}) as colors,
            ):
                out, target = transform(image, sample.target(source))
            if isinstance(out, torch.Tensor):
                out = F.to_pil_image(out)
            calls = SimpleNamespace(**torch_calls, **geometry, colors=colors)
            golden.add(f"{name}_{case}", [source], draws(image.size, calls), np.asarray(out), target)

    def iou_crop(size: tuple[int, int], calls: SimpleNamespace) -> dict[str, Any]:
        options = results(calls.randint).astype(int)
        return {"crop": cropped(calls.crop, size), "options": options, "uniforms": results(calls.rand)}

    def zoom_out(size: tuple[int, int], calls: SimpleNamespace) -> dict[str, Any]:
        _, ratio, place = (call.result.tolist() for call in calls.rand)
        left, top, right, bottom = calls.pad[0].args[1]
        canvas = [size[0] + left + right, size[1] + top + bottom]
        return {"ratio": 1 + ratio[0] * 3, "place": place, "offset": [left, top], "canvas": canvas}

    def lsj(size: tuple[int, int], calls: SimpleNamespace) -> dict[str, Any]:
        uniforms = results(calls.rand)
        height, width = calls.resize[0].args[1]
        crop = cropped(calls.crop, (min(width, 1024), min(height, 1024)))
        return {"scale": 0.1 + uniforms[0] * 1.9, "resized": [width, height], "crop": crop, "uniforms": uniforms}

    def shortest(size: tuple[int, int], calls: SimpleNamespace) -> dict[str, Any]:
        height, width = calls.resize[0].args[1]
        return {"choice": int(calls.randint[0].result), "resized": [width, height]}

    def ssd(size: tuple[int, int], calls: SimpleNamespace) -> dict[str, Any]:
        draws = photometric(size, calls)
        zoom = [0, 0, *size]
        if calls.pad:
            left, top, right, bottom = calls.pad[0].args[1]
            zoom = [left, top, size[0] + left + right, size[1] + top + bottom]
        crop = cropped(calls.crop, (zoom[2], zoom[3]))
        return draws | {"offset": zoom[:2], "canvas": zoom[2:], "crop": crop, "flip": bool(calls.hflip)}

    run("random_iou_crop", T.RandomIoUCrop(), [(4, 5), (17, 2), (2, 10), (13, 0), (19, 20), (2, 14)], iou_crop)
    run("random_zoom_out", T.RandomZoomOut(fill=list(MEAN), p=1), [(0, 0), (14, 1), (5, 2)], zoom_out)
    run(
        "random_photometric_distort",
        T.RandomPhotometricDistort(),
        [(0, 3), (3, 57), (7, 50), (18, 19), (9, 26)],
        photometric,
    )
    scale_jitter = T.Compose([T.ScaleJitter((1024, 1024), antialias=True), T.FixedSizeCrop((1024, 1024), fill=MEAN)])
    run("lsj", scale_jitter, [(0, 3), (4, 11), (11, 1), (15, 6), (2, 22)], lsj)
    sizes = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    run("random_shortest_size", T.RandomShortestSize(sizes, max_size=1333), [(5, 0), (9, 1), (13, 2)], shortest)
    run("random_horizontal_flip", T.RandomHorizontalFlip(1), [(5, 0), (9, 1), (13, 2)], lambda *_: {"flip": True})
    preset = presets.DetectionPresetTrain(data_augmentation="ssd")
    run("ssd", preset, [(6, 0), (17, 4), (1, 3)], ssd)
    return golden


COLOR = ("brightness", "contrast", "saturation", "hue")


def photometric(size: tuple[int, int], calls: SimpleNamespace) -> dict[str, Any]:
    """Return the factors of color steps (neutral if off), their order, and the permutation of channels."""
    found = {key: [call.args[1] for call in made] for key, made in calls.colors.items()}
    factors = {key: values[0] if values else float(key != "hue") for key, values in found.items()}
    permutations = [call.result.tolist() for call in calls.randperm if len(call.result) == 3]
    before = bool(calls.rand[0].result[1] < 0.5)
    return factors | {"contrast_first": before, "permutation": permutations[0] if permutations else [0, 1, 2]}


# torchvision's transforms for classification


def classification_cases(sample: Sample, _repositories: Path) -> Golden:
    """RandomResizedCrop, ColorJitter, every operation of RandAugment, and Resize with CenterCrop."""
    golden = Golden(sample)
    filters = (InterpolationMode.BILINEAR, InterpolationMode.BILINEAR, InterpolationMode.BILINEAR)
    for case, (source, mode) in enumerate(zip((0, 3, 14, 9), (*filters, InterpolationMode.BICUBIC), strict=True)):
        seed(case)
        with watched(params=(RandomResizedCrop, "get_params")) as calls:
            image = RandomResizedCrop(224, interpolation=mode)(sample.image(source))
        top, left, height, width = calls["params"][0].result
        draws = {"crop": [left, top, width, height], "bicubic": mode is InterpolationMode.BICUBIC}
        golden.add(f"random_resized_crop_{case}", [source], draws, np.asarray(image))
    for case, source in enumerate((0, 3, 9)):
        seed(case)
        with watched(params=(ColorJitter, "get_params")) as calls:
            image = ColorJitter(0.4, 0.4, 0.4, 0.1)(sample.image(source))
        order, *factors = calls["params"][0].result
        draws = {"order": order} | dict(zip(COLOR, factors, strict=True))
        golden.add(f"color_jitter_{case}", [source], draws, np.asarray(image))
    randaugment_cases(golden)
    for case, source in enumerate((0, 3, 9, 14)):
        mode = InterpolationMode.BICUBIC if case == 3 else InterpolationMode.BILINEAR
        image = CenterCrop(224)(Resize(256, interpolation=mode)(sample.image(source)))
        golden.add(f"resize_center_crop_{case}", [source], {"bicubic": case == 3}, np.asarray(image))
    return golden


def randaugment_cases(golden: Golden) -> None:
    """Each operation at magnitudes 9 and 30 of 31, both signs; geometry by nearest and bilinear, filled with black."""
    source = 0
    image = golden.sample.image(source)
    space = autoaugment.RandAugment()._augmentation_space(31, F.get_dimensions(image)[1:])
    modes = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
    for operation, (magnitudes, signed) in space.items():
        geometry = operation.startswith(("Shear", "Translate", "Rotate"))
        bins = (9, 30) if magnitudes.ndim else (0,)
        for number in bins:
            value = float(magnitudes[number] if magnitudes.ndim else 0.0) * (-1 if signed and number == 30 else 1)
            for mode in ("nearest", "bilinear") if geometry else ("nearest",):
                out = autoaugment._apply_op(image, operation, value, interpolation=modes[mode], fill=None)
                name = f"randaugment_{operation.lower()}_{number}" + (f"_{mode}" if geometry else "")
                golden.add(name, [source], {"magnitude": value}, np.asarray(out), crops=1)


# YOLOX


def yolox_cases(sample: Sample, repositories: Path) -> Golden:
    """Mosaic with its affine transform, augment_hsv, mixup, the letterbox, and all of it."""
    golden = Golden(sample)
    augment = published.yolox(repositories, "yolox.data.data_augment")
    mosaic = published.yolox(repositories, "yolox.data.datasets.mosaicdetection")
    coco = published.yolox(repositories, "yolox.data.datasets.coco")
    side = (640, 640)
    dataset = coco.COCODataset(sample.annotations.parents[1], sample.annotations.name, "train", side)
    for source, (found, *_) in enumerate(dataset.annotations):
        found[:, 4] = sample.objects(source)

    def detection(mixup: bool, preproc: Any) -> Any:
        """The dataset as YOLOX's yolox_base.py makes it."""
        scales = {"mosaic_scale": (0.1, 2), "mixup_scale": (0.5, 1.5)}
        return mosaic.MosaicDetection(dataset, side, preproc=preproc, enable_mixup=mixup, **scales)

    def untouched(image: Pixels, targets: NDArray[Any], _size: Any) -> tuple[Pixels, NDArray[Any]]:
        return image, targets

    def affine(calls: dict[str, Any], source: int) -> tuple[list[int], dict[str, Any]]:
        center_y, center_x, *numbers = results(calls["uniform"])[:8].tolist()
        names = ("angle", "scale", "shear_x", "shear_y", "translate_x", "translate_y")
        draws = {"center": [int(center_x), int(center_y)]} | dict(zip(names, numbers, strict=True))
        sources = [source, *results(calls["randint"])[:3].astype(int).tolist()]
        return sources, draws | {"matrix": calls["matrix"][0].result[0]}

    def drawing() -> Any:
        return watched(
            uniform=(random, "uniform"),
            randint=(random, "randint"),
            random=(random, "random"),
            matrix=(augment, "get_affine_matrix"),
            gains=(np.random, "uniform"),
            chosen=(np.random, "randint"),
        )

    def hsv(calls: dict[str, Any]) -> NDArray[Any]:
        gains = calls["gains"][0].result * [5, 30, 30] * calls["chosen"][0].result
        return gains.astype(np.int16)

    def mixed(uniforms: NDArray[Any], integers: NDArray[Any]) -> tuple[int, dict[str, Any]]:
        """The other source, and the draws; offsets are drawn only if the jittered image is larger than the output."""
        *_, y, x = integers if len(integers) > 2 else (*integers, 0, 0)
        return int(integers[0]), {"jitter": uniforms[0], "flip": bool(uniforms[1] > 0.5), "offset": [int(x), int(y)]}

    plain = detection(False, untouched)
    for case, source in enumerate((0, 4, 9, 17)):
        seed(case)
        with drawing() as calls:
            image, boxes, *_ = plain[source]
        sources, draws = affine(calls, source)
        golden.add(f"mosaic_{case}", sources, draws, image[..., ::-1], rows(boxes))
    for case, source in enumerate((0, 3, 9, 13)):
        seed(case + 1)
        image = dataset.load_image(source)
        with drawing() as calls:
            augment.augment_hsv(image)
        golden.add(f"augment_hsv_{case}", [source], {"gains": hsv(calls)}, image[..., ::-1])
    for case, source in enumerate((0, 4, 14)):
        seed(case + 2)
        image, found, *_ = dataset.pull_item(source)
        canvas = np.full((*side, 3), 114, np.uint8)
        canvas[: image.shape[0], : image.shape[1]] = image
        with drawing() as calls:
            image, boxes = plain.mixup(canvas, found, side)
        other, draws = mixed(results(calls["uniform"]), results(calls["randint"]))
        golden.add(f"mixup_{case}", [source, other], draws, image[..., ::-1], rows(boxes))
    for case, source in enumerate((0, 4, 14)):
        image, scale = augment.preproc(dataset.load_image(source), (416, 416 + 64 * case))
        golden.add(f"letterbox_{case}", [source], {"scale": scale}, rgb(image))
    full = detection(True, augment.TrainTransform(max_labels=120))
    for case, source in enumerate((2, 8, 15, 22)):
        seed(case + 10)
        with drawing() as calls:
            image, padded, *_ = full[source]
        sources, draws = affine(calls, source)
        other, more = mixed(results(calls["uniform"])[8:], results(calls["randint"])[3:])
        more = {f"mixup_{key}": value for key, value in more.items()}
        flip = bool(results(calls["random"])[-1] < 0.5)
        draws |= more | {"gains": hsv(calls), "flip": flip}
        found = padded[padded[:, 3] > 0]
        target = {"labels": found[:, 0], "boxes": xyxy(found[:, 1:])}
        golden.add(f"yolox_{case}", [*sources, other], draws, rgb(image), target)
    return golden


def rows(boxes: NDArray[Any]) -> dict[str, Any]:
    """YOLOX's rows of x0 y0 x1 y1 class."""
    return {"boxes": boxes[:, :4], "labels": boxes[:, 4]}


def xyxy(boxes: NDArray[Any]) -> NDArray[Any]:
    """Corners of boxes given by center and size."""
    centers, sizes = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], 1)


def rgb(image: NDArray[Any]) -> Pixels:
    """YOLOX's (3, H, W) BGR float32 as (H, W, 3) RGB."""
    return np.ascontiguousarray(image.transpose(1, 2, 0)[..., ::-1]).astype(np.uint8)


# DETR, D-FINE, DEIM


def detr_cases(sample: Sample, repositories: Path) -> Golden:
    """RandomSizeCrop, alone and between two resizes as in DETR's COCO transforms."""
    golden = Golden(sample)
    T = published.detr(repositories, "datasets.transforms")
    scales = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    steps = [T.RandomResize([400, 500, 600]), T.RandomSizeCrop(384, 600), T.RandomResize(scales, max_size=1333)]
    for name, transform in (("random_size_crop", steps[1]), ("resize_crop_resize", T.Compose(steps))):
        for case, source in enumerate((0, 7, 19)):
            seed(case)
            with (
                watched(crop=(F, "crop"), resize=(F, "resize")) as calls,
                watched(choice=(random, "choice"), randint=(random, "randint")) as drawn,
            ):
                image, target = transform(sample.image(source), sample.target(source))
            draws: dict[str, Any] = {"crop": cropped(calls["crop"], image.size)}
            if calls["resize"]:
                draws |= {"short": results(drawn["choice"]).astype(int)}
                draws |= {"resized": [call.args[1][::-1] for call in calls["resize"]]}
            golden.add(f"{name}_{case}", [source], draws, np.asarray(image), target)
    return golden


def transforms_v2(cls: type) -> tuple[type, str]:
    """What to watch of a transform of torchvision's v2: the parameters that it makes."""
    return cls, "make_params"


def coco_of(package: Any, sample: Sample, transforms: Any) -> Any:
    """D-FINE's or DEIM's dataset, whose labels are numbers of objects."""
    dataset = package.CocoDetection(str(sample.folder), str(sample.annotations), transforms)
    for source, image in enumerate(dataset.ids):
        found = dataset.coco.loadAnns(dataset.coco.getAnnIds(imgIds=image))
        kept = [annotation for annotation in found if not annotation["iscrowd"]]
        for annotation, number in zip(kept, sample.objects(source), strict=True):
            annotation["category_id"] = int(number)
    return dataset


def pipeline(file: Path, package: Any) -> Any:
    """The transforms of a repository's dataloader.yml, composed by its own class."""
    options = yaml.safe_load(file.read_text())["train_dataloader"]["dataset"]["transforms"]
    return package.Compose(**options)


def dfine_cases(sample: Sample, repositories: Path) -> Golden:
    """All transforms of D-FINE (those of RT-DETRv2).

    `rounded_away` has boxes that end at the right edge of its crop: scaled to 640 in float32, they end at 640.00006,
    and SanitizeBoundingBoxes drops them as outside. So it is for 22 of the 541 widths from 100 to 640.
    """
    golden = Golden(sample)
    package = published.dfine(repositories)
    transforms = pipeline(repositories / "D-FINE" / "configs" / "dfine" / "include" / "dataloader.yml", package)
    dataset = coco_of(package, sample, transforms)
    dataset.set_epoch(0)
    cases = {f"dfine_{i}": case for i, case in enumerate(((0, 0), (11, 21), (17, 9), (7, 12), (14, 15)))}
    for name, (source, number) in (cases | {"rounded_away_0": (4, 6)}).items():
        seed(number)
        size = sample.image(source).size
        with (
            watched(
                photometric=transforms_v2(T2.RandomPhotometricDistort),
                zoom=transforms_v2(T2.RandomZoomOut),
                crop=transforms_v2(T2.RandomIoUCrop),
            ) as calls,
            watched(flip=(T2.RandomHorizontalFlip, "transform")) as flips,
        ):
            image, target = dataset[source]
        draws: dict[str, Any] = {"applied": [bool(calls[key]) for key in ("photometric", "zoom", "crop")]}
        draws |= photometric_v2(calls["photometric"])
        left, top, right, bottom = calls["zoom"][0].result["padding"] if calls["zoom"] else (0, 0, 0, 0)
        canvas = [size[0] + left + right, size[1] + top + bottom]
        crop = calls["crop"][0].result if calls["crop"] else {}
        place = [crop["left"], crop["top"], crop["width"], crop["height"]] if crop else [0, 0, *canvas]
        draws |= {"offset": [left, top], "canvas": canvas, "crop": place, "flip": bool(flips["flip"])}
        golden.add(name, [source], draws, tensor(image), relative(target))
    return golden


def photometric_v2(calls: list[SimpleNamespace]) -> dict[str, Any]:
    """The color parameters of torchvision's v2, neutral if they were not drawn."""
    made = calls[0].result if calls else {}
    factors = {key: made.get(f"{key}_factor") for key in COLOR}
    draws = {key: float(key != "hue") if value is None else value for key, value in factors.items()}
    permutation = made.get("channel_permutation")
    draws["contrast_first"] = made.get("contrast_before", True)
    return draws | {"permutation": [0, 1, 2] if permutation is None else permutation}


def tensor(image: torch.Tensor) -> Pixels:
    """(3, H, W) float32 of 0..1 as (H, W, 3)."""
    return np.ascontiguousarray((image * 255).round().to(torch.uint8).permute(1, 2, 0))


def relative(target: dict[str, Any], size: int = 640) -> dict[str, Any]:
    """The target with corners in pixels instead of relative centers and sizes."""
    return target | {"boxes": xyxy(np.asarray(target["boxes"])) * size}


def deim_cases(sample: Sample, repositories: Path) -> Golden:
    """Mosaic (tiles of short edge 320, one affine transform) and the MixUp of a batch."""
    golden = Golden(sample)
    package = published.deim(repositories)
    options = yaml.safe_load((repositories / "DEIM" / "configs" / "base" / "deim.yml").read_text())["train_dataloader"]
    ops = [dict(op) for op in options["dataset"]["transforms"]["ops"]]
    dataset = coco_of(package, sample, None)
    mosaic = package.Compose(ops[:1])
    for case, source in enumerate((0, 4, 9, 14)):
        seed(case + 3)
        with (
            watched(choices=(random, "choices")) as drawn,
            watched(affine=transforms_v2(T2.RandomAffine)) as calls,
        ):
            image, target, _ = mosaic(*dataset.load_item(source), dataset)
        made = calls["affine"][0].result
        draws = {key: made[key] for key in ("angle", "translate", "scale", "shear")}
        golden.add(f"mosaic_{case}", [source, *drawn["choices"][0].result], draws, np.asarray(image), target)
    resize = [op for op in ops if op["type"] == "Resize"]
    dataset._transforms = package.Compose(resize)  # others need an old torchvision
    collate = package.BatchImageCollateFunction(mixup_prob=1.0, mixup_epochs=[4, 29])
    collate.set_epoch(5)
    for case, sources in enumerate(([0, 4], [9, 14, 2], [7, 1])):
        seed(case)
        items = [(F.to_tensor(image), target) for image, target in (dataset[source] for source in sources)]
        with watched(ratio=(random, "uniform")) as calls:
            images, targets = collate(items)
        for slot, (image, target) in enumerate(zip(images, targets, strict=True)):
            draws = {
                "lambda": round(float(calls["ratio"][0].result), 6),
                "weight": target["mixup"].double().round(decimals=6),
            }
            pair = [sources[slot], sources[slot - 1]]
            golden.add(f"mixup_{case}_{slot}", pair, draws, tensor(image), target)
    return golden


RECIPES: dict[str, Callable[[Sample, Path], Golden]] = {
    "classification": classification_cases,
    "torchvision": torchvision_cases,
    "yolox": yolox_cases,
    "detr": detr_cases,
    "dfine": dfine_cases,
    "deim": deim_cases,
}


def main() -> None:
    """Write every file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repositories", type=Path, required=True, help="folder of the checkouts")
    parser.add_argument("--sample", type=Path, required=True, help="sample set of 48 images")
    parser.add_argument("--out", type=Path, default=DATA / "recipes", help="folder of the files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sample = Sample.read(arguments.sample)
    sample.write(arguments.out / "images.npz")
    for name, cases in RECIPES.items():
        cases(sample, arguments.repositories).write(arguments.out, name)


if __name__ == "__main__":
    main()
