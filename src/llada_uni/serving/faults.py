"""What can go wrong with a request in the server beyond what the pipeline itself refuses, and the status of each."""

from __future__ import annotations

from llada_uni.errors import BudgetError, LladaUniError, ResourceError, http_status

__all__ = ["Busy", "Cancelled", "DeadlineError", "Draining", "EngineFault", "TooLarge", "as_fault", "status_of"]


class Busy(ResourceError):
    """The server has as many requests as it takes; ``retry_after_s`` says when to try again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(ResourceError):
    """The server finishes what it has and takes nothing new."""


class DeadlineError(ResourceError):
    """The request was not done in the time it was given."""


class Cancelled(ResourceError):
    """Whoever asked has left."""


class TooLarge(BudgetError):
    """A request's body or words are larger than the server reads."""


class EngineFault(LladaUniError):
    """A bug of ours met while carrying out a request; the message says nothing about it."""


_STATUS: dict[type[LladaUniError], int] = {
    Busy: 429,
    Draining: 503,
    DeadlineError: 504,
    Cancelled: 499,
    EngineFault: 500,
}


def status_of(error: LladaUniError) -> int:
    """HTTP status code of an error; 499 is never sent, the client has left."""
    return _STATUS.get(type(error)) or http_status(error)


def as_fault(error: BaseException) -> LladaUniError:
    """What a client is told about ``error``: itself where it is about the request, otherwise nothing specific."""
    if isinstance(error, LladaUniError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return ResourceError("out of memory; ask for a smaller size or fewer pictures, or try again later")
    return EngineFault("the server failed to carry out this request; its log has more")
