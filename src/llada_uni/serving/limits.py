"""What the server accepts: how much, from whom, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from llada_uni.errors import ConfigError

__all__ = ["Limits", "ServerSettings"]

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes and times of one request.

    Args:
        body_bytes: of a body. text_bytes: of all words in it, UTF-8. max_images: pictures in it.
        max_pixels: of one picture, found out before its pixels are decoded.
        max_side: of a picture that is asked for, in pixels.
        body_s: seconds in which a body must have arrived. header_s: the same for the head of a request.
        fetch: whether pictures may be given by http and https addresses; private places are refused all the same.
    """

    body_bytes: int = 32 * _MIB
    text_bytes: int = 256 * 1024
    max_images: int = 16
    max_pixels: int = 4096 * 4096
    max_side: int = 4096
    body_s: float = 30.0
    header_s: float = 10.0
    fetch: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "fetch" and not value > 0:
                raise ConfigError(f"{name}: expected a number above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The HTTP side of a server.

    Args:
        names: what the model is called in requests; the first is reported.
        keys: bearer keys, any of which opens the interface; empty = open to everybody who can reach it.
        origins: web pages that may call it from a browser, ``"*"`` = all.
        limits: of one request.
        show_errors: log the traces of bugs and the messages of errors, which may hold words of a request.
        drain_s: seconds in which a server that is told to stop finishes what it has.
    """

    names: tuple[str, ...] = ("nano",)
    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    show_errors: bool = False
    drain_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise ConfigError("names: expected at least one name for the model")
        if not all(key and key.isascii() and key.isprintable() and " " not in key for key in self.keys):
            raise ConfigError("keys: expected keys of visible ASCII characters without spaces")
