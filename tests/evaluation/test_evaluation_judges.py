"""The judge behind an endpoint: what is sent, and every way in which it can fail."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llada_uni.errors import ConfigError, ImageError, ResourceError
from llada_uni.evaluation.items import JudgeError
from llada_uni.evaluation.judges import EndpointViewer, ModelViewer, OcrReader


class Endpoint:
    """A local server with a list of (status, body) replies, the last one for ever."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, str]] = [(200, json.dumps({"choices": [{"message": {"content": "yes"}}]}))]
        self.seen: list[tuple[str, dict[str, Any], str | None]] = []
        self.delay = 0.0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.seen.append((self.path, body, self.headers.get("Authorization")))
                time.sleep(endpoint.delay)
                status, text = endpoint.replies[min(len(endpoint.seen), len(endpoint.replies)) - 1]
                try:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:
                    pass

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_question(endpoint: Endpoint, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLADA_UNI_JUDGE_KEY", "secret")
    assert EndpointViewer(endpoint.url, "big").ask([photo], "a dog?") == "yes"
    path, body, key = endpoint.seen[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], key) == ("big", 0, "Bearer secret")
    picture, words = body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert words == {"type": "text", "text": "a dog?"}


@pytest.mark.parametrize("body", ["not json", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'])
def test_replies_that_are_none(endpoint: Endpoint, photo: Path, body: str) -> None:
    endpoint.replies = [(200, body)]
    with pytest.raises(JudgeError) as caught:
        EndpointViewer(endpoint.url, "big").ask([photo], "?")
    assert caught.value.reply == body


def test_a_server_error_is_tried_again(endpoint: Endpoint, photo: Path) -> None:
    endpoint.replies = [(503, ""), endpoint.replies[0]]
    assert EndpointViewer(endpoint.url, "big").ask([photo], "?") == "yes"
    endpoint.seen.clear()
    endpoint.replies = [(400, "")]
    with pytest.raises(JudgeError, match="status 400"):
        EndpointViewer(endpoint.url, "big").ask([photo], "?")
    assert len(endpoint.seen) == 1


def test_a_slow_judge_times_out(endpoint: Endpoint, photo: Path) -> None:
    endpoint.delay = 0.5
    with pytest.raises(JudgeError) as caught:
        EndpointViewer(endpoint.url, "big", timeout_s=0.1, retries=0).ask([photo], "?")
    assert caught.value.timed_out


def test_nobody_there(photo: Path) -> None:
    with pytest.raises(JudgeError, match="cannot be reached"):
        EndpointViewer("http://127.0.0.1:9/v1", "big", retries=0).ask([photo], "?")


@pytest.mark.parametrize("url", ["", "localhost:8000", "file:///etc/passwd", "http://"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--judge-url"):
        EndpointViewer(url, "big")


def test_a_picture_that_is_gone(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="cannot read"):
        EndpointViewer(endpoint.url, "big").ask([tmp_path / "none.png"], "?")


def test_our_own_model_as_the_judge(photo: Path) -> None:
    model = SimpleNamespace(
        understand_image=lambda images, question, **_: SimpleNamespace(text=f"{len(images)} {question}")
    )
    assert ModelViewer(model).ask([photo], "what?") == "1 what?"  # type: ignore[arg-type]

    def fail(*_: Any, **__: Any) -> None:
        raise ImageError("unreadable")

    with pytest.raises(JudgeError, match="unreadable"):
        ModelViewer(SimpleNamespace(understand_image=fail)).ask([photo], "?")  # type: ignore[arg-type]


def test_reading_words(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in of rapidocr: an engine that takes a path and returns an object with ``txts``."""

    class RapidOCR:
        def __call__(self, path: str) -> Any:
            return SimpleNamespace(txts=("BIG", "SALE") if path.endswith("a.png") else None)

    monkeypatch.setitem(sys.modules, "rapidocr", SimpleNamespace(RapidOCR=RapidOCR))  # type: ignore[arg-type]
    Image.new("RGB", (4, 4)).save(tmp_path / "empty.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    reader = OcrReader()
    assert reader.read(photo) == ["BIG", "SALE"]
    assert reader.read(tmp_path / "empty.png") == []
    for name in ("broken.png", "none.png"):
        with pytest.raises(JudgeError, match="cannot be read"):
            reader.read(tmp_path / name)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ResourceError, match="pip install rapidocr"):
        OcrReader()
