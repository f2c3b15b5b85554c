"""Training: `train` is the whole of it."""

from detector.train.loop import train

__all__ = ["train"]
