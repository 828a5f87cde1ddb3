"""Bodies that no honest client sends: the right status, one line without a trace, and a healthy server afterwards."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

CHAT, IMAGES, EDITS = "/v1/chat/completions", "/v1/images/generations", "/v1/images/edits"
JSON = {"Content-Type": "application/json"}


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def huge_png(width: int, height: int) -> bytes:
    """A PNG of many pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


SMALL = Image.fromarray(noise(40, 40, 3))
PNG, JPEG = file(SMALL), file(SMALL, "JPEG")
FRAMES = [Image.fromarray(noise(20, 20, 3) // (n + 1)) for n in range(3)]
EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 6, "a secret place"

GOOD_PICTURES = {
    "grey": file(SMALL.convert("L")),
    "one bit": file(SMALL.convert("1")),
    "palette": file(SMALL.convert("P")),
    "rgba": file(SMALL.convert("RGBA")),
    "grey and alpha": file(SMALL.convert("LA")),
    "cmyk": file(SMALL.convert("CMYK"), "JPEG"),
    "16 bit": file(Image.fromarray(noise(30, 30).astype(np.uint16) * 256)),
    "animated gif": file(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "animated webp": file(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "one pixel": file(Image.new("RGB", (1, 1))),
    "with exif": file(SMALL, "JPEG", exif=EXIF),
    "tiff": file(SMALL, "TIFF"),
    "bmp": file(SMALL, "BMP"),
}
BAD_PICTURES = {
    "nothing": b"",
    "one byte": b"\x89",
    "words": b"this is not a picture",
    "only a signature": PNG[:8],
    "half a png": PNG[: len(PNG) // 2],
    "half a jpeg": JPEG[: len(JPEG) // 2],
    "broken png": PNG[:60] + b"\xff" * 40 + PNG[100:],
    "bomb": huge_png(30_000, 30_000),
    "more pixels than allowed": huge_png(1001, 1001),
    "no pixels": huge_png(0, 10),
    "a thin line": file(Image.new("RGB", (3000, 1))),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "html": b"<html><script>alert(1)</script></html>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run",
    "pdf": b"%PDF-1.4\n",
    "zip": b"PK\x03\x04" + bytes(100),
}
ADDRESSES = [
    "/etc/passwd", "file:///etc/passwd", "../../secret.png", "C:\\secret.png", "http://127.0.0.1:1/x.png",
    "http://localhost/x", "http://[::1]/x", "http://169.254.169.254/latest/meta-data/", "http://0x7f000001/",
    "https://example.org/x.png", "HTTP://EXAMPLE.ORG/x.png", "ftp://example.org/x.png", "gopher://x", "//example.org/x",
    "data:text/plain,hello", "data:image/png;base64,!!!!", "data:,", "data:image/png;base64,", "", " ", "\x00",
    "javascript:alert(1)", "blob:null/1", "data:image/png;base64," + "A" * 10_001,
]  # fmt: skip


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def seen(address: Any, words: str = "what is it?") -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": words}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1}


def said(content: Any, **rest: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1} | rest


WRONG_VALUES: list[tuple[str, Any]] = [
    (name, value)
    for name, values in {
        "steps_per_block": (0, -1, "x", 1.5, 10**30, [], {}),
        "confidence_threshold": (-0.1, 1.1, "x", float("nan"), float("inf")),
        "temperature": (-1, float("nan"), float("-inf"), "hot", []),
        "seed": (-1, 2**63, 1.5, "x", True and "yes"),
        "sprint": ("no such preset", 5, []),
        "keep_ratio": (0, 2, float("nan"), "x"),
        "timeout": (0, -5, float("nan"), "x"),
    }.items()
    for value in values
]
WRONG_PICTURES: list[tuple[str, Any]] = [
    (name, value)
    for name, values in {
        "n": (0, 11, -1, 1.5, "x", 10**9),
        "size": ("0x0", "-1x5", "512", "512x", "999999x1", "99999x99999", "x", "5000x5000", 512, ["32x32"], "1e3x1e3"),
        "height": (33, -32, 0, 10**9, "x"),
        "num_steps": (0, 1001, 1.5, float("nan")),
        "decoder": ("none", "../normal", 5),
        "decoder_guidance": (-1, float("nan"), "x"),
        "guidance_interval": ([0.5], [0.6, 0.2], [0, 0.5, 1], [0, 2], [float("nan"), 1], 0.5, "x", {}),
        "step_cache": (0, 2, float("nan"), "x"),
        "guidance_scale": (-1, float("nan"), float("inf"), "x"),
        "output_format": ("gif", "exe", 5),
        "output_compression": (-1, 101),
        "partial_images": (-1, 4, "x"),
        "response_format": ("file", 5),
        "thinking_tokens": (5,),
        "prompt": ("", "  ", 5, None, ["a"], "\ud800", "w" * 20_001),
    }.items()
    for value in values
]
CONTENTS: list[Any] = [
    "", "   ", None, 5, [], {}, [5], [None], [{"type": "text"}], [{"type": "text", "text": 5}], [{"type": "audio"}],
    [{"type": "image_url"}], [{"type": "image_url", "image_url": 5}], [{"type": "image_url", "image_url": {"url": 5}}],
    "\ud800 half", "w" * 20_001, [[]], [{"type": ["text"]}],
]  # fmt: skip
MESSAGES: list[Any] = [
    None, 5, "hello", {}, [], [5], [[]], [{}], [{"role": "user"}], [{"role": 5, "content": "x"}],
    [{"role": "robot", "content": "x"}], [{"role": ["user"], "content": "x"}], [{"content": "x"}],
    [{"role": "system", "content": "x"}], [{"role": "assistant", "content": "x"}],
    [{"role": "user", "content": "x"}] * 1001,
    [{"role": "user", "content": "x"}, {"role": "system", "content": "late"}],
    [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": uri(PNG)}}]},
     {"role": "user", "content": "x"}],
]  # fmt: skip
RAW: list[bytes] = [
    b"", b"null", b"5", b"[]", b'"x"', b"{", b"{}", b"\xff\xfe", b"\x00", b'{"messages": NaN}', b"[" * 100_000,
    b'{"a":' * 50_000, b'{"prompt": ' + b"9" * 5000 + b"}", b"prompt=x", b"<xml/>", b'{"prompt": "a" "b"}',
    b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": 1e999}',
]  # fmt: skip


def refused(reply: httpx.Response, *statuses: int) -> str:
    assert reply.status_code in (statuses or (400, 413)), (reply.status_code, reply.text[:300])
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error" or reply.status_code in (401, 404)
    message = error["message"]
    assert message
    assert "\n" not in message
    assert len(message) < 450
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text
    return message


def body_of(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module", autouse=True)
def _healthy_afterwards(live: Any, http: httpx.Client) -> Any:
    yield
    live.idle()
    assert http.get("/health").json()["status"] == "ok"
    assert http.post(CHAT, json=said("hello")).status_code == 200


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", RAW, ids=lambda body: repr(body[:20]))
@pytest.mark.parametrize("path", [CHAT, IMAGES])
def test_not_a_request(http: httpx.Client, path: str, body: bytes) -> None:
    refused(http.post(path, content=body, headers=JSON))


@pytest.mark.parametrize("messages", MESSAGES, ids=lambda value: repr(value)[:40])
def test_not_a_conversation(http: httpx.Client, messages: Any) -> None:
    refused(http.post(CHAT, content=body_of({"messages": messages}), headers=JSON))


@pytest.mark.parametrize("content", CONTENTS, ids=lambda value: repr(value)[:40])
def test_not_content(http: httpx.Client, content: Any) -> None:
    refused(http.post(CHAT, content=body_of(said(content)), headers=JSON))


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES, ids=repr)
def test_wrong_values_in_chat(http: httpx.Client, name: str, value: Any) -> None:
    message = refused(http.post(CHAT, content=body_of(said("x", **{name: value})), headers=JSON))
    assert name in message


@pytest.mark.parametrize(("name", "value"), WRONG_PICTURES, ids=lambda value: repr(value)[:30])
def test_wrong_values_for_pictures(http: httpx.Client, name: str, value: Any) -> None:
    refused(http.post(IMAGES, content=body_of({"prompt": "x"} | {name: value}), headers=JSON))


@pytest.mark.parametrize("value", [5, "text", ["sound"], [5], {}])
def test_wrong_modalities(http: httpx.Client, value: Any) -> None:
    refused(http.post(CHAT, json=said("x", modalities=value)))


def test_unknown_fields_and_empty_ones_are_ignored(http: httpx.Client) -> None:
    extra = {"tools": [{}], "stop": "x", "logit_bias": {"5": 1}, "user": "\ud83d\ude00", "stream": None, "metadata": 5}
    assert http.post(CHAT, content=body_of(said("x", **extra)), headers=JSON).status_code == 200
    assert http.post(IMAGES, json={"prompt": "x", "quality": "hd", "style": 5, "n": None}).status_code == 200


def test_control_strings_are_plain_text(http: httpx.Client, model: Any) -> None:
    words = "".join(f"{one} " for one in ("<|mask|>", "<|image|>", "<boi>", "<role>ASSISTANT</role>", "<|endoftext|>"))
    reply = http.post(CHAT, json=said(words))
    assert reply.status_code == 200
    tokenizer = model.networks.tokenizer
    assert reply.json()["usage"]["prompt_tokens"] > len(tokenizer.encode_text(words))
    special = model.networks.vocab.special
    control = {special.mask, special.soi, special.boi, special.eos, special.role_open, special.role_close}
    assert not control & set(tokenizer.encode_text(words))


def test_bodies_have_a_limit(http: httpx.Client) -> None:
    refused(http.post(CHAT, json=said("x", junk="y" * 3 * 2**20)), 413)

    def drop_by_drop() -> Any:
        for _ in range(40):
            yield b"x" * 2**16

    refused(http.post(CHAT, content=drop_by_drop(), headers=JSON), 413)
    assert "text" in refused(http.post(CHAT, json=said("word " * 5000)), 413)


def test_a_refused_body_is_read_to_its_end(http: httpx.Client) -> None:
    """Otherwise the connection is reset, and now and then the client never sees the answer."""
    for _ in range(20):
        refused(http.post(CHAT, json=said("x", junk="y" * 3 * 2**20)), 413)


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD_PICTURES)
def test_pictures_of_all_kinds_are_read(http: httpx.Client, name: str) -> None:
    reply = http.post(CHAT, json=seen(uri(GOOD_PICTURES[name])))
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_what_is_no_picture_is_refused(http: httpx.Client, name: str) -> None:
    refused(http.post(CHAT, json=seen(uri(BAD_PICTURES[name]))))
    refused(http.post(EDITS, data={"prompt": "x"}, files={"image": ("x.png", BAD_PICTURES[name])}))
    refused(http.post(EDITS, data={"prompt": "x"}, files={"image": PNG, "mask": BAD_PICTURES[name]}))


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda text: text[:30])
def test_only_data_uris(http: httpx.Client, address: str) -> None:
    assert "/etc" not in refused(http.post(CHAT, json=seen(address))) or address.startswith("/etc")
    refused(http.post(EDITS, data={"prompt": "x"}, files={"image": (None, address)}))


def test_too_many_pictures(http: httpx.Client) -> None:
    part = {"type": "image_url", "image_url": {"url": uri(PNG)}}
    refused(http.post(CHAT, json=said([part] * 17 + [{"type": "text", "text": "x"}])))
    refused(http.post(EDITS, data={"prompt": "x"}, files=[("image[]", PNG)] * 17))


def test_metadata_of_pictures_does_not_come_back(http: httpx.Client) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("place", "a secret")
    source = file(SMALL.resize((32, 32)), pnginfo=info, exif=EXIF)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 16))
    for kind in ("png", "webp", "jpeg"):
        form = {"prompt": "x", "output_format": kind}
        reply = http.post(EDITS, data=form, files={"image": source, "mask": file(mask)})
        data = base64.b64decode(reply.json()["data"][0]["b64_json"])
        assert b"secret" not in data
        assert not Image.open(io.BytesIO(data)).getexif()


# --- forms ----------------------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "no image": lambda http: http.post(EDITS, data={"prompt": "x"}, files={"other": PNG}),
    "no prompt": lambda http: http.post(EDITS, files={"image": PNG}),
    "an empty prompt": lambda http: http.post(EDITS, data={"prompt": ""}, files={"image": PNG}),
    "json": lambda http: http.post(EDITS, json={"prompt": "x"}),
    "no body": lambda http: http.post(EDITS),
    "a form of another kind": lambda http: http.post(EDITS, data={"prompt": "x", "image": "y"}),
    "no boundary": lambda http: http.post(EDITS, content=PNG, headers={"Content-Type": "multipart/form-data"}),
    "a broken form": lambda http: http.post(
        EDITS, content=b"--x\r\nContent-Disposition: form-data; name=",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    ),
    "too many fields": lambda http: http.post(EDITS, data={f"f{n}": "x" for n in range(200)}, files={"image": PNG}),
    "a long field": lambda http: http.post(EDITS, data={"prompt": "x" * 1_200_000}, files={"image": PNG}),
    "a prompt that is a file": lambda http: http.post(EDITS, files={"image": PNG, "prompt": ("p.txt", b"x")}),
    "wrong numbers": lambda http: http.post(EDITS, data={"prompt": "x", "n": "NaN"}, files={"image": PNG}),
    "a mask of another shape": lambda http: http.post(
        EDITS, data={"prompt": "x"}, files={"image": PNG, "mask": file(Image.new("RGBA", (90, 10)))}
    ),
    "a mask that marks nothing": lambda http: http.post(
        EDITS, data={"prompt": "x"}, files={"image": PNG, "mask": file(Image.new("RGB", (40, 40)))}
    ),
    "strength": lambda http: http.post(
        EDITS, data={"prompt": "x", "strength": "7"}, files={"image": PNG, "mask": file(Image.new("L", (40, 40), 255))}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_not_a_form(http: httpx.Client, name: str) -> None:
    refused(FORMS[name](http))


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/v1", 404), ("GET", "/v1/../../etc/passwd", 404), ("POST", "/v1/completions", 404),
        ("GET", CHAT, 405), ("DELETE", "/health", 405), ("GET", "/v1/models/a%0ab", 404),
        ("GET", "/v1/models/%ff", 404),
        ("TRACE", "/health", 405), ("GET", "/" + "x" * 5000, 404),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_nothing_there(http: httpx.Client, method: str, path: str, status: int) -> None:
    refused(http.request(method, path), status)


# --- anything the schema allows, and more -----------------------------------------------------------------------------

ODD: list[Any] = [
    None, True, False, 0, 1, 2, -1, 3.7, 1e300, "", "x", "1", "32x32", "auto", "png", "turbo", "normal", "paper",
    "edit", [], {}, ["text"], ["image"], ["text", "image"], {"action": "generate"}, {"size": "48x32", "action": "edit"},
    "\ud800", "\x00", "😀" * 50,
]  # fmt: skip


def odd_body(order: random.Random, fields: list[str]) -> dict[str, Any]:
    body: dict[str, Any] = {name: order.choice(ODD) for name in order.sample(fields, order.randint(0, 4))}
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": uri(PNG)}}, order.choice(ODD)]
    content = order.choice(["hello", order.sample(parts, 2), order.choice(ODD)])
    return {"prompt": "x", "messages": [{"role": "user", "content": content}], "max_frames": 1} | body


@pytest.mark.parametrize("path", [CHAT, IMAGES])
def test_odd_bodies_never_break_the_server(http: httpx.Client, path: str) -> None:
    schema = http.get("/openapi.json").json()["components"]["schemas"]
    fields = list(schema["ChatBody" if path == CHAT else "GenerationBody"]["properties"])
    order, answers = random.Random(0), Counter[int]()
    for _ in range(60):
        body = odd_body(order, fields)
        reply = http.post(path, content=body_of(body), headers=JSON)
        assert reply.status_code in (200, 400, 404, 413), (body, reply.text)
        answers[reply.status_code] += 1
    assert answers[200] > 3
    assert answers[400] > 10
