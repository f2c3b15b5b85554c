"""Train FCOS on a COCO folder, or on a generated sample dataset if none is given.

    python examples/train_fcos.py
    python examples/train_fcos.py coco/ --preset fcos_r18_rt --weights resnet18.pth

Missing caches are built. The run folder (runs/fcos, or --out) receives checkpoints, metrics.csv, TensorBoard events,
curves.png and predictions.png. Every setting is an option: see --help.
"""

from rich.console import Console
from rich.table import Table

from detector.cli import parse_config, tell_errors
from detector.train import train


def main() -> None:
    config = parse_config()
    figures = train(config)
    if figures:
        table = Table("figure", "value", title=f"{config.out}")
        for name, value in figures.items():
            table.add_row(name, f"{value:.3f}" if value >= 0 else "-")
        Console().print(table)


if __name__ == "__main__":
    tell_errors(main)
