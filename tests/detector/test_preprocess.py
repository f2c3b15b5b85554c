"""Preprocessing is a part of the checkpoint: training, evaluate and predict do the same to the same image."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from detector import checkpoint, evaluate, predict
from detector.config import Config
from detector.data import evaluation_loader, open_split
from detector.errors import CheckpointError, ConfigError
from detector.infer.evaluation import settings_of
from detector.infer.files import ImageFiles
from detector.infer.stream import PredictStream
from detector.model.detector import Detector
from detector.preprocess import Preprocess
from detector.train import train
from fastload import BuildOptions, CenterAlign, RandomAlign, build_cache, find_datasets
from tests.support.datasets import encoded, pixels

CPU = torch.device("cpu")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A COCO folder of a JPEG, a PNG, a JPEG turned by EXIF and one of CMYK, in the order of their image ids 0 to 3."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "annotations").mkdir()
    (root / "val").mkdir()
    turned = Image.fromarray(pixels(150, 91, 3))
    turned.getexif()[0x0112] = 6
    files = {
        "a.jpg": ((130, 97), encoded(pixels(130, 97, 1), subsampling=2)),
        "b.png": ((75, 120), encoded(pixels(75, 120, 2), "PNG")),
        "c.jpg": ((91, 150), encoded(turned, exif=turned.getexif())),
        "d.jpg": ((110, 110), encoded(Image.fromarray(pixels(110, 110, 4)).convert("CMYK"))),
    }
    images = []
    for i, (name, ((width, height), data)) in enumerate(files.items()):
        (root / "val" / name).write_bytes(data)
        images.append({"id": i, "file_name": name, "width": width, "height": height})
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [20, 20, 40, 40], "area": 1600, "iscrowd": 0}
    names = [{"id": key, "name": name} for key, name in ((1, "red"), (4, "green"), (9, "blue"))]
    content = {"images": images, "annotations": [box], "categories": names}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (dataset,) = find_datasets(root)
    build_cache(dataset.load(), dataset.cache, BuildOptions(exif_rotate=True))
    return root


def network(config: Config) -> Detector:
    """An untrained network that finds something everywhere."""
    torch.manual_seed(0)
    model = Detector.from_config(config, 3).eval()
    dense, classifiers = model.head, [model.head]
    if config.head == "centernet2":
        dense, classifiers = model.head.proposer, model.head.stages
        torch.nn.init.normal_(dense.locate.weight, std=0.05)
    for part in classifiers:
        torch.nn.init.zeros_(part.classify.bias)
        torch.nn.init.normal_(part.classify.weight, std=0.3)
    torch.nn.init.constant_(dense.locate.bias, 1.5)
    return model


def save(path: Path, config: Config, **state) -> Path:
    settings = {"config": config.to_dict(), "preprocess": Preprocess.of(config).to_dict()}
    categories = [(1, "red"), (4, "green"), (9, "blue")]
    model = network(config).state_dict()
    checkpoint.save(path, {**settings, "categories": categories, "model": model, "ema": None, **state})
    return path


@pytest.mark.parametrize("align", ["top-left", "center", "random"])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("head", ["fcos", "centernet", "centernet2"])
def test_predict_detects_what_evaluate_detects(tiny, mixed, align, batch_size, head):
    """On files and on a cache of them, in batches of the same images: the same batches and detections, bit for bit."""
    config = replace(tiny, head=head, align=align, test_size=72, test_max_size=117)
    model, preprocess = network(config), Preprocess.of(config)
    evaluated = evaluation_loader(open_split(mixed, "", "val"), preprocess, batch_size, 1, CPU, torch.float32)
    files = ImageFiles(sorted((mixed / "val").iterdir()), preprocess, batch_size, 1, CPU, torch.float32)
    found = []
    for batches in (evaluated, files):
        stream = PredictStream(model, batches, model.decoder(settings_of(config)), CPU, torch.float32)
        found.append(
            {
                number: (detections.boxes[i], detections.scores[i], detections.labels[i])
                for detections in stream
                for i, number in enumerate(detections.image_ids)
            }
        )
    assert found[0].keys() == found[1].keys() == {0, 1, 2, 3}
    for number, expected in found[0].items():
        assert (expected[2] >= 0).sum() > 10 and all(map(torch.equal, found[1][number], expected))


def test_a_checkpoint_carries_its_preprocessing(tiny, tmp_path):
    """What training was told decides how evaluate and predict see images, without being told again: the figures are
    training's own, and predict lists what evaluate does. To be told otherwise changes the detections."""
    sizes = {"test_size": 80, "test_max_size": 110}
    config = replace(tiny, align="top-left", **sizes, epochs=1, score_threshold=0.0, max_detections=20)
    figures = train(config)
    best = checkpoint.load_model(config.out / "best.pt")
    assert best.preprocess == Preprocess.of(config) and best.preprocess.align == "top-left"

    results = tmp_path / "results.json"
    options = evaluate.Options(config.out / "best.pt", config.data, detections=results, device="cpu")
    assert evaluate.run(options, QUIET).metrics.figures == figures
    listed = []
    for changed in ({}, {"align": "center"}, {"test_size": 64}, {"test_max_size": 90}):
        evaluate.run(replace(options, batch_size=1, **changed), QUIET)
        listed.append(json.loads(results.read_text()))
        pictures = config.data / "val"
        predict.run(
            predict.Options(config.out / "best.pt", (pictures,), tmp_path, score=0, device="cpu", **changed), QUIET
        )
        predicted = json.loads((tmp_path / "predictions.json").read_text())
        assert sum(map(len, predicted.values())) == len(listed[-1]) > 20
        for file, items in predicted.items():
            expected = [result for result in listed[-1] if result["image_id"] == int(Path(file).stem)]
            assert [item["category_id"] for item in items] == [result["category_id"] for result in expected]
            assert [item["score"] for item in items] == pytest.approx([r["score"] for r in expected], abs=1e-4)
    assert all(one != other for i, one in enumerate(listed) for other in listed[:i])


