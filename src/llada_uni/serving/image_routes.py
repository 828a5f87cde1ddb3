"""``/v1/images/generations`` and ``/v1/images/edits``: requests to work, results to replies."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Receive

from llada_uni.errors import ConfigError, ImageError, LladaUniError
from llada_uni.image_tokenizer.images import load_mask
from llada_uni.pipeline.checks import resolve_seeds
from llada_uni.pipeline.results import ImageResult
from llada_uni.pipeline.tasks import EditTask, GenerateTask, InpaintTask, Task
from llada_uni.serving.bodies import EditBody, GenerationBody, PictureBody
from llada_uni.serving.faults import status_of
from llada_uni.serving.messages import check_text_size
from llada_uni.serving.pictures import Size, checked_file, data_uri, encoded, read_picture, wished_size
from llada_uni.serving.replies import EventStream, error_body, json_response, named_event
from llada_uni.serving.running import Service, Submitted, results
from llada_uni.serving.tickets import Done, Preview, Wants
from llada_uni.serving.work import Work, task_work

__all__ = ["PictureOptions", "edit", "editing_task", "generate", "generation_task", "picture_options", "region_task",
           "size_text"]  # fmt: skip

_COMMON = (
    "height", "width", "steps_per_block", "confidence_threshold", "temperature", "num_steps", "decoder",
    "decoder_guidance", "guidance_interval", "step_cache",
)  # fmt: skip
_FAST = ("sprint", "keep_ratio")


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What a request says about its pictures: how they are drawn and how they are returned."""

    task: dict[str, Any]
    size: Size
    kind: str
    compression: int | None
    previews: int

    def file(self, image: Any) -> bytes:
        """A picture as it is returned."""
        return encoded(self.size.fit(image), self.kind, self.compression)


def picture_options(service: Service, body: PictureBody) -> PictureOptions:
    """Read and check them.

    Raises:
        SizeError: no such size. ConfigError: a value out of range, or a size said twice.
    """
    if body.size is not None and (body.height is not None or body.width is not None):
        raise ConfigError("size: expected either size, or height and width; got both")
    size = wished_size(body.size, service.engine.networks.geometry, service.settings.limits)
    task = {name: getattr(body, name) for name in _COMMON}
    if size.drawn is not None:
        task["height"], task["width"] = size.drawn
    kind, _ = checked_file(body.output_format or "png", body.output_compression)
    return PictureOptions(
        task=task, size=size, kind=kind, compression=body.output_compression, previews=body.partial_images or 0
    )


def generation_task(prompt: str, seed: int, body: PictureBody, options: PictureOptions) -> GenerateTask:
    """A picture from words."""
    plan = {"thinking": bool(body.thinking), "thinking_tokens": body.thinking_tokens}
    fast = {name: getattr(body, name) for name in _FAST}
    return GenerateTask(prompt=prompt, seed=seed, guidance_scale=body.guidance_scale, **options.task, **plan, **fast)


def editing_task(
    pictures: Sequence[Any], prompt: str, seed: int, body: PictureBody, options: PictureOptions
) -> EditTask:
    """A picture from pictures and an instruction."""
    own = {name: getattr(body, name) for name in ("guidance_text", "guidance_image", *_FAST)}
    crop: dict[str, Any] = {} if body.crop is None else {"crop": body.crop}
    return EditTask(image=list(pictures), instruction=prompt, seed=seed, **options.task, **own, **crop)


def region_task(
    picture: Any, mask: Any, prompt: str, seed: int, body: EditBody, options: PictureOptions
) -> InpaintTask:
    """A picture whose masked cells are drawn again; its size stays that of the picture."""
    own = ("guidance_scale", "guidance_text", "guidance_image")
    values = {name: value for name, value in options.task.items() if name not in ("height", "width")}
    values |= {name: getattr(body, name) for name in own}
    strength = 1.0 if body.strength is None else body.strength
    return InpaintTask(image=picture, mask=mask, prompt=prompt, seed=seed, strength=strength, **values)


@dataclass(frozen=True, kw_only=True)
class _Order:
    """A checked request for pictures."""

    works: list[Work]
    options: PictureOptions
    body: GenerationBody
    event: str
    created: int = field(default_factory=lambda: int(time.time()))


async def generate(service: Service, body: GenerationBody, receive: Receive) -> Response:
    """Answer a request for pictures from words."""

    def prepare() -> _Order:
        check_text_size(body.prompt, service.settings.limits)
        options = picture_options(service, body)
        tasks = [generation_task(body.prompt, seed, body, options) for seed in _seeds(body)]
        return _order(service, body, tasks, options, "image_generation")

    return await _answer(service, await service.aside(prepare), receive)


