"""What a person sees of a training run: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detector import distributed
from detector.record import Row


class Display:
    """Shows a run of `steps` steps, of which `done` are past. Only the first process shows anything."""

    def __init__(self, steps: int, done: int) -> None:
        self.console = Console(quiet=distributed.rank() > 0)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("", total=steps, completed=done)
        self._steps = steps

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """One more step."""
        self._bar.advance(self._task)

    def show(self, row: Row) -> None:
        """A line of training metrics."""
        line = (
            f"loss {row['loss']:.3f}  lr {row['lr']:.2e}  data {1000 * row['data_time']:.1f} ms of step "
            f"{1000 * row['step_time']:.0f} ms  {row['images_per_second']:.1f} images/s"
        )
        self._bar.update(self._task, description=line)
        if not self.console.is_terminal:
            left = (self._steps - row["step"]) * row["step_time"]
            self.console.print(
                f"step {row['step']:.0f}/{self._steps}  {line}  {left / 60:.1f} min left", soft_wrap=True
            )

    def show_figures(self, epoch: int, figures: dict[str, float]) -> None:
        """An evaluation's figures."""
        names = [name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl") if figures[name] >= 0]
        shown = "  ".join(f"{name} {100 * figures[name]:.1f}" for name in names)
        self.say(f"epoch {epoch}: {shown}")

    def say(self, text: str) -> None:
        """Anything else."""
        self.console.print(text, highlight=False, soft_wrap=True)
