"""The mounted page: reachable beside the API, closed where it must be, and without a word of other hosts."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from llada_uni.pipeline import LladaUni
from llada_uni.serving.engine import Engine
from llada_uni.serving.limits import ServerSettings

pytest.importorskip("gradio", reason="the extra llada-uni[ui] is not installed")
UI = Path(__file__).resolve().parents[2] / "src" / "llada_uni" / "ui"
OURS = re.compile(r"http://(testserver|www\.w3\.org)(/|$)")


@pytest.fixture(scope="module")
def web(model: LladaUni) -> Iterator[TestClient]:
    from llada_uni.ui.app import create_page_app

    with TestClient(create_page_app(Engine(model.networks), ServerSettings(names=("tiny",)))) as one:
        yield one


@pytest.mark.parametrize("path", ["/ui/", "/ui/theme.css", "/ui/config"])
def test_nothing_served_refers_to_another_host(web: TestClient, path: str) -> None:
    answer = web.get(path, headers={"accept-encoding": "gzip, br"})
    assert answer.status_code == 200
    addresses = re.findall(r"https?://[^\s\"'<>)\\]*", answer.text)
    assert [one for one in addresses if not OURS.match(one)] == []


def test_a_browser_is_told_to_load_nothing_else(web: TestClient) -> None:
    policy = web.get("/ui/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert not re.search(r"https?:|\*", policy)


def test_the_api_is_beside_it(web: TestClient) -> None:
    assert web.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert "content-security-policy" not in web.get("/health").headers
    assert web.get("/", follow_redirects=False).headers["location"] == "/ui/"
    assert web.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "path",
    ["upload", "file=/etc/passwd", "file/etc/passwd", "proxy=http://127.0.0.1/", "info", "openapi.json", "run/0",
     "call/0", "stream/x", "runs", "vibe-code/", "component_server"],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(web: TestClient, path: str) -> None:
    for method in ("GET", "POST"):
        answer = web.request(method, f"/ui/gradio_api/{path}")
        assert answer.status_code == 404
        assert "there is nothing at this address" in answer.text


def test_no_component_fetches_or_reads_files(web: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    async def fetch(address: str, **_: object) -> str:
        fetched.append(address)
        return __file__

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    file = {"path": "http://127.0.0.1:9/x.png", "meta": {"_type": "gradio.FileData"}}
    config = web.get("/ui/config").json()
    number, inputs = next((one["id"], one["inputs"]) for one in config["dependencies"] if len(one["inputs"]) > 5)
    body = {"data": [file] + [None] * (len(inputs) - 1), "fn_index": number, "session_hash": "s"}
    assert web.post("/ui/gradio_api/queue/join", json=body).status_code == 200
    with web.stream("GET", "/ui/gradio_api/queue/data?session_hash=s") as stream:
        text = "".join(stream.iter_text())
    assert '"success":false' in text.replace(" ", "")
    assert "Traceback" not in text
    assert fetched == []


def test_with_keys_the_page_asks_for_one_too(model: LladaUni) -> None:
    from llada_uni.ui.app import create_page_app

    app = create_page_app(Engine(model.networks), ServerSettings(keys=("k1", "k2")))
    with TestClient(app) as web:
        assert web.get("/v1/models").status_code == 401
        assert web.get("/uix").status_code == 401
        assert web.get("/ui/config").status_code == 401
        assert web.post("/ui/login", data={"username": "me", "password": "k3"}).status_code == 400
        assert web.post("/ui/login", data={"username": "me", "password": "k2"}).status_code == 200
        assert web.get("/ui/config").status_code == 200
        assert web.get("/v1/models").status_code == 401


def test_the_script_is_one_function_of_all_files() -> None:
    from llada_uni.ui.page import script

    text = script()
    assert text.startswith("() => {\n")
    assert text.rstrip().endswith("}")
    files = sorted(UI.glob("*.js"))
    assert len(files) > 1
    for path in files:
        part = path.read_text(encoding="utf-8")
        assert part in text, f"{path.name} is not part of the page"
        assert len(part.splitlines()) <= 250


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_can_be_read(tmp_path: Path) -> None:
    from llada_uni.ui.page import script

    for name, text, right in (("good", script(), True), ("bad", script().rstrip()[:-1], False)):
        path = tmp_path / f"{name}.js"
        path.write_text(f"const page = {text}", encoding="utf-8")
        done = subprocess.run(["node", "--check", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == right, done.stderr
