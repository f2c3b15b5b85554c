"""The commands: evaluate, predict and the example, on what a short run has left behind."""

import io
import json
import os
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from detector import checkpoint, evaluate, predict
from detector.data import evaluation_loader, open_split
from detector.errors import CheckpointError, DataError
from detector.infer.coco import coco_metrics
from detector.infer.evaluation import detect
from detector.infer.stream import PredictStream
from detector.loss.assign import assign
from detector.model.backbone import make_backbone
from detector.model.detector import Detector
from detector.model.grid import make_grid
from detector.model.head import Predictions
from detector.preprocess import Preprocess
from fastload import CenterAlign, RandomAlign, Targets, TopLeftAlign, make_sample
from tests.detector.networks import decoder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def best(tiny, tmp_path: Path) -> Path:
    """A checkpoint whose untrained head finds something everywhere."""
    torch.manual_seed(0)
    model = Detector.from_config(tiny, 3).eval()
    torch.nn.init.zeros_(model.head.classify.bias)
    torch.nn.init.normal_(model.head.classify.weight, std=0.3)
    torch.nn.init.constant_(model.head.locate.bias, 1.5)
    path = tmp_path / "best.pt"
    categories = [(1, "red"), (4, "green"), (9, "blue")]
    checkpoint.save(
        path,
        {
            "config": tiny.to_dict(),
            "preprocess": Preprocess.of(tiny).to_dict(),
            "categories": categories,
            "model": model.state_dict(),
            "ema": None,
        },
    )
    return path


def test_evaluate_writes_results_and_folding_changes_nothing(best, tiny, tmp_path):
    """Every annotated image once in COCO's format; with batch norms folded the detections are the same."""
    console = Console(quiet=True)
    plain = evaluate.Options(best, tiny.data, detections=tmp_path / "plain.json", workers=1, device="cpu")
    outcome = evaluate.run(plain, console)
    folded = evaluate.run(replace(plain, fuse_bn=True, detections=tmp_path / "folded.json"), console)
    results, again = (json.loads((tmp_path / name).read_text()) for name in ("plain.json", "folded.json"))
    annotated = json.loads((tiny.data / "annotations" / "instances_val.json").read_text())
    assert {result["image_id"] for result in results} == {image["id"] for image in annotated["images"]}
    assert {result["category_id"] for result in results} <= {1, 4, 9}
    timing = outcome.timing
    assert timing.images == 7 and 0 < timing.forward <= timing.elapsed
    assert f"bottleneck: {timing.bottleneck}" in str(timing)
    assert len(results) == len(again) > 20
    assert folded.metrics.figures == pytest.approx(outcome.metrics.figures, abs=1e-3)
    for one, other in zip(results, again, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.05)


@pytest.mark.parametrize("aligner", [TopLeftAlign, CenterAlign, RandomAlign])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_perfect_predictions_come_back_as_the_annotations(tiny, monkeypatch, aligner, batch_size):
    """A head that says exactly what it is taught gives the annotated boxes in original pixels, wherever the images lie
    on their canvas and however many there are in a batch; each once; and an AP of 1."""
    split, preprocess = open_split(tiny.data, "", "val"), Preprocess.of(tiny)
    monkeypatch.setattr(Preprocess, "collator", lambda *_: aligner())
    given: deque[Targets] = deque()

    def remembered():
        for images, targets in evaluation_loader(split, preprocess, batch_size, 1, CPU, torch.float32):
            given.append(targets)
            yield images, targets

    stream = PredictStream(
        lambda images, _: perfect(images, given.popleft()), remembered(), decoder(STRIDES), CPU, torch.float32
    )
    results, timing = detect(stream, [1, 4, 9])
    assert timing.images == 7 and not given
    truth = [a for a in json.loads(split.annotations.read_text())["annotations"] if not a["iscrowd"]]
    key = lambda a: (a["image_id"], a["category_id"], *(round(edge) for edge in a["bbox"]))  # noqa: E731
    assert sorted(map(key, results)) == sorted(map(key, truth))
    assert coco_metrics(split.annotations, results)["AP75"] == pytest.approx(1)


STRIDES = (8, 16, 32)
CPU = torch.device("cpu")


