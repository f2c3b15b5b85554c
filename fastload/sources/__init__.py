"""Sources: datasets of any layout as a sequence of samples. `find_datasets` finds them; a source of your own is any
object with the attributes of `Source`.
"""

from fastload.sources.base import Category, Dataset, Problem, Sample, Source
from fastload.sources.coco import CocoSource
from fastload.sources.detect import find_datasets
from fastload.sources.files import digest_of, number_categories
from fastload.sources.folder import FolderSource
from fastload.sources.pairs import paired_dataset
from fastload.sources.voc import VocSource
from fastload.sources.yolo import YoloSource

__all__ = [
    "Category",
    "CocoSource",
    "Dataset",
    "FolderSource",
    "Problem",
    "Sample",
    "Source",
    "VocSource",
    "YoloSource",
    "digest_of",
    "find_datasets",
    "number_categories",
    "paired_dataset",
]
