"""Training runs: what they leave behind, resuming, several processes, and what goes wrong."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from detector import checkpoint, distributed, evaluate
from detector.config import ADDED, PRESETS, Config
from detector.data import open_split, training_loader
from detector.errors import CheckpointError, ConfigError, DataError, TrainingError
from detector.infer import postprocess
from detector.runtime import StopRequest
from detector.train import train
from detector.train.loop import TrainingRun
from detector.train.trainer import Trainer
from fastload import SourceError
from tests.detector.blocks import make_blocks
from tests.detector.waits import NoWaits


def open_run(config: Config, stop: StopRequest | None = None) -> TrainingRun:
    training = open_split(config.data, "", "train")
    validation = open_split(config.data, "", "val")
    cpu = torch.device("cpu")
    return TrainingRun(config, training_loader(training, config, cpu), validation, cpu, stop or StopRequest())


def stop_at(run: TrainingRun, step: int) -> None:
    """Ask `run` to stop once it has made `step` steps."""
    update = run.trainer.update

    def counted(batches):
        losses = update(batches)
        run.stop.received = run.trainer.step == step
        return losses

    run.trainer.update = counted


def same(a, b) -> bool:
    """Whether two checkpoints hold the same bits; times are let differ."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        skipped = {"resume", "out", "data_time", "step_time", "images_per_second"}
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key not in skipped)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_run_leaves_its_folder_and_returns_the_figures(tiny, capsys):
    """Checkpoints, settings, metrics as CSV and TensorBoard, curves and predictions as PNG; caches in the dataset. To
    resume what is done changes nothing and says so."""
    figures = train(tiny)
    assert set(figures) >= {"AP", "AP50", "AP75", "APs", "AR100"}
    found = {path.name for path in tiny.out.iterdir()}
    assert found == {"config.json", "metrics.csv", "tensorboard", "last.pt", "best.pt", "curves.png", "predictions.png"}
    settings = json.loads((tiny.out / "config.json").read_text())
    assert settings["lr"] == tiny.lr and settings["categories"] == ["red", "green", "blue"]
    rows = list(csv.DictReader((tiny.out / "metrics.csv").open()))
    losses = [row for row in rows if row["loss"]]
    assert [row["step"] for row in losses] == ["2", "3", "4", "6"]
    assert {"data_time", "step_time", "images_per_second", "lr"} <= losses[0].keys()
    assert [row["epoch"] for row in rows if row["AP"]] == ["1", "2"]
    assert Image.open(tiny.out / "predictions.png").width > 400 and Image.open(tiny.out / "curves.png").width > 400
    assert (tiny.data / "fastload" / "train.lmdb").exists()
    last = checkpoint.load(tiny.out / "last.pt")
    capsys.readouterr()
    assert train(replace(tiny, resume=True)) == figures
    assert "All 6 steps are done" in capsys.readouterr().out and same(checkpoint.load(tiny.out / "last.pt"), last)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tiny, step):
    """Stopped in mid-epoch or at its end: weights, EMA, optimiser, schedule, random numbers, position and metrics."""
    tiny = replace(tiny, accumulate=2, log_every=1, eval_every=2)
    whole = replace(tiny, out=tiny.out / "whole")
    open_run(whole).fit()
    run = open_run(tiny)
    stop_at(run, step)
    run.fit()
    assert checkpoint.load(tiny.out / "last.pt")["step"] == step
    torch.manual_seed(99)  # a new process begins with other random numbers
    open_run(replace(tiny, resume=True)).fit()
    expected, found = (checkpoint.load(config.out / "last.pt") for config in (whole, tiny))
    assert same(found, expected)
    assert same(checkpoint.load(tiny.out / "best.pt"), checkpoint.load(whole.out / "best.pt"))