def perfect(images: torch.Tensor, targets) -> Predictions:
    """Predictions equal to what the targets teach."""
    shapes = tuple((images.shape[2] // stride, images.shape[3] // stride) for stride in STRIDES)
    usable = (targets.labels >= 0) & ~targets.crowd
    taught = assign(targets.boxes, targets.labels, usable, make_grid(STRIDES, shapes, images.device))
    out = Predictions([], [], [])
    for level, (height, width) in enumerate(shapes):
        logits = torch.full((len(images), 3, height * width), -10.0)
        boxes = torch.zeros(len(images), 4, height * width)
        image, candidate = taught.positive[:, level].nonzero().unbind(1)
        point, label = taught.point[image, level, candidate], taught.label[image, level, candidate]
        logits[image, label, point] = 10.0
        boxes[image, :, point] = taught.distances[image, level, candidate]
        out.logits.append(logits.unflatten(2, (height, width)))
        out.boxes.append(boxes.unflatten(2, (height, width)))
        out.quality.append(torch.full((len(images), 1, height, width), 10.0))
    return out


def test_other_classes_are_refused(best, tiny, tmp_path):
    """A dataset with other classes than the checkpoint's is not evaluated on."""
    annotations = tiny.data / "annotations" / "instances_val.json"
    other = tmp_path / "other"
    (other / "annotations").mkdir(parents=True)
    content = json.loads(annotations.read_text())
    content["categories"][0]["name"] = "crimson"
    (other / "annotations" / "instances_val.json").write_text(json.dumps(content))
    os.symlink(tiny.data / "val", other / "val")
    with pytest.raises(CheckpointError, match="Only in the dataset: crimson"):
        evaluate.run(evaluate.Options(best, other, device="cpu"), Console(quiet=True))


def test_predict_draws_and_writes_json(best, tmp_path):
    """A folder and a file, large and tiny images, two at a time: a drawing each, boxes within the image; names of files
    are shown as they are."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("a.jpg", (300, 200)), ("b[bold].png", (40, 90))):
        Image.new("RGB", size, (90, 120, 200)).save(folder / name)
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    out = tmp_path / "out"
    shown = io.StringIO()
    predict.run(predict.Options(best, (folder, tmp_path / "dot.png"), out, 0.1, 2, "cpu"), Console(file=shown))
    assert f"{folder / 'b[bold].png'}: " in shown.getvalue()
    found = json.loads((out / "predictions.json").read_text())
    assert [Path(name).name for name in found] == ["a.jpg", "b[bold].png", "dot.png"]
    assert len(list(out.glob("*.png"))) == 3
    objects = found[str(folder / "a.jpg")]
    assert objects and all(item["score"] >= 0.1 and item["category"] in ("red", "green", "blue") for item in objects)
    assert all(0 <= x0 < x1 <= 300 and 0 <= y0 < y1 <= 200 for x0, y0, x1, y1 in (item["box"] for item in objects))
    with pytest.raises(DataError, match="no image or folder"):
        predict.run(predict.Options(best, (tmp_path / "missing.jpg",), out, device="cpu"), Console(quiet=True))


def test_a_picture_that_cannot_be_read_stops_no_other(best, tmp_path):
    """Text, a cut PNG, an empty file: named at the end, when all others have been written."""
    Image.effect_noise((30, 20), 90).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    (tmp_path / "c.jpg").write_text("hello")
    (tmp_path / "d.jpg").touch()
    Image.new("L", (20, 30)).save(tmp_path / "e.png")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"(?s)a\.png was skipped: truncated.*c\.jpg was.*d\.jpg was.*is empty"):
        predict.run(predict.Options(best, (tmp_path,), out, device="cpu"), Console(quiet=True))
    found = json.loads((out / "predictions.json").read_text())
    assert [Path(name).name for name in found] == ["b.png", "e.png"]
    assert [path.name for path in sorted(out.glob("*.png"))] == ["0001-b.png", "0002-e.png"]


def test_drawings_are_upright_and_without_transparency(best, tmp_path):
    """A photograph turned by its EXIF data is drawn turned back; what is transparent lies on white."""
    turned = Image.new("RGB", (30, 20), "navy")
    turned.getexif()[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    Image.new("RGBA", (40, 40), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    paths = tmp_path / "turned.png", tmp_path / "clear.png"
    predict.run(predict.Options(best, paths, tmp_path / "out", score=1.0, device="cpu"), Console(quiet=True))
    drawings = [Image.open(path) for path in sorted((tmp_path / "out").glob("*.png"))]
    assert drawings[0].height > drawings[0].width and drawings[1].getpixel((20, 20)) == (255, 255, 255)


def test_the_example_runs_on_the_sample_set_from_end_to_end(tmp_path):
    """`python examples/train_fcos.py` without a dataset: sample set, caches, training, evaluation, run folder."""
    make_sample(tmp_path / "fastload-demo" / "sample", images=10)
    small = "--weights none --frozen-stages 0 --no-frozen-norm --channels 16 --width 16 --depth 1"
    small += " --sizes 64 --test-size 64 --epochs 1 --device cpu"
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train_fcos.py"), *small.split()],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "AP50" in done.stdout
    assert {"last.pt", "best.pt", "metrics.csv", "curves.png"} <= {
        path.name for path in (tmp_path / "runs/fcos").iterdir()
    }


def test_a_wrong_path_is_one_line(tmp_path):
    """No traceback, exit status 1."""
    done = subprocess.run(
        [sys.executable, "-m", "detector.train", str(tmp_path / "no[/where]"), "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no[/where] does not exist" in done.stderr and "Traceback" not in done.stderr


def test_every_backbone_can_be_built_from_settings(tiny):
    """The configuration reaches the network."""
    model = Detector.from_config(replace(tiny, backbone="resnet18", strides=(8, 16, 32, 64, 128)), 3)
    assert type(model.backbone) is type(make_backbone("resnet18")) and len(model.head.scale) == 5
