"""The errors the detector raises on purpose. Each message says what is wrong and what to do."""


class DetectorError(Exception):
    """Base of every error raised by the detector itself."""


class ConfigError(DetectorError):
    """Settings that contradict one another, or that this machine cannot run."""


class CheckpointError(DetectorError):
    """A checkpoint or a weights file that is missing, damaged, foreign, or made for other classes."""


class DataError(DetectorError):
    """A dataset that cannot be trained or evaluated on."""


class TrainingError(DetectorError):
    """A run that had to stop: the loss is not a number, or memory is exhausted."""
