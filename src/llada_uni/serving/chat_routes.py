"""``/v1/chat/completions``: words, pictures, or both in turn, at once or as a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from starlette.responses import Response
from starlette.types import Receive

from llada_uni.errors import LladaUniError, PromptError
from llada_uni.pipeline.checks import check_choice, resolve_seeds
from llada_uni.pipeline.results import ImageDone, ImageResult, TextResult
from llada_uni.pipeline.story_results import StoryResult
from llada_uni.pipeline.tasks import ChatTask, Turn
from llada_uni.protocols import BlockDone, Finished, FlowStep, Started, StepDone
from llada_uni.serving.bodies import ChatBody
from llada_uni.serving.denoising import Denoising, TextStream
from llada_uni.serving.faults import status_of
from llada_uni.serving.image_routes import (
    PictureOptions,
    editing_task,
    generation_task,
    picture_options,
    size_text,
)
from llada_uni.serving.messages import read_messages
from llada_uni.serving.pictures import data_uri
from llada_uni.serving.replies import EventStream, error_body, json_response, plain_event
from llada_uni.serving.running import Service, Submitted, results
from llada_uni.serving.tickets import Done, Preview, Wants
from llada_uni.serving.work import Said, Work, story_work, task_work

__all__ = ["chat"]

_ACTIONS = ("auto", "generate", "edit")
_STORY_FIELDS = (
    "max_frames", "max_image_tokens", "guidance_scale", "guidance_text", "guidance_image", "steps_per_block",
    "confidence_threshold", "temperature", "num_steps", "decoder",
    "decoder_guidance", "guidance_interval", "step_cache",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Order:
    """A checked request. ``kind``: what is answered with."""

    kind: Literal["text", "image", "story"]
    work: Work
    options: PictureOptions
    body: ChatBody
    name: str
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")


async def chat(service: Service, body: ChatBody, receive: Receive) -> Response:
    """Answer a conversation."""
    order = await service.aside(lambda: _prepared(service, body))
    if body.stream:
        denoise = body.stream_mode == "denoise"
        wants = Wants(blocks=True, steps=denoise, previews=order.options.previews)
        submitted = Submitted(service.engine, [order.work], wants, body.timeout)
        return EventStream(_Stream(service, order).events(submitted), submitted.cancel)
    (result,) = await results(receive, service.engine, [order.work], body.timeout)
    message = await service.aside(lambda: _message(result, order.options))
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(result)}
    about = {"id": order.number, "object": "chat.completion", "created": order.created, "model": order.name}
    return json_response(about | {"choices": [choice], "usage": _usage(order, result), "seed": result.seed})


def _prepared(service: Service, body: ChatBody) -> _Order:
    """Everything about a request that is checked before it joins the others."""
    if body.image_generation:
        known = {name: value for name, value in body.image_generation.items() if name in _OVERRIDES}
        body = ChatBody.model_validate(body.model_dump() | known)
    turns = read_messages(body.messages, service.settings.limits)
    wanted = set(body.modalities or ["text"])
    options = picture_options(service, body)
    if wanted == {"text"}:
        kind, work = "text", _text_work(service, turns, body)
    elif wanted == {"image"}:
        kind, work = "image", _image_work(service, turns, body, options)
    else:
        kind, work = "story", _story_work(service, turns, body, options)
    return _Order(kind=kind, work=work, options=options, body=body, name=service.settings.names[0])  # type: ignore[arg-type]


_OVERRIDES = set(ChatBody.model_fields) - {"messages", "model", "modalities", "stream", "image_generation", "n"}


def _text_work(service: Service, turns: Sequence[Said], body: ChatBody) -> Work:
    """The next turn in words; a limit beyond the context gives way to it."""
    task = ChatTask(
        messages=[Turn(turn.role, turn.text, turn.pictures) for turn in turns],
        seed=body.seed,
        steps_per_block=body.steps_per_block,
        confidence_threshold=body.confidence_threshold,
        temperature=0.0 if body.temperature is None else body.temperature,
        sprint=body.sprint,
        keep_ratio=body.keep_ratio,
    )
    networks, most = service.engine.networks, _most_tokens(body)
    if most is None:
        return task_work(networks, task)
    shortest = task_work(networks, replace(task, max_new_tokens=1))
    room = max(1, networks.max_positions - shortest.prompt_tokens)
    return task_work(networks, replace(task, max_new_tokens=min(most, room)))


def _most_tokens(body: ChatBody) -> int | None:
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def _image_work(service: Service, turns: Sequence[Said], body: ChatBody, options: PictureOptions) -> Work:
    """A picture: of the last turn's words, or an edit of its pictures or else of the conversation's last picture."""
    action = (body.image_generation or {}).get("action", "auto")
    check_choice(action, name="image_generation.action", choices=_ACTIONS)
    if turns[-1].role != "user":
        raise PromptError("messages: expected a conversation that ends with a user turn")
    words, shown = turns[-1].text, list(turns[-1].pictures)
    shown = shown or [picture for turn in turns[:-1] for picture in turn.pictures][-1:]
    (seed,) = resolve_seeds(body.seed, 1)
    if action == "edit" and not shown:
        raise PromptError("messages: expected a picture to edit, got none in the whole conversation")
    if action == "generate" or not shown:
        return task_work(service.engine.networks, generation_task(words, seed, body, options))
    return task_work(service.engine.networks, editing_task(shown, words, seed, body, options))


def _story_work(service: Service, turns: Sequence[Said], body: ChatBody, options: PictureOptions) -> Work:
    given = {name: getattr(body, name) for name in _STORY_FIELDS}
    given |= {"max_new_tokens": _most_tokens(body), "height": options.task["height"], "width": options.task["width"]}
    return story_work(service.engine.networks, turns, given, seed=body.seed)


def _part(result: ImageResult, options: PictureOptions) -> dict[str, Any]:
    url = data_uri(options.file(result.image), options.kind)
    about = {"seed": result.seed, "drawn_size": size_text(result)}
    return {"type": "image_url", "image_url": {"url": url}} | about


def _message(result: Any, options: PictureOptions) -> dict[str, Any]:
    """The assistant's turn: a text, or parts where there are pictures, which also stand in ``images``."""
    if isinstance(result, TextResult):
        return {"role": "assistant", "content": result.text, "refusal": None}
    segments = [result] if isinstance(result, ImageResult) else result.segments
    parts = [{"type": "text", "text": one} if isinstance(one, str) else _part(one, options) for one in segments]
    plan = {} if getattr(result, "thinking", None) is None else {"reasoning_content": result.thinking}
    images = [part for part in parts if part["type"] == "image_url"]
    return {"role": "assistant", "content": parts, "images": images, "refusal": None} | plan