async def edit(
    service: Service, body: EditBody, pictures: Sequence[Any], mask: bytes | None, receive: Receive
) -> Response:
    """Answer a request for changed pictures; ``pictures`` are files or data URIs."""

    def prepare() -> _Order:
        limits = service.settings.limits
        check_text_size(body.prompt, limits)
        options = picture_options(service, body)
        if not 1 <= len(pictures) <= limits.max_images:
            raise ImageError(f"image: expected 1 to {limits.max_images} pictures, got {len(pictures)}")
        if mask is not None and len(pictures) != 1:
            raise ImageError(f"mask: expected exactly one picture with a mask, got {len(pictures)}")
        shown = [read_picture(picture, limits) for picture in pictures]
        if mask is None:
            tasks: list[Task] = [editing_task(shown, body.prompt, seed, body, options) for seed in _seeds(body)]
        else:
            marks = load_mask(mask, max_pixels=limits.max_pixels)
            tasks = [region_task(shown[0], marks, body.prompt, seed, body, options) for seed in _seeds(body)]
        return _order(service, body, tasks, options, "image_edit")

    return await _answer(service, await service.aside(prepare), receive)


def _seeds(body: GenerationBody) -> list[int]:
    return resolve_seeds(body.seed, body.n or 1)


def _order(
    service: Service, body: GenerationBody, tasks: Sequence[Task], options: PictureOptions, event: str
) -> _Order:
    works = [task_work(service.engine.networks, task) for task in tasks]
    return _Order(works=works, options=options, body=body, event=event)


async def _answer(service: Service, order: _Order, receive: Receive) -> Response:
    if order.body.stream:
        wants = Wants(previews=order.options.previews)
        submitted = Submitted(service.engine, order.works, wants, order.body.timeout)
        return EventStream(_events(service, order, submitted), submitted.cancel)
    pictures = await results(receive, service.engine, order.works, order.body.timeout)
    files = await service.aside(lambda: [order.options.file(one.image) for one in pictures])
    data = [_item(order, one, file) for one, file in zip(pictures, files, strict=True)]
    about = {"created": order.created, "output_format": order.options.kind, "size": _returned(order, pictures[0])}
    return json_response(about | {"data": data, "usage": _usage(order, pictures)})


async def _events(service: Service, order: _Order, submitted: Submitted) -> AsyncGenerator[bytes, None]:
    """Previews and finished pictures as server-sent events."""
    try:
        async for heard in submitted.events():
            event = heard.event
            if event is None:
                yield b": waiting\n\n"
            elif isinstance(event, Preview):
                image = event.image
                file = await service.aside(lambda image=image: order.options.file(image))
                yield named_event(f"{order.event}.partial_image", _about(order, heard.place, file) | {
                    "partial_image_index": event.index, "step": event.step, "num_steps": event.num_steps,
                })  # fmt: skip
            elif isinstance(event, Done):
                result = event.result
                file = await service.aside(lambda result=result: order.options.file(result.image))
                rest = {"usage": _usage(order, [result]), "size": _returned(order, result)}
                rest |= _details(result)
                yield named_event(f"{order.event}.completed", _about(order, heard.place, file) | rest)
    except LladaUniError as error:
        yield named_event("error", error_body(status_of(error), str(error)))


def _about(order: _Order, place: int, file: bytes) -> dict[str, Any]:
    text = base64.b64encode(file).decode("ascii")
    return {
        "b64_json": text, "created_at": order.created, "output_format": order.options.kind, "background": "opaque",
        "index": place,
    }  # fmt: skip


def _item(order: _Order, result: ImageResult, file: bytes) -> dict[str, Any]:
    if order.body.response_format == "url":
        return {"url": data_uri(file, order.options.kind)} | _details(result)
    return {"b64_json": base64.b64encode(file).decode("ascii")} | _details(result)


def _details(result: ImageResult) -> dict[str, Any]:
    """What belongs to a picture beside its pixels; the plan stands where other servers put a rewritten prompt."""
    plan = {} if result.thinking is None else {"revised_prompt": result.thinking}
    return {"seed": result.seed, "drawn_size": size_text(result)} | plan


def size_text(result: ImageResult) -> str:
    """The size at which the model drew it."""
    return f"{result.image.width}x{result.image.height}"


def _returned(order: _Order, result: ImageResult) -> str:
    wished = order.options.size.returned
    return size_text(result) if wished is None else f"{wished[1]}x{wished[0]}"


def _usage(order: _Order, pictures: Sequence[ImageResult]) -> dict[str, Any]:
    prompt, shown = order.works[0].prompt_tokens, order.works[0].picture_tokens
    output = sum(one.usage.get("output_tokens", 0) for one in pictures)
    return {
        "input_tokens": prompt,
        "output_tokens": output,
        "total_tokens": prompt + output,
        "input_tokens_details": {"text_tokens": prompt - shown, "image_tokens": shown},
    }
