"""The training loop, with evaluations and checkpoints."""

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
    """Train a detector; checkpoints, metrics and drawings go to `config.out`.

        figures = train(replace(PRESETS["fcos_tiny"], data=Path("coco/"), out=Path("runs/tiny")))

    Args:
        config: the settings of the run.

    Returns:
        The figures of the last evaluation by name, such as "AP"; empty if the run was stopped before one.

    Raises:
        DetectorError, FastloadError: the settings, the data or the machine do not allow this run.
    """
    if not config.resume and (config.out / "last.pt").exists():
        raise ConfigError(
            f"{config.out} holds a run already: continue it with --resume, or choose another folder with --out."
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
        """Train the remaining epochs. Returns the figures of the last evaluation."""
        if distributed.rank() == 0:
            write_config(self.config, self.categories)
        with self.log, self.display:
            while self.epoch < self.config.epochs:
                if not self.train_one_epoch():
                    self.save()
                    self.display.say(f"Stopped at step {self.trainer.step}. To resume, add --resume to the command")
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
        """Train the rest of the current epoch. Returns False if a signal stopped it."""
        if self.trainer.step >= (self.epoch + 1) * self.steps_per_epoch:
            return True  # the run was killed while this epoch was evaluated
        self.loader.set_epoch(self.epoch)
        for batches in self.metrics.timed(self.loader, self.config.accumulate):
            lr = self.trainer.lr
            losses = self.trainer.update(batches)
            self.metrics.add(lr, losses, batches)
            self.display.advance()
            log_now = self.trainer.step % self.config.log_every == 0
            if self._must_stop(may_sync=log_now):
                return False
            if log_now:
                self._log_metrics()
                if time.monotonic() > self.save_time:
                    self.save()
        return True

    def evaluate(self) -> None:
        """Compute COCO's figures, draw predictions and curves, and save the weights if they are the best so far."""
        model, trainer = self.trainer.eval_model, self.trainer
        distributed.broadcast_buffers(model)
        with self.display.evaluation(self.epoch + 1) as report:
            evaluation = evaluate(
                *(model, self.validation, self.config, self.preprocess, trainer.device, trainer.dtype),
                report=report,
            )
        self.figures = evaluation.metrics.figures
        self._log_row({**self.figures})
        self.display.show_figures(self.epoch + 1, self.figures)
        if distributed.rank() == 0:
            self.log.draw_curves()
            draw_predictions(self.config.out / "predictions.png", self.validation, evaluation.results, self.preprocess)
            if self.figures["AP"] > self.best:
                checkpoint.save(self.config.out / "best.pt", self._state({"model": model.state_dict(), "ema": None}))
        self.best = max(self.best, self.figures["AP"])
        self.metrics.reset()  # or the evaluation would count as time of a step

    def save(self) -> None:
        """Save last.pt, from which the run can be resumed. Raises TrainingError if losses or weights are not finite."""
        self.save_time = time.monotonic() + SAVE_SECONDS
        self._log_metrics()
        self.trainer.check_finite()
        if distributed.rank() == 0:
            progress = {"epoch": self.epoch, "best": self.best, "rows": self.log.rows, "figures": self.figures}
            progress["loader"] = self.loader.state_dict()
            checkpoint.save(self.config.out / "last.pt", self._state({**self.trainer.state_dict(), **progress}))

    def _resume(self, path: Path) -> list[Row]:
        """Restore the state saved in `path`. Returns the metrics up to that step."""
        state = checkpoint.load(path)
        saved = checkpoint.config_of(state, path)
        if different := differences(saved, self.config):
            raise CheckpointError(
                f"{path} was written with other settings: {', '.join(different)}. Resume with the same settings, or "
                "start a new run in another folder with --out."
            )
        checkpoint.check_categories(path, state["categories"], self.categories)
        if "optimizers" not in state:
            raise CheckpointError(f"{path} holds weights only and cannot be resumed.")
        self.trainer.load_state_dict(state)
        try:
            self.loader.load_state_dict(state["loader"])
        except StateError as error:
            raise CheckpointError(
                f"{path} cannot be resumed on these images: {error}. Its weights can still be evaluated. To train, "
                "start a new run in another folder with --out."
            ) from error
        self.epoch, self.best, self.figures = state["epoch"], state["best"], state["figures"]
        return list(state["rows"])

    def _state(self, content: dict[str, Any]) -> dict[str, Any]:
        settings = {"config": self.config.to_dict(), "preprocess": self.preprocess.to_dict()}
        return {**settings, "categories": self.categories, **content}

    def _must_stop(self, may_sync: bool) -> bool:
        """Whether to stop now. Several processes agree on it only if they `may_sync`, since that makes them wait."""
        if distributed.world_size() == 1:
            return bool(self.stop)
        return may_sync and distributed.any_rank(bool(self.stop), self.trainer.device)

    def _log_metrics(self) -> None:
        """Write and show the metrics of the steps since the last line, if there are any."""
        if len(self.metrics):
            row = self.metrics.summary()
            self._log_row(row)
            self.display.show({"step": self.trainer.step, **row})
            self.metrics.reset()

    def _log_row(self, values: Row) -> None:
        step = self.trainer.step
        self.log.add({"step": step, "epoch": step / self.steps_per_epoch, **values})


SAVE_SECONDS = 300  # between checkpoints within an epoch: the most that a crash may cost
MEMORY_ADVICE = (
    "Lower --batch-size (or raise --accumulate, which splits the same batch size into smaller parts), --sizes and "
    "--max-size, or use --precision bf16."
)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
