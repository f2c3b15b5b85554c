"""Writes the metrics of a run as CSV, TensorBoard events and curves, and its settings as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

from detector.checkpoint import Categories
from detector.config import Config
from detector.errors import ConfigError

NOT_LOSSES = ("step", "epoch", "lr", "data_time", "step_time", "images_per_second")
Row = dict[str, float]  # a line of metrics: step, epoch and the values measured


class MetricsLog:
    """The metrics of a run.

    Args:
        folder: the run folder.
        rows: the metrics so far, from the checkpoint of a resumed run. What was logged after it is discarded.
        writes: write files, as only the first process does.
    """

    def __init__(self, folder: Path, rows: Iterable[Row], writes: bool = True) -> None:
        self.folder, self.rows, self.writes = folder, list(rows), writes
        if not writes:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("Training needs TensorBoard: pip install 'fastload-vision[detector]'") from error
        folder.mkdir(parents=True, exist_ok=True)
        last = self.rows[-1]["step"] if self.rows else 0
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=int(last) + 1)
        self._write_csv()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writes:
            self._board.close()

    def add(self, row: Row) -> None:
        """Add a line of metrics, and write it."""
        self.rows.append(row)
        if not self.writes:
            return
        self._write_csv()
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._board.add_scalar(name, value, int(row["step"]))

    def draw_curves(self) -> None:
        """Draw losses and average precision against steps, as curves.png."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, (losses, quality) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
        logged = next((row for row in self.rows if "loss" in row), {})
        for name in [name for name in logged if name not in NOT_LOSSES]:
            losses.plot(*self._series(name), label=name, linewidth=1.8 if name == "loss" else 1)
        for name in ("AP", "AP50", "AP75"):
            quality.plot(*self._series(name), label=name, marker="o", markersize=3)
        for axes, title in ((losses, "training loss"), (quality, "average precision")):
            axes.set(title=title, xlabel="step", ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(self.folder / "curves.png", dpi=110)
        plt.close(figure)

    def _series(self, name: str) -> tuple[list[float], list[float]]:
        rows = [row for row in self.rows if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    def _write_csv(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows)
        (self.folder / "metrics.csv").write_text(text.getvalue(), newline="")


def write_config(config: Config, categories: Categories) -> None:
    """Write the settings and classes of a run as config.json."""
    config.out.mkdir(parents=True, exist_ok=True)
    values = {**config.to_dict(), "categories": [name for _, name in categories]}
    (config.out / "config.json").write_text(json.dumps(values, indent=2) + "\n")
