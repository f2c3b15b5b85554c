"""Training: one loop, readable from top to bottom."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from detector import checkpoint, distributed
from detector.config import Config, differences
from detector.data import Split, check_trainable, open_split, training_loader
from detector.errors import CheckpointError, ConfigError, DataError, TrainingError
from detector.infer.drawing import draw_predictions
from detector.infer.evaluation import evaluate
from detector.preprocess import Preprocess
from detector.runtime import Stop, keep_freed_memory, pick_device, stop_signals
from detector.train.display import Display
from detector.train.metrics_log import Record, Row, write_config
from detector.train.step_metrics import Window
from detector.train.trainer import Learner
from fastload import PlanError


def train(config: Config) -> dict[str, float]:
    """Train as `config` says, in `config.out`. Returns the last evaluation's figures; none if stopped before one.

    Raises DetectorError or FastloadError, with what to do about it.
    """
    if not config.resume and (config.out / "last.pt").exists():
        raise ConfigError(
            f"{config.out} holds a run already: go on with --resume, or choose another folder with --out."
        )
    keep_freed_memory()
    with stop_signals() as stop, distributed.processes(pick_device(config.device)) as device:
        training = open_split(config.data, config.train_split, "train")
        validation = open_split(config.data, config.val_split, "val")
        check_trainable(training)
        if training.categories != validation.categories:
            raise DataError(f"{training.annotations} and {validation.annotations} have different categories.")
        run = Run(config, training_loader(training, config, device), validation, device, stop)
        try:
            return run.fit()
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise TrainingError(f"Out of memory at step {run.learner.step}. {MEMORY_ADVICE}") from error
            raise


class Run:
    """A training run: the loop, its evaluations, its checkpoints."""

    def __init__(self, config: Config, loader: Any, validation: Split, device: torch.device, stop: Stop) -> None:
        self.config, self.loader, self.validation, self.stop = config, loader, validation, stop
        self.categories, self.preprocess = validation.categories, Preprocess.of(config)
        self.steps_an_epoch = -(-len(loader) // config.accumulate)
        self.learner = Learner(config, len(self.categories), self.steps_an_epoch * config.epochs, device)
        self.epoch, self.best = 0, float("-inf")
        self.figures: dict[str, float] = {}
        self.window = Window()
        self.save_time = time.monotonic() + SAVE_SECONDS
        past = self._resume(config.out / "last.pt") if config.resume else []
        self.record = Record(config.out, past, writes=distributed.rank() == 0)
        self.display = Display(self.learner.steps, self.learner.step)

    def fit(self) -> dict[str, float]:
        """All epochs that are left. Returns the last evaluation's figures."""
        if distributed.rank() == 0:
            write_config(self.config, self.categories)
        with self.record, self.display:
            while self.epoch < self.config.epochs:
                if not self.train_epoch():
                    self.save()
                    self.display.say(f"Stopped at step {self.learner.step}. To go on: the same command with --resume")
                    break
                last = self.epoch == self.config.epochs - 1
                if last or (self.epoch + 1) % self.config.eval_every == 0:
                    self.save()
                    self.evaluate()
                self.epoch += 1
            else:
                self.save()
                best = self.config.out / "best.pt"
                self.display.say(f"All {self.learner.steps} steps are done. The weights with the best AP are {best}")
        return self.figures

    def train_epoch(self) -> bool:
        """The rest of the present epoch. False: asked to stop in the middle of it."""
        if self.learner.step >= (self.epoch + 1) * self.steps_an_epoch:
            return True  # the run was killed while this epoch was evaluated
        self.loader.set_epoch(self.epoch)
        batches = iter(self.loader)
        while taken := self.window.take(batches, self.config.accumulate):
            self.window.add(self.learner.lr, self.learner.update(taken), taken)
            self.display.advance()
            due = self.learner.step % self.config.log_every == 0
            if self._stop_asked(due):
                return False
            if due:
                self._log()
                if time.monotonic() > self.save_time:
                    self.save()
        return True

    def evaluate(self) -> None:
        """COCO's figures, the page of predictions, the curves; the best weights so far are kept."""
        model, learner = self.learner.best_model, self.learner
        distributed.copy_buffers_from_first_rank(model)
        with self.display.evaluation(self.epoch + 1) as report:
            found = evaluate(
                *(model, self.validation, self.config, self.preprocess, learner.device, learner.dtype),
                report=report,
            )
        self.figures = found.metrics.figures
        self._record({**self.figures})
        self.display.show_figures(self.epoch + 1, self.figures)
        if distributed.rank() == 0:
            self.record.draw_curves()
            draw_predictions(self.config.out / "predictions.png", self.validation, found.results, self.preprocess)
            if self.figures["AP"] > self.best:
                checkpoint.save(self.config.out / "best.pt", self._state({"model": model.state_dict(), "ema": None}))
        self.best = max(self.best, self.figures["AP"])
        self.window = Window()  # the evaluation is no part of a step's time

    def save(self) -> None:
        """All that it takes to go on, as last.pt; unless the losses or the weights have gone bad."""
        self.save_time = time.monotonic() + SAVE_SECONDS
        self._log()
        self.learner.check_finite()
        if distributed.rank() == 0:
            progress = {"epoch": self.epoch, "best": self.best, "rows": self.record.rows, "figures": self.figures}
            progress["loader"] = self.loader.state_dict()
            checkpoint.save(self.config.out / "last.pt", self._state({**self.learner.state_dict(), **progress}))

    def _resume(self, path: Path) -> list[Row]:
        """Go back to where `path` was written; returns the metrics up to there."""
        state = checkpoint.load(path)
        then = checkpoint.config_of(state, path)
        if different := differences(then, self.config):
            raise CheckpointError(
                f"{path} was written with other settings: {', '.join(different)}. To resume is to go on with the same; "
                "to begin anew choose another folder with --out."
            )
        checkpoint.check_categories(path, state["categories"], self.categories)
        if "optimizers" not in state:
            raise CheckpointError(f"{path} holds weights only and cannot be resumed.")
        self.learner.load_state_dict(state)
        try:
            self.loader.load_state_dict(state["loader"])
        except PlanError as error:
            raise CheckpointError(
                f"{path} cannot be resumed on these images: {error}. Its weights can still be evaluated; to train, "
                "begin anew in another folder with --out."
            ) from error
        self.epoch, self.best, self.figures = state["epoch"], state["best"], state["figures"]
        return list(state["rows"])

    def _state(self, content: dict[str, Any]) -> dict[str, Any]:
        settings = {"config": self.config.to_dict(), "preprocess": self.preprocess.to_dict()}
        return {**settings, "categories": self.categories, **content}

    def _stop_asked(self, everyone_is_here: bool) -> bool:
        """Whether to stop now. Several processes agree on it where they meet anyway."""
        if distributed.world_size() == 1:
            return bool(self.stop)
        return everyone_is_here and distributed.any_rank(bool(self.stop), self.learner.device)

    def _log(self) -> None:
        """Close the window of steps since the last line of metrics, if there are any."""
        if len(self.window):
            row = self.window.close()
            self._record(row)
            self.display.show({"step": self.learner.step, **row})
            self.window = Window()

    def _record(self, values: Row) -> None:
        step = self.learner.step
        self.record.add({"step": step, "epoch": step / self.steps_an_epoch, **values})


SAVE_SECONDS = 300  # what a crash may cost at most, within an epoch
MEMORY_ADVICE = (
    "Lower --batch-size (or raise --accumulate to keep it, in smaller parts), --sizes and --max-size, or use "
    "--precision bf16."
)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
