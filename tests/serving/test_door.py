"""Keys, pages of other origins, full servers, impatient and slow clients, logs, the command."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving_helpers import Live

from llada_uni.cli.main import run
from llada_uni.errors import ConfigError
from llada_uni.pipeline import LladaUni
from llada_uni.serving.bodies import GenerationBody
from llada_uni.serving.guard import _digest, has_key
from llada_uni.serving.image_routes import generation_task, picture_options
from llada_uni.serving.lanes import EngineSettings
from llada_uni.serving.limits import Limits, ServerSettings
from llada_uni.serving.running import Service

CHAT, IMAGES = "/v1/chat/completions", "/v1/images/generations"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
SOURCE = Path(__file__).resolve().parents[2] / "src"


def long_picture(seed: int = 0) -> dict[str, Any]:
    """About a second of work for the tiny model."""
    return {"prompt": "a cat", "num_steps": 1000, "decoder": "normal", "seed": seed, "stream": True}


# --- keys and origins -----------------------------------------------------------------------------------------------


def test_keys_and_origins(model: LladaUni) -> None:
    settings = ServerSettings(names=("tiny",), keys=("one", "two"), origins=("https://page.example",))
    with Live(model, settings) as live, httpx.Client(base_url=live.url) as http:
        for headers in (
            {},
            {"Authorization": "Bearer three"},
            {"Authorization": "Basic one"},
            {"Authorization": "one"},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                reply = http.get(path, headers=headers)
                assert reply.status_code == 401
                assert reply.json()["error"]["code"] == "invalid_api_key"
        assert http.get("/health").status_code == 200
        assert http.get("/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            live.client().models.list()
        page = {"Origin": "https://page.example"}
        asked = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert http.options(CHAT, headers=asked).headers["access-control-allow-origin"] == page["Origin"]
        assert http.get("/v1/models", headers=page).headers["access-control-allow-origin"] == page["Origin"]
        other = http.get("/v1/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_every_key_is_compared_whatever_was_sent() -> None:
    digests = [_digest(b"a"), _digest(b"b")]
    assert has_key({b"authorization": b"bearer b"}, digests)
    for value in (b"", b"Bearer", b"Bearer ", b"Bearer \xff", b"Bearer ab", b"b"):
        assert not has_key({b"authorization": value}, digests)
    for keys in ((" ",), ("",), ("ä",), ("a b",)):
        with pytest.raises(ConfigError):
            ServerSettings(keys=keys)


# --- full, slow, gone -----------------------------------------------------------------------------------------------


def test_a_full_server_says_when_to_come_back(model: LladaUni) -> None:
    with Live(model, ServerSettings(), EngineSettings(max_requests=2)) as live, httpx.Client(base_url=live.url) as http:
        with http.stream("POST", IMAGES, json=long_picture() | {"n": 2}) as busy:
            assert busy.status_code == 200
            reply = http.post(CHAT, json=HELLO)
            assert reply.status_code == 429
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert reply.json()["error"]["code"] == "server_busy"
            assert http.post(IMAGES, json=long_picture() | {"stream": False}).status_code == 429
            assert http.post(IMAGES, json={"prompt": "x", "n": 5}).status_code == 400, "never more than 2 at once"
        live.idle()
        assert http.post(CHAT, json=HELLO).status_code == 200


def test_a_deadline_is_kept(http: httpx.Client, live: Live) -> None:
    reply = http.post(IMAGES, json=long_picture() | {"stream": False, "timeout": 0.1, "n": 4})
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "deadline_exceeded"
    with http.stream("POST", IMAGES, json=long_picture() | {"timeout": 0.1, "n": 4}) as stream:
        last = [line for line in stream.iter_lines() if line.startswith("data:")][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    live.idle()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_takes_its_work_along(live: Live, stream: bool) -> None:
    body = json.dumps(long_picture() | {"stream": stream, "n": 8}).encode()
    head = f"POST {IMAGES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port)) as one:
        one.sendall(head.encode() + body)
        limit = time.monotonic() + 20
        while live.engine.status().requests < 8:
            assert time.monotonic() < limit
            time.sleep(0.002)
    began = time.monotonic()
    live.idle()
    assert time.monotonic() - began < 2
    assert live.engine.status().totals["ended_Cancelled"] >= 8


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"GET /health HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01\x02"])
def test_a_head_that_never_ends_is_cut_off(live: Live, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as one:
        one.sendall(sent)
        began = time.monotonic()
        while one.recv(1000):
            pass
        assert time.monotonic() - began < 4


def test_a_body_that_never_ends_is_cut_off(live: Live, http: httpx.Client) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{{"
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as one:
        one.sendall(head.encode())
        assert one.recv(1000).startswith(b"HTTP/1.1 408 ")
    for cut in (1, 40, 100, len(head)):
        with socket.create_connection(("127.0.0.1", live.port)) as one:
            one.sendall(head.encode()[:cut])
    assert http.get("/health").status_code == 200


def test_large_bodies_do_not_pile_up(live: Live, http: httpx.Client) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
    many = [socket.create_connection(("127.0.0.1", live.port), timeout=10) for _ in range(10)]
    for one in many:
        one.sendall(head.encode() + b"x" * 1_900_000)
    answers = {one.recv(1000)[:13] for one in many}
    for one in many:
        one.close()
    assert answers == {b"HTTP/1.1 429 ", b"HTTP/1.1 408 "}
    assert http.post(CHAT, json=HELLO).status_code == 200


def test_connections_are_used_again(http: httpx.Client) -> None:
    for _ in range(3):
        assert http.post(CHAT, json=HELLO).status_code == 200


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_bug_shows_nothing(
    live: Live, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a secret prompt")

    monkeypatch.setattr("llada_uni.serving.chat_routes.read_messages", fail)
    with caplog.at_level(logging.DEBUG):
        reply = http.post(CHAT, json={"messages": [{"role": "user", "content": "another secret"}]})
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert "secret" not in reply.text
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text


def test_logs_hold_no_words_of_requests(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llada_uni.serving"):
        http.post(CHAT, json={"messages": [{"role": "secret", "content": "secret"}]})
        http.get("/secret?secret=secret")
        http.post(IMAGES, json={"prompt": "secret", "size": "secret"})
        limit = time.monotonic() + 5
        while caplog.text.count("INFO") < 3 and time.monotonic() < limit:
            time.sleep(0.002)
    assert "secret" not in caplog.text
    assert caplog.text.count("INFO") >= 3, "one line each; a line of an earlier test may come late"
    assert sum(" other 404 " in record.getMessage() for record in caplog.records) == 1


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--api-key", "ä"], "visible ASCII"),
        (["--api-key", " "], "expected a key"),
        (["--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
        (["--host", "no such host"], "cannot listen"),
        (["--port", "70000"], "port"),
    ],
)
def test_the_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", *arguments]) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(shown) == 1
    assert message in shown[0]


@pytest.fixture
def process(checkpoint: Path) -> Any:
    command = [sys.executable, "-m", "llada_uni", "serve", "--model", str(checkpoint), "--port", "0", "--name", "tiny"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "LLADA_UNI_API_KEY": "one,two"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as one:
        assert one.stderr is not None
        ready = one.stderr.readline()
        assert ready.startswith("serving tiny on http://127.0.0.1:"), ready
        yield one, ready.split()[-1]
        if one.poll() is None:
            one.kill()


def test_sigterm_finishes_what_is_under_way(process: Any) -> None:
    server, url = process
    headers = {"Authorization": "Bearer two"}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as http:
        with http.stream("POST", IMAGES, json=long_picture() | {"partial_images": 1, "num_steps": 200}) as stream:
            server.send_signal(signal.SIGTERM)
            events = [line for line in stream.iter_lines() if line.startswith("event:")]
        assert events == ["event: image_generation.partial_image", "event: image_generation.completed"]
    assert server.wait(20) == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")
    log = server.stderr.read()
    assert "Traceback" not in log
    assert "POST /v1/images/generations 200" in log


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="body_bytes"):
        Limits(body_bytes=0)
    with pytest.raises(ConfigError, match="names"):
        ServerSettings(names=())


# --- decoder options ----------------------------------------------------------------------------------------------


def test_decoder_options_reach_the_task(live: Live) -> None:
    given = {"decoder": "normal", "decoder_guidance": 1.5, "guidance_interval": [0.1, 0.6], "step_cache": 0.2}
    service = Service(live.engine, ServerSettings())
    for interval in ([0.1, 0.6], "0.1,0.6"):
        body = GenerationBody.model_validate({"prompt": "a"} | given | {"guidance_interval": interval})
        task = generation_task("a", 1, body, picture_options(service, body))
        assert {name: getattr(task, name) for name in given} == given


def test_decoder_options_are_taken_by_every_route(http: httpx.Client) -> None:
    given = {"decoder": "normal", "num_steps": 2, "decoder_guidance": 1.5, "guidance_interval": [0, 1]}
    given["step_cache"] = 0.2
    assert http.post(IMAGES, json={"prompt": "a"} | given).status_code == 200
    for modalities in (["image"], ["text", "image"]):
        reply = http.post(CHAT, json=HELLO | given | {"modalities": modalities, "max_frames": 1})
        assert reply.status_code == 200, reply.text
