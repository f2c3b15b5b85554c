"""Train a detector.

python -m detector.train coco/ --preset fcos_tiny
torchrun --nproc-per-node 2 -m detector.train coco/ --preset fcos_r18_rt
"""

from detector.cli import parse_config, tell_errors
from detector.train import train

if __name__ == "__main__":
    tell_errors(lambda: train(parse_config()))
