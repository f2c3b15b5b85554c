"""Shows the progress of a training run: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from detector import distributed
from detector.infer.evaluation import Report
from detector.train.metrics_log import Row
from fastload import show_progress


class _Bar(Progress):
    """A progress bar with the latest metrics on a line below, where a narrow terminal has room."""

    def __init__(self, console: Console, steps: int, done: int, metrics: str = "") -> None:
        self.metrics = metrics
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self.add_task("Training", total=steps, completed=done)

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.metrics)


class Display:
    """Shows a run of `steps` steps, `done` of them finished. Only the first process shows anything."""

    def __init__(self, steps: int, done: int) -> None:
        self.console = Console(quiet=distributed.rank() > 0)
        self._bar = _Bar(self.console, steps, done)
        self._steps = steps

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count a step."""
        self._bar.advance(self._bar.task_ids[0])

    def show(self, row: Row) -> None:
        """Show a line of training metrics."""
        line = (
            f"loss {row['loss']:.3f}  lr {row['lr']:.2e}  data {1000 * row['data_time']:.1f} ms of step "
            f"{1000 * row['step_time']:.0f} ms  {row['images_per_second']:.1f} images/s"
        )
        self._bar.metrics = line
        if not self.console.is_terminal:
            remaining = (self._steps - row["step"]) * row["step_time"]
            self.console.print(
                f"step {row['step']:.0f}/{self._steps}  {line}  {remaining / 60:.1f} min left", soft_wrap=True
            )

    @contextmanager
    def evaluation(self, epoch: int) -> Iterator[Report | None]:
        """A context that shows the progress of an evaluation; yields the function to report it to."""
        if self.console.quiet:
            yield None
            return
        self._bar.stop()
        with show_progress(f"Evaluating epoch {epoch}") as report:
            yield report
        if not self._bar.finished:  # a new bar, below the output of the evaluation
            self._bar = _Bar(self.console, self._steps, int(self._bar.tasks[0].completed), self._bar.metrics)
            self._bar.start()

    def show_figures(self, epoch: int, figures: dict[str, float]) -> None:
        """Show the figures of an evaluation."""
        names = [name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl") if figures[name] >= 0]
        shown = "  ".join(f"{name} {100 * figures[name]:.1f}" for name in names)
        self.say(f"epoch {epoch}: {shown}")

    def say(self, text: str) -> None:
        """Show a line of text."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