def test_predict_lists_every_detection_from_its_score_on(tiny, mixed, tmp_path):
    """A low class score may come with a high enough score: nothing that evaluate finds at that score is lost."""
    best, counts = save(tmp_path / "best.pt", tiny), []
    for score in (0.0, 0.6):
        options = predict.Options(best, (mixed / "val",), tmp_path / "out", score=score, device="cpu")
        predict.run(options, QUIET)
        found = json.loads((tmp_path / "out" / "predictions.json").read_text())
        items = [item for objects in found.values() for item in objects]
        counts.append(sum(item["score"] > 0.6 for item in items))
        assert all(item["score"] >= score for item in items)
    assert counts[0] == counts[1] > 0


def test_a_network_normalizes_as_its_checkpoint_says(tiny, tmp_path):
    """Mean and deviation come from the checkpoint, not from the backbone's name: uint8 batches, too."""
    other = replace(Preprocess.of(tiny), mean=(10.0, 20.0, 30.0), std=(50.0, 60.0, 70.0))
    trained = checkpoint.load_model(save(tmp_path / "best.pt", tiny, preprocess=other.to_dict()))
    assert trained.preprocess == other
    images = torch.full((1, 3, 2, 2), 110, dtype=torch.uint8)
    assert trained.model.normalize(images)[0, :, 0, 0].tolist() == pytest.approx([2, 1.5, 8 / 7])


def test_checkpoints_without_preprocessing_are_converted(tiny, tmp_path):
    """Of version 2: their settings say all of it. Of version 3 with other parts of it: the error names them."""
    path = save(tmp_path / "best.pt", replace(tiny, align="top-left"))
    state = torch.load(path, weights_only=True)
    preprocess = state.pop("preprocess")
    torch.save({**state, "version": 2}, path)
    assert checkpoint.load_model(path).preprocess == Preprocess.of(replace(tiny, align="top-left"))
    torch.save({**state, "preprocess": {**preprocess, "gamma": 2.2}}, path)
    with pytest.raises(CheckpointError, match=r"best\.pt cannot be used: its preprocessing is .* gamma"):
        checkpoint.load_model(path)


def test_random_alignment_is_for_training_only(tiny):
    """What was trained anywhere on its canvas is evaluated in the middle, the same in every run."""
    preprocess = Preprocess.of(replace(tiny, align="random"))
    assert type(preprocess.collator(64, 96)) is CenterAlign
    assert type(preprocess.collator(64, 96, training=True)) is RandomAlign


def test_impossible_sizes_are_refused(tiny, tmp_path):
    """An option that cannot be is named before anything is read."""
    options = predict.Options(save(tmp_path / "best.pt", tiny), (tmp_path / "best.pt",), device="cpu", test_size=0)
    with pytest.raises(ConfigError, match="--test-size must be at least 1"):
        predict.run(replace(options, out=tmp_path / "out"), Console(file=io.StringIO()))
