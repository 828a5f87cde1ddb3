"""Pictures from the web, for servers that allow it: never from a private, loopback, link-local or other inner place.

The address that is checked is the address that is connected to, for the first place and for every redirect: a name
cannot point elsewhere between the two. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from llada_uni.errors import ImageError

__all__ = ["checked_address", "fetch"]

Resolver = Callable[[str, int], list[str]]

_PORTS = {"http": 80, "https": 443}
_MAX_REDIRECTS = 3
_CHUNK = 65536
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, *, max_bytes: int, timeout_s: float = 10.0, resolve: Resolver | None = None) -> bytes:
    """The content of an http or https address on its usual port.

    Raises:
        ImageError: an address that is not fetched, one that does not answer in time, or too many bytes.
    """
    deadline = time.monotonic() + timeout_s
    for _ in range(_MAX_REDIRECTS + 1):
        answer = _get(url, max_bytes, deadline, resolve or _resolve)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise ImageError(f"image_url: expected at most {_MAX_REDIRECTS} redirects")


def checked_address(text: str) -> str:
    """The numeric address ``text`` if it lies in the public internet.

    Raises:
        ImageError: it does not, or an address inside it does not.
    """
    found = ipaddress.ip_address(text.partition("%")[0])
    inner: list[Any] = [found]
    if isinstance(found, ipaddress.IPv6Address):
        inner += [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _NAT64 or int(found) >> 32 == 0:
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
    if any(one is not None and (not one.is_global or one.is_multicast) for one in inner):
        raise ImageError("image_url: expected a public address; private, local and reserved ones are not fetched")
    return str(found)


def _get(url: str, max_bytes: int, deadline: float, resolve: Resolver) -> bytes | str:
    """The content, or where it has moved."""
    parts = _checked_url(url)
    assert parts.hostname is not None
    try:
        addresses = [checked_address(one) for one in resolve(parts.hostname, _PORTS[parts.scheme])]
        connection = _Pinned(parts, addresses[0], _left(deadline))
        try:
            return _answer(connection, parts, max_bytes, deadline)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError, IndexError) as error:
        raise ImageError(f"image_url: the address cannot be fetched ({type(error).__name__})") from error


def _answer(connection: http.client.HTTPConnection, parts: SplitResult, max_bytes: int, deadline: float) -> bytes | str:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", path, headers={"User-Agent": "llada-uni", "Accept": "image/*"})
    response = connection.getresponse()
    place = response.getheader("Location")
    if response.status in (301, 302, 303, 307, 308) and place:
        return place
    if response.status != 200:
        raise ImageError(f"image_url: expected an answer with status 200, got {response.status}")
    data = bytearray()
    while chunk := response.read1(_CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise ImageError(f"image_url: the picture has more than {max_bytes:,} bytes")
        _left(deadline)
    return bytes(data)


def _checked_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ImageError("image_url: expected an address such as https://example.org/picture.png") from error
    plain = all(33 <= ord(character) < 127 for character in url)
    if parts.scheme not in _PORTS or not parts.hostname or not plain:
        raise ImageError("image_url: expected an address such as https://example.org/picture.png")
    if port not in (None, _PORTS[parts.scheme]) or parts.username is not None or parts.password is not None:
        raise ImageError("image_url: expected an address without a port of its own and without a user name")
    return parts


def _resolve(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _left(deadline: float) -> float:
    """Seconds left.

    Raises:
        TimeoutError: none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Pinned(http.client.HTTPConnection):
    """A connection to a numeric address that speaks for the name it was resolved from."""

    def __init__(self, parts: SplitResult, address: str, timeout: float) -> None:
        assert parts.hostname is not None
        super().__init__(parts.hostname, _PORTS[parts.scheme], timeout=timeout)
        self._address, self._secure = address, parts.scheme == "https"

    def connect(self) -> None:
        """Connect to the checked address, whatever the name says by now."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        if not self._secure:
            self.sock = plain
            return
        try:
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
