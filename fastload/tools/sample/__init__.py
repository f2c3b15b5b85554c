"""The sample set: pictures with COCO annotations that fastload makes itself, for demos and tests."""

from fastload.tools.sample.dataset import make_sample

__all__ = ["make_sample"]
