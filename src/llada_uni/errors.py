"""The exceptions a user can meet. Each message is one line: what was expected, what arrived, what to do."""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "ImageError",
    "LladaUniError",
    "OfflineError",
    "PromptError",
    "ResourceError",
    "SizeError",
    "http_status",
]


class LladaUniError(Exception):
    """Base of every error caused by input, files or the machine rather than by a bug in this package.

    The message is folded to a single line, so that a command line can print it as it is.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class ConfigError(LladaUniError):
    """A configuration value or key is unknown, missing or inconsistent."""


class CheckpointError(LladaUniError):
    """A checkpoint file or directory is missing, truncated, misshapen or holds unusable numbers."""


class PromptError(LladaUniError):
    """A prompt or question is empty, too long or not text."""


class ImageError(LladaUniError):
    """A picture cannot be read, is too large, or is of an unknown kind."""


class SizeError(LladaUniError):
    """A requested picture size does not exist on the model's token grid."""


class BudgetError(LladaUniError):
    """A request needs more tokens, frames or context than the model or the caller allows."""


class ResourceError(LladaUniError):
    """The machine lacks memory, disk space or a device that the request needs."""


class OfflineError(LladaUniError):
    """Files would have to be downloaded and the network cannot be reached."""


_HTTP_STATUS: dict[type[LladaUniError], int] = {
    ConfigError: 400,
    PromptError: 400,
    ImageError: 400,
    SizeError: 400,
    BudgetError: 413,
    CheckpointError: 500,
    ResourceError: 503,
    OfflineError: 503,
}


def http_status(error: LladaUniError) -> int:
    """HTTP status code a server answers with for ``error`` (400 for the base class)."""
    return next((code for kind, code in _HTTP_STATUS.items() if isinstance(error, kind)), 400)