def _reason(result: Any) -> str:
    reason = getattr(result, "finish_reason", "stop")
    return "length" if reason in ("length", "context", "max_frames") else "stop"


def _usage(order: _Order, result: Any) -> dict[str, int]:
    prompt, output = order.work.prompt_tokens, result.usage["output_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


class _Stream:
    """One streamed answer: chunks as blocks are finished, steps too where they are asked for."""

    def __init__(self, service: Service, order: _Order) -> None:
        self._service, self._order = service, order
        self._tokenizer = service.engine.networks.tokenizer
        self._text = TextStream(self._tokenizer)
        self._denoising = Denoising(service.engine.networks)
        self._writing_text = False

    async def events(self, submitted: Submitted) -> AsyncGenerator[bytes, None]:
        """The stream, ``[DONE]`` last; a failure on the way is its last event instead."""
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for heard in submitted.events():
                if heard.event is None:
                    yield b": waiting\n\n"
                for line in await self._told(heard.event):
                    yield line
        except LladaUniError as error:
            yield plain_event(error_body(status_of(error), str(error)))
            return
        yield plain_event("[DONE]")

    async def _told(self, event: Any) -> list[bytes]:
        lines = self._denoised(event) if self._order.body.stream_mode == "denoise" else []
        if isinstance(event, Started):
            self._writing_text, self._text = event.grid is None, TextStream(self._tokenizer)
        elif isinstance(event, BlockDone) and self._writing_text:
            lines += self._words(self._text.feed(event.ids))
        elif isinstance(event, Finished) and self._writing_text:
            lines += self._words(self._text.end())
        elif isinstance(event, (ImageDone, Preview)):
            lines.append(await self._service.aside(lambda: self._picture(event)))
        elif isinstance(event, Done):
            lines += self._ending(event.result)
        return lines

    def _denoised(self, event: Any) -> list[bytes]:
        if not isinstance(event, (Started, StepDone, FlowStep)):
            return []
        return [self._chunk({}, denoise=self._denoising.told(event))]

    def _words(self, text: str) -> list[bytes]:
        """A plan is not what was asked for: it stands beside the content."""
        place = "reasoning_content" if self._order.kind == "image" else "content"
        return [self._chunk({place: text})] if text else []

    def _picture(self, event: ImageDone | Preview) -> bytes:
        if isinstance(event, ImageDone):
            return self._chunk({"images": [_part(event.result, self._order.options)]})
        url = data_uri(self._order.options.file(event.image), self._order.options.kind)
        about = {"partial_image_index": event.index, "step": event.step, "num_steps": event.num_steps}
        return self._chunk({}, partial_image={"image_url": {"url": url}} | about)

    def _ending(self, result: TextResult | ImageResult | StoryResult) -> list[bytes]:
        lines = [self._chunk({}, reason=_reason(result), seed=result.seed)]
        if (self._order.body.stream_options or {}).get("include_usage"):
            lines.append(plain_event(self._about() | {"choices": [], "usage": _usage(self._order, result)}))
        return lines

    def _chunk(self, delta: dict[str, Any], *, reason: str | None = None, **extra: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return plain_event(self._about() | {"choices": [choice]} | extra)

    def _about(self) -> dict[str, Any]:
        order = self._order
        return {
            "id": order.number, "object": "chat.completion.chunk", "created": order.created, "model": order.name,
        }  # fmt: skip
