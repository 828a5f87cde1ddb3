"""The real openai client against a live server: chat, pictures, edits, streams, errors."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from llada_uni.pipeline import LladaUni, Turn

USER = [{"role": "user", "content": "hello"}]


def picture(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2] or text)))
    image.load()
    return image


def asked(words: str, *uris: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": words}]}]


def create(client: openai.OpenAI, messages: Any = USER, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=messages, **options)


# --- chat -----------------------------------------------------------------------------------------------------------


def test_chat(client: openai.OpenAI, model: LladaUni) -> None:
    answer = create(client, seed=3, max_tokens=20)
    expected = model.chat([Turn("user", "hello")], seed=3, max_new_tokens=20)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == expected.usage["prompt_tokens"]
    assert answer.usage.completion_tokens == expected.usage["output_tokens"]
    assert answer.seed == 3
    assert answer.model == "tiny"


def test_a_limit_beyond_the_context_gives_way(client: openai.OpenAI) -> None:
    answer = create(client, max_completion_tokens=100_000)
    assert answer.usage.total_tokens <= 512


def test_several_turns_and_pictures(client: openai.OpenAI, model: LladaUni, photo: Image.Image, photo_uri: str) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        *asked("what is it?", photo_uri, photo_uri),
        {"role": "assistant", "content": "a ball"},
        {"role": "user", "content": "and now?"},
    ]
    turns = [
        Turn("system", "be brief"), Turn("user", "what is it?", [photo, photo]), Turn("assistant", "a ball"),
        Turn("user", "and now?"),
    ]  # fmt: skip
    assert create(client, messages, seed=1).choices[0].message.content == model.chat(turns, seed=1).text


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = create(client, seed=5, temperature=0.8)
    chunks = list(create(client, seed=5, temperature=0.8, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len([1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 1, "block by block"


def test_denoising_is_shown(client: openai.OpenAI) -> None:
    chunks = list(create(client, seed=5, stream=True, extra_body={"stream_mode": "denoise"}))
    told = [chunk.denoise for chunk in chunks if hasattr(chunk, "denoise")]
    assert told[0]["type"] == "start"
    assert told[0]["grid"] is None
    steps = [one for one in told if one["type"] == "step"]
    places = [place for one in steps for place in one["positions"]]
    assert len(places) == len(set(places))
    assert all(len(one["tokens"]) == len(one["positions"]) == len(one["confidence"]) for one in steps)


def test_a_picture_out_of_a_chat(client: openai.OpenAI, model: LladaUni) -> None:
    extra = {"modalities": ["image"], "size": "32x48"}
    answer = create(client, seed=3, extra_body=extra)
    message = answer.choices[0].message
    expected = model.generate_image("hello", seed=3, height=48, width=32).image
    for part in (message.content[0], message.images[0]):
        assert part["type"] == "image_url"
        assert picture(part["image_url"]["url"]).tobytes() == expected.tobytes()
    assert answer.seed == 3


def test_the_conversation_goes_on_with_its_picture(client: openai.OpenAI) -> None:
    first = create(client, seed=3, extra_body={"modalities": ["image"]}).choices[0].message
    told = [*USER, {"role": "assistant", "content": first.content, "images": first.images}]
    said = {"role": "user", "content": "what is it?"}
    assert create(client, [*told, said]).choices[0].message.content
    edited = create(client, [*told, said], seed=1, extra_body={"modalities": ["image"]})
    fresh = create(client, [*told, said], seed=1, extra_body={"modalities": ["image"],
                                                             "image_generation": {"action": "generate"}})  # fmt: skip
    assert edited.usage.prompt_tokens > fresh.usage.prompt_tokens
    reply = {"role": "assistant", "content": None, "images": first.images}
    again = create(client, [*USER, reply, said], seed=1, extra_body={"modalities": ["image"]})
    assert again.choices[0].message.content == edited.choices[0].message.content


def test_pictures_in_a_stream(client: openai.OpenAI) -> None:
    extra = {"modalities": ["image"], "stream_mode": "denoise", "partial_images": 2, "num_steps": 6}
    chunks = list(create(client, seed=3, stream=True, extra_body=extra))
    told = [chunk.denoise for chunk in chunks if hasattr(chunk, "denoise")]
    assert told[0]["grid"] == [4, 4]
    codes = [code for one in told if one["type"] == "step" for code in one["codes"]]
    assert len(codes) == 16
    assert [one["step"] for one in told if one["type"] == "flow"] == [1, 2, 3, 4, 5, 6]
    partial = [chunk.partial_image for chunk in chunks if hasattr(chunk, "partial_image")]
    assert [one["partial_image_index"] for one in partial] == [0, 1]
    images = [image for chunk in chunks for image in getattr(chunk.choices[0].delta, "images", ())]
    assert len(images) == 1
    assert picture(images[0]["image_url"]["url"]).size == (32, 32)


def test_text_and_pictures_in_turn(client: openai.OpenAI, model: LladaUni) -> None:
    extra = {"modalities": ["text", "image"], "max_frames": 1, "max_tokens": 30}
    told = model.generate_interleaved("hello", seed=4, max_frames=1, max_new_tokens=30, temperature=1.0)
    answer = create(client, seed=4, temperature=1.0, extra_body=extra)
    parts = answer.choices[0].message.content
    texts = [part["text"] for part in parts if part["type"] == "text"]
    assert texts == [one for one in told.segments if isinstance(one, str)]
    assert len(parts) == len(told.segments)
    chunks = list(create(client, seed=4, temperature=1.0, stream=True, extra_body=extra))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == "".join(texts)


def test_a_plan_before_a_picture(client: openai.OpenAI) -> None:
    extra = {"modalities": ["image"], "thinking": True, "thinking_tokens": 16}
    whole = create(client, seed=3, extra_body=extra).choices[0].message
    chunks = list(create(client, seed=3, stream=True, extra_body=extra))
    planned = "".join(getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in chunks)
    assert planned == whole.reasoning_content


# --- pictures -------------------------------------------------------------------------------------------------------


def test_generations(client: openai.OpenAI, model: LladaUni) -> None:
    reply = client.images.generate(
        model="tiny", prompt="a cat", n=2, response_format="b64_json", extra_body={"seed": 7}
    )
    expected = model.generate_image(["a cat", "a cat"], seed=7)
    for item, one in zip(reply.data, expected, strict=True):  # type: ignore[arg-type]
        assert picture(item.b64_json).tobytes() == one.image.tobytes()  # type: ignore[arg-type]
        assert item.seed == one.seed  # type: ignore[attr-defined]
    assert reply.size == "32x32"  # type: ignore[comparison-overlap]
    assert reply.usage is not None
    assert reply.usage.output_tokens == 32


@pytest.mark.parametrize(
    ("size", "drawn"), [("512x512", "32x32"), ("1792x1024", "48x32"), ("100x180", "32x48"), ("48x32", "48x32")]
)
def test_any_size_is_drawn_at_the_nearest_and_resized(client: openai.OpenAI, size: str, drawn: str) -> None:
    reply = client.images.generate(prompt="a cat", size=size, extra_body={"seed": 7})  # type: ignore[call-overload]
    image = picture(reply.data[0].b64_json)
    assert f"{image.width}x{image.height}" == size == reply.size
    assert reply.data[0].drawn_size == drawn


@pytest.mark.parametrize(("kind", "magic"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_kinds_of_files_without_metadata(client: openai.OpenAI, kind: Any, magic: str) -> None:
    reply = client.images.generate(prompt="a secret cat", output_format=kind, response_format="url")
    assert reply.data is not None
    url = str(reply.data[0].url)
    assert url.startswith(f"data:image/{kind};base64,")
    image = picture(url)
    assert image.format == magic
    assert b"secret" not in base64.b64decode(url.partition(",")[2])
    assert "exif" not in image.info


def test_a_streamed_picture(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"extra_body": {"seed": 7, "num_steps": 6}, "partial_images": 3, "stream": True}
    events = list(client.images.generate(prompt="a cat", **options))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
    whole = client.images.generate(prompt="a cat", extra_body={"seed": 7, "num_steps": 6})
    assert events[-1].b64_json == whole.data[0].b64_json  # type: ignore[index]
    assert events[-1].usage.output_tokens == 16


def test_open_webui_sends_this(http: httpx.Client, photo_png: bytes) -> None:
    body = {"model": "nano", "prompt": "a cat", "n": 1, "size": "512x512", "response_format": "b64_json"}
    reply = http.post("/v1/images/generations", json=body, headers={"Authorization": "Bearer sk-x"})
    assert reply.status_code == 200
    assert picture(reply.json()["data"][0]["b64_json"]).size == (512, 512)
    form = {"model": "nano", "prompt": "a cat", "n": "1", "size": "512x512", "response_format": "b64_json"}
    reply = http.post("/v1/images/edits", data=form, files={"image": ("image.png", photo_png, "image/png")})
    assert reply.status_code == 200, reply.text
    assert picture(reply.json()["data"][0]["b64_json"]).size == (512, 512)


# --- edits ----------------------------------------------------------------------------------------------------------


def test_edits(client: openai.OpenAI, model: LladaUni, photo: Image.Image, photo_png: bytes) -> None:
    for count in (1, 2):
        files: Any = photo_png if count == 1 else [photo_png] * count
        reply = client.images.edit(image=files, prompt="make it green", n=2, extra_body={"seed": 4})
        expected = model.edit_image([[photo] * count] * 2, ["make it green"] * 2, seed=4)
        assert [picture(str(item.b64_json)).tobytes() for item in reply.data or ()] == [
            one.image.tobytes() for one in expected
        ]
        assert reply.usage is not None
        assert reply.usage.input_tokens_details.image_tokens == 24 * count


def mask_png(size: tuple[int, int], box: tuple[int, int, int, int]) -> bytes:
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def test_an_edit_with_a_mask_keeps_the_rest(client: openai.OpenAI, model: LladaUni, photo: Image.Image) -> None:
    buffer = io.BytesIO()
    small = photo.resize((48, 32))
    small.save(buffer, "PNG")
    mask = mask_png((48, 32), (0, 0, 16, 16))
    reply = client.images.edit(image=buffer.getvalue(), mask=mask, prompt="a star", extra_body={"seed": 4})
    image = picture(str((reply.data or [])[0].b64_json))
    expected = model.inpaint_image(small, "a star", mask=mask, seed=4)
    assert image.tobytes() == expected.image.tobytes()
    assert image.crop((32, 16, 48, 32)).tobytes() == small.crop((32, 16, 48, 32)).tobytes()


def test_a_streamed_edit(client: openai.OpenAI, photo_png: bytes) -> None:
    events = list(client.images.edit(image=photo_png, prompt="green", stream=True, partial_images=1))
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


# --- about the server -----------------------------------------------------------------------------------------------


def test_models(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["tiny", "nano"]
    assert client.models.retrieve("nano").id == "nano"
    with pytest.raises(openai.NotFoundError, match="tiny, nano"):
        client.models.retrieve("gpt-4")


def test_errors_arrive_as_openai_errors(client: openai.OpenAI, photo_png: bytes) -> None:
    with pytest.raises(openai.BadRequestError, match="ends with a user turn") as wrong:
        create(client, [{"role": "assistant", "content": "x"}])
    assert wrong.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(prompt="a", extra_body={"guidance_scale": -1})
    assert wrong.value.param == "guidance_scale"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=USER)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="exactly one picture"):
        client.images.edit(image=[photo_png, photo_png], mask=photo_png, prompt="a")
    with pytest.raises(openai.APIStatusError) as long:
        create(client, [{"role": "user", "content": "word " * 3000}])
    assert long.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="user turn"):
        create(client, [{"role": "assistant", "content": "x"}], stream=True)


def test_the_schema_names_every_route(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    assert set(schema["paths"]) >= {
        "/v1/chat/completions", "/v1/images/generations", "/v1/images/edits", "/v1/models", "/health", "/metrics",
    }  # fmt: skip
    assert "multipart/form-data" in json.dumps(schema["paths"]["/v1/images/edits"])
    assert "stream_mode" in schema["components"]["schemas"]["ChatBody"]["properties"]


def test_health_and_metrics(http: httpx.Client) -> None:
    assert http.get("/health").json()["status"] == "ok"
    text = http.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["llada_uni_backbone_steps_total"]) > 0
    assert float(values["llada_uni_rows"]) == 0
    assert any(name.startswith("llada_uni_http_requests_total{path=") for name in values)
    assert all(line.startswith(("# HELP llada_uni_", "# TYPE llada_uni_", "llada_uni_")) for line in text.splitlines())
