"""The errors that fastload raises. Each message names the file or image and says what to do next."""


class FastloadError(Exception):
    """Base class of all errors that fastload raises."""


class SourceError(FastloadError):
    """A dataset on disk cannot be read: none was found, or its annotations are unreadable or contradictory."""


class CacheError(FastloadError):
    """A cache cannot be read or written: missing, damaged, of another version, or being built by another process."""


class DecodeError(FastloadError):
    """An image file or record cannot be decoded, or decodes to wrong pixels."""


class ArgumentError(FastloadError, ValueError):
    """An argument is invalid, or cannot be combined with the others."""


class StateError(FastloadError):
    """A saved state does not belong to this loader, or the loader is not ready to load it."""


class PlanError(FastloadError):
    """Transforms and collator made a plan that cannot be executed, such as an image outside its canvas."""


class DeviceError(FastloadError):
    """The device for the batches cannot be used, or is out of memory."""


class EngineError(FastloadError):
    """An engine cannot run: a library, driver or device is missing, or memory ran out."""
