"""The sample set: generated images with COCO annotations, for demos and tests."""

from fastload.tools.sample.dataset import make_sample

__all__ = ["make_sample"]
