"""Pictures by address: only from the public internet, checked after resolution and on every redirect."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llada_uni.errors import ImageError
from llada_uni.serving import fetch as fetching
from llada_uni.serving.fetch import checked_address, fetch
from llada_uni.serving.limits import Limits
from llada_uni.serving.pictures import read_picture

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "ff02::1", "2001:db8::1",
]  # fmt: skip
PUBLIC = ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_inner_places_are_refused(address: str) -> None:
    with pytest.raises(ImageError, match="public address"):
        checked_address(address)
    with pytest.raises(ImageError, match="public address"):
        fetch("http://innocent.example/x.png", max_bytes=99, resolve=lambda host, port: ["1.1.1.1", address])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_places_are_not(address: str) -> None:
    assert checked_address(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://x.example:8080/", "http://user:pw@x.example/", "ftp://x.example/", "http:///x", "http://", "https://x\n.y/",
        "http://x.example/\r\nHost: y", "http://[::1", "http://x.example:99999/", "http://ü.example/", "http://x y/",
    ],
)  # fmt: skip
def test_strange_addresses_are_refused(url: str) -> None:
    with pytest.raises(ImageError, match="expected an address"):
        fetch(url, max_bytes=99, resolve=lambda host, port: ["1.1.1.1"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1"])
def test_names_of_this_machine_are_refused(host: str) -> None:
    with pytest.raises(ImageError):
        fetch(f"http://{host}/", max_bytes=99)


def test_a_name_that_is_not_known() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name")

    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch("http://x.example/", max_bytes=99, resolve=unknown)
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch("http://x.example/", max_bytes=99, resolve=lambda host, port: [])


SEEN: list[str] = []


class Site(http.server.BaseHTTPRequestHandler):
    """A small web site."""

    def do_GET(self) -> None:
        SEEN.append(str(self.headers["Host"]))
        where = {
            "/away": "http://inner.example/x",
            "/loop": "/loop",
            "/moved": "/picture",
            "/file": "file:///etc/passwd",
        }
        if self.path in where:
            self.send_response(302)
            self.send_header("Location", where[self.path])
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/picture", "/large") else 404)
        self.end_headers()
        self.wfile.write(b"x" * (10 if self.path == "/picture" else 100_000))

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A site on loopback that stands for outer.example; inner.example resolves to a private address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(fetching._PORTS, "http", server.server_address[1])
    real = fetching.checked_address
    monkeypatch.setattr(
        fetching, "checked_address", lambda text: "127.0.0.1" if text == "93.184.215.14" else real(text)
    )
    SEEN.clear()
    yield lambda host, port: ["10.0.0.1" if host == "inner.example" else "93.184.215.14"]
    server.shutdown()
    server.server_close()


def test_a_picture_is_fetched(site: Any) -> None:
    assert fetch("http://outer.example/picture", max_bytes=99, resolve=site) == b"x" * 10
    assert fetch("http://outer.example/moved", max_bytes=99, resolve=site) == b"x" * 10
    assert SEEN[0].startswith("outer.example")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("away", "public address"), ("loop", "redirects"), ("file", "expected an address"), ("large", "more than"),
        ("nothing", "got 404"),
    ],
)  # fmt: skip
def test_what_a_site_may_not_do(site: Any, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        fetch(f"http://outer.example/{path}", max_bytes=99, resolve=site)
    assert all(host.startswith("outer.example") for host in SEEN)


def test_a_site_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        patch.setitem(fetching._PORTS, "http", silent.getsockname()[1])
        patch.setattr(fetching, "checked_address", lambda text: "127.0.0.1")
        with pytest.raises(ImageError, match="cannot be fetched"):
            fetch("http://outer.example/", max_bytes=99, timeout_s=0.2, resolve=lambda host, port: ["93.184.215.14"])


def test_fetching_is_off_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> bytes:
        raise AssertionError("fetched")

    monkeypatch.setattr("llada_uni.serving.pictures.fetch", never)
    with pytest.raises(ImageError, match="does not fetch"):
        read_picture("http://outer.example/", Limits())
    with pytest.raises(AssertionError, match="fetched"):
        read_picture("https://outer.example/", Limits(fetch=True))
    with pytest.raises(ImageError, match="data URI"):
        read_picture("/etc/passwd", Limits(fetch=True))
