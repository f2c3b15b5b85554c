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
from detector.runtime import StopRequest, keep_freed_memory, pick_device, stop_on_signals
from detector.train.display import Display
from detector.train.metrics_log import MetricsLog, Row, write_config
from detector.train.step_metrics import StepMetrics
from detector.train.trainer import Trainer
from fastload import FastLoader, StateError


def train(config: Config) -> dict[str, float]:
    """Train as `config` says; checkpoints, metrics and drawings go to `config.out`.

        figures = train(replace(PRESETS["fcos_tiny"], data=Path("coco/"), out=Path("runs/tiny")))

    Returns:
        The last evaluation's figures by name, such as "AP"; empty if it was stopped before one.

    Raises:
        DetectorError, FastloadError: with what to do about it.
    """
    if not config.resume and (config.out / "last.pt").exists():
        raise ConfigError(
            f"{config.out} holds a run already: go on with --resume, or choose another folder with --out."
        )
    keep_freed_memory()
    with stop_on_signals() as stop, distributed.process_group(pick_device(config.device)) as device:
        training = open_split(config.data, config.train_split, "train")
        validation = open_split(config.data, config.val_split, "val")
        check_trainable(training)
        if training.categories != validation.categories:
            raise DataError(f"{training.annotations} and {validation.annotations} have different categories.")
        run = TrainingRun(config, training_loader(training, config, device), validation, device, stop)
        try:
            return run.fit()
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise TrainingError(f"Out of memory at step {run.trainer.step}. {MEMORY_ADVICE}") from error
            raise


class TrainingRun:
    """A training run: its epochs, evaluations and checkpoints."""

    def __init__(
        self, config: Config, loader: FastLoader, validation: Split, device: torch.device, stop: StopRequest
    ) -> None:
        self.config, self.loader, self.validation, self.stop = config, loader, validation, stop
        self.categories, self.preprocess = validation.categories, Preprocess.of(config)
        self.steps_per_epoch = -(-len(loader) // config.accumulate)
        self.trainer = Trainer(config, len(self.categories), self.steps_per_epoch * config.epochs, device)
        self.epoch, self.best = 0, float("-inf")
        self.figures: dict[str, float] = {}
        self.metrics = StepMetrics()
        self.save_time = time.monotonic() + SAVE_SECONDS
        past = self._resume(config.out / "last.pt") if config.resume else []
        self.log = MetricsLog(config.out, past, writes=distributed.rank() == 0)
        self.display = Display(self.trainer.steps, self.trainer.step)

    def fit(self) -> dict[str, float]:
        """All epochs that are left. Returns the last evaluation's figures."""
        if distributed.rank() == 0:
            write_config(self.config, self.categories)
        with self.log, self.display:
            while self.epoch < self.config.epochs:
                if not self.train_one_epoch():
                    self.save()
                    self.display.say(f"Stopped at step {self.trainer.step}. To go on: the same command with --resume")
                    break
                last = self.epoch == self.config.epochs - 1
                if last or (self.epoch + 1) % self.config.eval_every == 0:
                    self.save()
                    self.evaluate()
                self.epoch += 1
            else:
                self.save()
                best = self.config.out / "best.pt"
                self.display.say(f"All {self.trainer.steps} steps are done. The weights with the best AP are {best}")
        return self.figures

    def train_one_epoch(self) -> bool:
        """Train what is left of the present epoch. False: it was asked to stop before the end."""
        if self.trainer.step >= (self.epoch + 1) * self.steps_per_epoch:
            return True  # the run was killed while this epoch was evaluated
        self.loader.set_epoch(self.epoch)
        batches = iter(self.loader)
        while step_batches := self.metrics.take(batches, self.config.accumulate):
            lr = self.trainer.lr
            losses = self.trainer.update(step_batches)
            self.metrics.add(lr, losses, step_batches)
            self.display.advance()
            log_now = self.trainer.step % self.config.log_every == 0
            if self._must_stop(everyone_is_here=log_now):
                return False
            if log_now:
                self._log_metrics()
                if time.monotonic() > self.save_time:
                    self.save()
        return True

    def evaluate(self) -> None:
        """COCO's figures, the page of predictions, the curves; the best weights so far are kept."""
        model, trainer = self.trainer.eval_model, self.trainer
        distributed.broadcast_buffers(model)
        with self.display.evaluation(self.epoch + 1) as report:
            found = evaluate(
                *(model, self.validation, self.config, self.preprocess, trainer.device, trainer.dtype),
                report=report,
            )
        self.figures = found.metrics.figures
        self._log_row({**self.figures})
        self.display.show_figures(self.epoch + 1, self.figures)
        if distributed.rank() == 0:
            self.log.draw_curves()
            draw_predictions(self.config.out / "predictions.png", self.validation, found.results, self.preprocess)
            if self.figures["AP"] > self.best:
                checkpoint.save(self.config.out / "best.pt", self._state({"model": model.state_dict(), "ema": None}))
        self.best = max(self.best, self.figures["AP"])
        self.metrics = StepMetrics()  # the evaluation is no part of a step's time

    def save(self) -> None:
        """All that it takes to go on, as last.pt; unless the losses or the weights have gone bad."""
        self.save_time = time.monotonic() + SAVE_SECONDS
        self._log_metrics()
        self.trainer.check_finite()
        if distributed.rank() == 0:
            progress = {"epoch": self.epoch, "best": self.best, "rows": self.log.rows, "figures": self.figures}
            progress["loader"] = self.loader.state_dict()
            checkpoint.save(self.config.out / "last.pt", self._state({**self.trainer.state_dict(), **progress}))

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
        self.trainer.load_state_dict(state)
        try:
            self.loader.load_state_dict(state["loader"])
        except StateError as error:
            raise CheckpointError(
                f"{path} cannot be resumed on these images: {error}. Its weights can still be evaluated; to train, "
                "begin anew in another folder with --out."
            ) from error
        self.epoch, self.best, self.figures = state["epoch"], state["best"], state["figures"]
        return list(state["rows"])

    def _state(self, content: dict[str, Any]) -> dict[str, Any]:
        settings = {"config": self.config.to_dict(), "preprocess": self.preprocess.to_dict()}
        return {**settings, "categories": self.categories, **content}

    def _must_stop(self, everyone_is_here: bool) -> bool:
        """Whether to stop now. Several processes agree on it where they meet anyway."""
        if distributed.world_size() == 1:
            return bool(self.stop)
        return everyone_is_here and distributed.any_rank(bool(self.stop), self.trainer.device)

    def _log_metrics(self) -> None:
        """Write a line of metrics of the steps since the last one, if there are any."""
        if len(self.metrics):
            row = self.metrics.summary()
            self._log_row(row)
            self.display.show({"step": self.trainer.step, **row})
            self.metrics = StepMetrics()

    def _log_row(self, values: Row) -> None:
        step = self.trainer.step
        self.log.add({"step": step, "epoch": step / self.steps_per_epoch, **values})


SAVE_SECONDS = 300  # what a crash may cost at most, within an epoch
MEMORY_ADVICE = (
    "Lower --batch-size (or raise --accumulate to keep it, in smaller parts), --sizes and --max-size, or use "
    "--precision bf16."
)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