OTHERS = {
    "centernet": {"head": "centernet", "clip_value": 1.0, "ignore_high": 0.85},
    "centernet on a bifpn": {"head": "centernet", "neck": "bifpn", "norm": "gn", "crop": 96, "strides": (8, 16, 32)},
    "centernet2": {"head": "centernet2", "rois": 16, "train_proposals": 50, "proposals": 30, "cascade_width": 32},
    "fcos on a bifpn": {"neck": "bifpn", "bifpn_separable": True, "masked_norm": True, "bifpn_repeats": 1},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_detectors_train_resume_evaluate_and_fuse_alike(tiny, name):
    """A run that was interrupted ends with an uninterrupted one's bits, and its figures are those of its checkpoint,
    with batch norms folded within rounding."""
    tiny = replace(tiny, **OTHERS[name])
    whole = replace(tiny, out=tiny.out / "whole")
    figures = train(whole)
    run = open_run(tiny)
    stop_at(run, 2)
    run.fit()
    open_run(replace(tiny, resume=True)).fit()
    assert same(*(checkpoint.load(config.out / "last.pt") for config in (tiny, whole)))
    for fuse_bn in (False, True):
        options = evaluate.Options(whole.out / "last.pt", tiny.data, fuse_bn=fuse_bn, device="cpu", workers=1)
        found = evaluate.run(options, Console(quiet=True)).metrics.figures
        assert found == pytest.approx(figures, abs=0.02 * fuse_bn)


@pytest.mark.parametrize("name", ["fcos", *OTHERS])
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_whole_step_never_waits_for_the_device(tiny, name, optimizer, monkeypatch):
    """Loss, gradients, clipping, update and averaged weights, without .item(), nonzero or boolean indices. Proposals
    are chosen as on a device: a CPU, which has nothing to wait for, does it in another way."""
    monkeypatch.setattr(postprocess, "_largest", lambda values, _, most: values.topk(min(most, values.shape[1])))
    tiny = replace(tiny, **OTHERS.get(name, {}), optimizer=optimizer)
    run = open_run(tiny)
    batches = list(run.loader)
    with NoWaits():
        losses = [run.trainer.update([batch]) for batch in batches]
    assert all(value.isfinite() for each in losses for value in each.values())


def test_killed_in_an_evaluation_it_resumes_with_that_evaluation(tiny, monkeypatch):
    """The epoch before is not trained again: the last checkpoint is an uninterrupted run's, bit for bit."""
    whole = replace(tiny, out=tiny.out / "whole")
    open_run(whole).fit()
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "evaluate", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_run(tiny).fit()
    assert checkpoint.load(tiny.out / "last.pt")["step"] == 3
    open_run(replace(tiny, resume=True)).fit()
    assert same(*(checkpoint.load(config.out / "last.pt") for config in (tiny, whole)))


def test_sigterm_saves_and_leaves_and_the_run_can_be_resumed(tiny, tmp_path):
    """A real process, a real signal: status 0, a checkpoint, no half-written file, and --resume finishes the run."""
    command = [sys.executable, "-m", "detector.train", str(tiny.data), *options(tiny), "--epochs", "400"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    for line in process.stdout:
        if line.startswith("step"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert "--resume" in rest
    state = checkpoint.load(tiny.out / "last.pt")
    assert 0 < state["step"] < 1200
    assert not list(tiny.out.glob(".*"))


def options(config: Config) -> list[str]:
    """The command line that gives `config`."""
    base, wanted = PRESETS[config.preset].to_dict(), config.to_dict()
    found = []
    for name, value in wanted.items():
        if value != base[name] and name != "data":
            no = "no-" if value is False else ""
            values = value if isinstance(value, tuple) else [] if isinstance(value, bool) else [value]
            found += [f"--{no}{name.replace('_', '-')}", *map(str, values)]
    return found


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


SHARED = [{"norm": "gn"}, {"norm": "bn"}, {"norm": "bn", "head": "centernet", "neck": "bifpn"}]


@pytest.mark.long
@pytest.mark.parametrize("settings", SHARED)
def test_two_processes_take_the_steps_of_one(tiny, tmp_path, settings):
    """Two ranks with half of each batch: equal weights within rounding after three steps; evaluation counts every image
    once and gives one process's figures. The pictures are of one size, so that both ranks' canvases are too."""
    data = make_blocks(tmp_path / "coco", {"train": 20, "val": 7}, upright=False)
    tiny = replace(
        tiny, data=data, weights="imagenet", frozen_norm=True, flip=0.0, sizes=(64,), epochs=1,
        optimizer="sgd", align="top-left", **settings,
    )  # fmt: skip
    single = replace(tiny, out=tmp_path / "one")
    train(single)
    double = replace(tiny, out=tmp_path / "two")
    train_in_two_processes(double)
    one, two = (checkpoint.load(config.out / "last.pt") for config in (single, double))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=2e-4, atol=2e-5, msg=name)
    assert one["figures"]["AR100"] == pytest.approx(two["figures"]["AR100"], abs=0.02)


@pytest.mark.long
@pytest.mark.parametrize("name", ["fcos", "centernet2"])
def test_a_run_goes_on_in_another_number_of_processes(tiny, name):
    """One process stops in mid-epoch, two take over: the epoch ends after the same number of steps."""
    tiny = replace(tiny, epochs=1, **OTHERS.get(name, {}))
    run = open_run(tiny)
    stop_at(run, 1)
    run.fit()
    train_in_two_processes(replace(tiny, resume=True))
    last = checkpoint.load(tiny.out / "last.pt")
    assert last["step"] == 3 and last["loader"]["world"] == 2 and "AP" in last["figures"]


def train_in_two_processes(config: Config) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    arguments = [*torchrun, "--standalone", "-m", "detector.train", str(config.data), *options(config)]
    done = subprocess.run(arguments, env=environment(), timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_batches_of_one(tiny, monkeypatch, world, accumulate):
    """Every process takes as many images a step; together they see each image once an epoch, the first ones again
    where the last batch does not divide; a step is of the images of one process's step."""

    def epochs(world: int) -> list[list[list[int]]]:
        """The images of each batch of two epochs, of all processes together."""
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        ranks = []
        for rank in range(world):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            ranks.append(training_loader(split, config, torch.device("cpu")))
        found = []
        for epoch in range(2):
            for loader in ranks:
                loader.set_epoch(epoch)
            steps = list(zip(*[[t.image_id.tolist() for _, t in loader] for loader in ranks], strict=True))
            assert all(len(set(map(len, step))) == 1 for step in steps)
            found.append([list(chain(*step)) for step in steps])
        return found

    config = replace(tiny, batch_size=12, accumulate=accumulate)
    split = open_split(tiny.data, "", "train")
    alone = epochs(1)
    for epoch, expected in zip(epochs(world), alone, strict=True):
        seen = list(chain(*epoch))
        assert set(seen) == set(split.cache.image_ids.tolist()) and len(seen) == 21 + -21 % world
        assert [sorted(set(step)) for step in epoch[:-1]] == [sorted(step) for step in expected[:-1]]
        assert set(expected[-1]) <= set(epoch[-1])
    assert alone[0] != alone[1]


def test_a_batch_draws_one_short_edge(tiny):
    """The images of a training batch are scaled alike, the batches differently."""
    split = open_split(tiny.data, "", "train")
    config = replace(tiny, batch_size=4, sizes=(32, 48, 64))
    loader = training_loader(split, config, torch.device("cpu"))
    drawn = [targets.size.amin(1).unique().tolist() for _ in range(4) for _, targets in loader]
    assert all(len(edges) == 1 for edges in drawn)
    assert {edge for edges in drawn for edge in edges} == {32, 48, 64}


@pytest.mark.long
@pytest.mark.parametrize("name", ["fcos", "centernet on a bifpn", "centernet2"])
def test_eight_images_are_learnt_by_heart(tiny, tmp_path, name):
    """Overfitting: AP of 0.9 on the pictures it was trained on."""
    folder = make_blocks(tmp_path / "coco", {"train": 8, "val": 8}, seed=5, upright=False)
    (folder / "annotations" / "instances_val.json").write_text(
        (folder / "annotations" / "instances_train.json").read_text()
    )
    for picture in (folder / "train").iterdir():
        (folder / "val" / picture.name).write_bytes(picture.read_bytes())
    config = replace(
        replace(tiny, data=folder, channels=32, width=32, sizes=(96,), max_size=160, flip=0.0),
        **{
            "epochs": 110,
            "eval_every": 110,
            "log_every": 50,
            "weight_decay": 0.0,
            "test_max_size": 160,
            "lr": 5e-3,
            "backbone_lr": 1.0,
            "warmup": 5,
            "ema": 0.0,
            "test_size": 96,
            **OTHERS.get(name, {}),
            **{"norm": "gn", "crop": 0},
        },
    )
    assert train(config)["AP"] >= 0.9


def test_a_loss_that_is_not_a_number_names_its_images_and_keeps_the_last_checkpoint(tiny):
    """Training stops at the next line of metrics; last.pt is still the one before."""
    run = open_run(tiny)
    loss, poisoned = run.trainer.loss, []

    def sick(images, targets):
        found = loss(images, targets)
        if run.trainer.step != 4:
            return found
        poisoned.extend(targets.image_id.tolist())
        return {**found, "box": found["box"] * float("nan")}

    run.trainer.loss = sick
    with pytest.raises(TrainingError, match="not a number") as caught:
        run.fit()
    assert poisoned and all(str(image_id) in str(caught.value) for image_id in poisoned)
    state = checkpoint.load(tiny.out / "last.pt")
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["model"].values())


def test_bad_datasets_are_explained(tiny, tmp_path):
    """No dataset, no boxes at all, splits that cannot be told: one line each."""
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SourceError, match=r"no dataset of the format coco in .*pictures, which holds nothing"):
        train(replace(tiny, data=tmp_path / "pictures"))
    empty = make_blocks(tmp_path / "empty", {"train": 2, "val": 2})
    content = json.loads((empty / "annotations" / "instances_train.json").read_text())
    content["annotations"] = []
    (empty / "annotations" / "instances_train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"none of its 2 images has a box"):
        train(replace(tiny, data=empty))
    two = make_blocks(tmp_path / "two", {"train_a": 2, "train_b": 2, "val": 2})
    with pytest.raises(DataError, match="--train-split"):
        train(replace(tiny, data=two))
    assert not tiny.out.exists()


IMPOSSIBLE = [
    *[("score_threshold", 1.5), ("nms_threshold", -0.1), ("candidates", 0), ("max_detections", -1), ("test_size", 0)],
    *[("lr", float("nan")), ("seed", -1), ("sizes", ()), ("sizes", (64, 0)), ("width", 0), ("workers", -1), ("ema", 2)],
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_settings_are_refused_at_once(tiny, name, value):
    """Not when they are first used, which may be after an epoch."""
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be "):
        replace(tiny, **{name: value})


def test_memory_that_is_exhausted_says_what_to_lower(tiny, monkeypatch):
    """The message names the settings."""

    def update(self, batches):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Trainer, "update", update)
    with pytest.raises(TrainingError, match=r"--batch-size .*--accumulate.*--sizes"):
        train(tiny)


def test_checkpoints_that_cannot_be_used_are_explained(tiny, tmp_path):
    """Missing, damaged, foreign, of another version, of other settings, of other classes."""
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(replace(tiny, resume=True))
    open_run(replace(tiny, epochs=1)).fit()
    last = tiny.out / "last.pt"
    with pytest.raises(ConfigError, match="--resume, or choose another folder"):
        train(tiny)
    with pytest.raises(CheckpointError, match=r"--epochs 1 \(now 2\)"):
        train(replace(tiny, resume=True))
    state = torch.load(last, weights_only=True)
    torch.save({**state, "loader": {**state["loader"], "images": 20}}, last)
    with pytest.raises(CheckpointError, match=r"cannot be resumed on these images: .*images 20, here it is 21.* --out"):
        train(replace(tiny, epochs=1, resume=True))
    torch.save(state, last)
    (tmp_path / "damaged.pt").write_bytes(last.read_bytes()[:-2000])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    torch.save({**state, "version": 0}, tmp_path / "old.pt")
    torch.save({**state, "config": {"lr": 1.0}}, tmp_path / "settings.pt")
    for name, reason in (
        ("damaged", "damaged"),
        ("foreign", "not a checkpoint of this"),
        ("old", "version 0"),
        ("settings", "another version"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            checkpoint.load_model(tmp_path / f"{name}.pt")
    with pytest.raises(CheckpointError, match=r"Only in the checkpoint: dog\. Only in the dataset: cat"):
        checkpoint.check_categories(last, [(1, "dog")], [(1, "cat")])


def test_checkpoints_from_before_there_were_other_detectors_load(tiny):
    """A checkpoint without the settings of other detectors is an FCOS, and its run can be resumed."""
    open_run(replace(tiny, epochs=1)).fit()
    last = tiny.out / "last.pt"
    state = checkpoint.load(last)
    older = {name: value for name, value in state["config"].items() if name not in ADDED}
    assert older.keys() < state["config"].keys()
    torch.save({**state, "config": older}, last)
    assert checkpoint.load_model(last).config == replace(tiny, epochs=1)
    assert train(replace(tiny, epochs=1, resume=True)) == state["figures"]


def test_settings_that_contradict_one_another_are_explained(tiny):
    """A batch that cannot be shared out, a width that group norm cannot divide, random weights that stay so."""
    with pytest.raises(ConfigError, match="--batch-size 8 cannot be shared"):
        train(replace(tiny, accumulate=3))
    with pytest.raises(ConfigError, match="--frozen-stages 0 --no-frozen-norm"):
        train(replace(tiny, frozen_stages=3))
    with pytest.raises(ConfigError, match="--width"):
        replace(tiny, width=20)
    with pytest.raises(ConfigError, match="--device"):
        train(replace(tiny, device="nonsense"))


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    """Whatever happens while a checkpoint is written, the one before is whole and no litter stays."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
