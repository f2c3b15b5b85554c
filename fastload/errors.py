"""The errors fastload raises on purpose. Each message names the file or image and says what to do."""


class FastloadError(Exception):
    """Base of every error raised by fastload itself."""


class SourceError(FastloadError):
    """A dataset on disk cannot be understood: nothing found, unreadable annotations, contradictory files."""


class CacheError(FastloadError):
    """A cache cannot be opened, is damaged, is of another version, or is being built by somebody else."""


class DecodeError(FastloadError):
    """An image's bytes do not decode to the picture they should be."""


class ArgumentError(FastloadError, ValueError):
    """An argument that cannot be, or not together with the others."""


class StateError(FastloadError):
    """A state that another loader was in, or one that this loader is not in yet."""


class PlanError(FastloadError):
    """Transforms and collator ask for something that cannot be executed, such as an image beyond its canvas."""


class DeviceError(FastloadError):
    """A device that batches are to be on cannot be used, or has no memory left."""


class EngineError(FastloadError):
    """An engine cannot do its work here: a library, driver or device it needs is missing, or memory ran out."""
