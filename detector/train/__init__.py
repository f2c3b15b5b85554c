"""Training: `train` is the entry point."""

from detector.train.loop import train

__all__ = ["train"]
