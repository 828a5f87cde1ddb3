"""Replicas: the settings without Ray, the painter in the engine, and a live cluster of two and two on this machine."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from serving_helpers import Live

from llada_uni.cli.main import run
from llada_uni.errors import ResourceError
from llada_uni.pipeline import LladaUni
from llada_uni.pipeline.tasks import GenerateTask
from llada_uni.serving.cluster import ClusterSettings, Replicas
from llada_uni.serving.drawing import Easel
from llada_uni.serving.engine import Engine
from llada_uni.serving.limits import ServerSettings
from llada_uni.serving.tickets import Preview, Wants
from llada_uni.serving.work import task_work

SOURCE = Path(__file__).resolve().parents[2] / "src"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: llada-uni[ray]")


def task(seed: int = 1, **options: Any) -> GenerateTask:
    return GenerateTask(prompt="a cat", seed=seed, num_steps=4, **options)


class Elsewhere:
    """Draws in a thread of its own; ``fault`` is what happens instead. Keeps what is given up."""

    def __init__(self, model: LladaUni, fault: Exception | None = None) -> None:
        self.networks, self.fault = model.networks, fault
        self.cancelled: list[int] = []
        self.waiting = threading.Event()
        self.hold = False

    def paint(self, drawing: Any, row: int, wants: Wants, hear: Callable[[Any], None]) -> Callable[[], None]:
        def work() -> None:
            if self.fault is not None:
                hear(self.fault)
                return
            easel = Easel(self.networks, drawing, row, wants)
            while easel.result is None:
                for event in easel.work():
                    hear(event)
            hear(easel.result)

        self.waiting.set()
        if not self.hold:
            threading.Thread(target=work).start()
        return lambda: self.cancelled.append(row)


def test_a_picture_drawn_elsewhere_is_the_same(model: LladaUni) -> None:
    with Engine(model.networks, painter=Elsewhere(model)) as engine:
        works = [task_work(model.networks, task(seed)) for seed in (1, 2)]
        tickets = engine.submit(works, wants=Wants(previews=2))
        for ticket, seed in zip(tickets, (1, 2), strict=True):
            events = [ticket.event(60) for _ in range(3)]
            assert [isinstance(event, Preview) for event in events] == [True, True, False]
            assert events[-1].result.image.tobytes() == model.run([task(seed)])[0].image.tobytes()
        assert engine.status().drawing == engine.status().requests == 0
        assert engine.status().totals["pictures_drawn"] == 2


def test_a_painter_that_fails_or_is_given_up(model: LladaUni) -> None:
    with Engine(model.networks, painter=Elsewhere(model, ResourceError("gone; try again"))) as engine:
        (ticket,) = engine.submit([task_work(model.networks, task())])
        with pytest.raises(ResourceError, match="gone"):
            ticket.result(60)
    painter = Elsewhere(model)
    painter.hold = True
    with Engine(model.networks, painter=painter) as engine:
        (ticket,) = engine.submit([task_work(model.networks, task())])
        assert painter.waiting.wait(60)
        ticket.cancel()
        with pytest.raises(ResourceError):
            ticket.result(60)
        assert painter.cancelled == [ticket.number]
        assert engine.status().requests == engine.status().drawing == 0


def test_options_of_replicas_need_ray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["serve", "--replicas", "2"]) == 2
    assert "--replicas: has a meaning only together with --ray" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["serve", "--ray"]) == 2
    message = capsys.readouterr().err
    assert "llada-uni[ray]" in message
    assert len(message.strip().splitlines()) == 1


@needs_ray
@pytest.mark.parametrize("text", ["", "0", "-1", "3-2", "1-", "two", "1-2-3", "1.5"])
def test_wrong_numbers_of_replicas(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--ray", f"--decoder-replicas={text}"]) == 2
    assert "replicas" in capsys.readouterr().err


def test_deployment_options() -> None:
    assert Replicas.parse("2").options(8) == {"num_replicas": 2}
    scaling = Replicas.parse("1-4").options(8)["autoscaling_config"]
    assert scaling == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8}
    cluster = ClusterSettings(backbones=Replicas.parse("2-3"), decoders=Replicas.parse("1"), cpus=0.5, gpus=1)
    assert cluster.needed == {"CPU": 1.5, "GPU": 3}


@pytest.fixture(scope="module")
def cluster(checkpoint: Path) -> Iterator[str]:
    """A server of two backbones and two decoders: its address. SIGTERM must end it."""
    command = [sys.executable, "-m", "llada_uni", "serve", "--ray", "--model", str(checkpoint), "--name", "tiny"]
    command += ["--port", "0", "--replicas", "2", "--decoder-replicas", "2", "--device", "cpu", "--drain", "10"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])}
    environment.pop("RAY_ADDRESS", None)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        first = next((line for line in lines if line.startswith("serving ")), "")
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        try:
            assert first, "the server ended before it was ready"
            yield first.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0
            reader.join()


@pytest.mark.slow
@needs_ray
def test_two_replicas_answer_like_one_process(cluster: str, model: LladaUni, photo_png: bytes) -> None:
    asked = [{"prompt": "a cat", "seed": seed, "num_steps": 4} for seed in range(6)]
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12}
    with Live(model, ServerSettings(names=("tiny",))) as live:
        alone = [httpx.post(f"{live.url}/v1/images/generations", json=body, timeout=60).json() for body in asked]
        words = httpx.post(f"{live.url}/v1/chat/completions", json=chat, timeout=60).json()["choices"]
    with httpx.Client(base_url=cluster, timeout=120) as http, ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(lambda body: http.post("/v1/images/generations", json=body), asked))
        assert [reply.status_code for reply in replies] == [200] * 6
        assert [reply.json()["data"] for reply in replies] == [reply["data"] for reply in alone]
        assert http.post("/v1/chat/completions", json=chat).json()["choices"] == words
        edit = http.post("/v1/images/edits", data={"prompt": "red", "num_steps": "4"}, files={"image": photo_png})
        assert Image.open(io.BytesIO(base64.b64decode(edit.json()["data"][0]["b64_json"]))).size > (1, 1)
        mask = io.BytesIO()
        Image.new("L", (70, 50), 255).save(mask, "PNG")
        files = {"image": photo_png, "mask": mask.getvalue()}
        assert http.post("/v1/images/edits", data={"prompt": "red", "num_steps": "4"}, files=files).status_code == 200
        streamed = http.post("/v1/images/generations", json=asked[0] | {"stream": True, "partial_images": 2}).text
        assert streamed.count("partial_image\n") == 2
        assert "completed" in streamed
        assert http.get("/health").json()["status"] == "ok"
        assert http.post("/v1/images/generations", json={"prompt": ""}).status_code == 400


@pytest.mark.slow
@needs_ray
def test_both_replicas_of_the_application_are_used(cluster: str) -> None:
    started = set()
    for _ in range(30):  # every replica counts the pictures it drew and the answers it gave by itself
        text = httpx.get(f"{cluster}/metrics", timeout=60).text
        started |= {line for line in text.splitlines() if line.startswith("llada_uni_pictures_drawn_total")}
    assert len(started) >= 2, started
