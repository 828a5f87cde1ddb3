"""Forms to work for the engine, by the very bodies and tasks that the HTTP routes use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llada_uni.errors import ConfigError, ImageError, PromptError
from llada_uni.image_tokenizer.images import load_mask
from llada_uni.pipeline.checks import resolve_seeds
from llada_uni.pipeline.region_source import open_source
from llada_uni.pipeline.tasks import AskTask, Task
from llada_uni.serving.bodies import ChatBody, EditBody, GenerationBody
from llada_uni.serving.image_routes import editing_task, generation_task, picture_options, region_task
from llada_uni.serving.messages import check_text_size
from llada_uni.serving.pictures import data_uri, encoded, read_picture
from llada_uni.serving.replies import validation_message
from llada_uni.serving.running import Service
from llada_uni.serving.work import Said, Work, story_work, task_work
from llada_uni.ui.fields import changed, fields
from llada_uni.ui.snippets import Call

__all__ = ["Form", "Order", "looked_at", "order"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a tab sent: ``values`` in the order of its fields, ``picture`` and ``mask`` as data URIs or empty."""

    tab: str
    words: Any
    values: Sequence[Any]
    picture: Any = None
    mask: Any = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """A checked form: the work, and what can be copied."""

    work: Work
    call: Call
    seed: int


def order(service: Service, form: Form) -> Order:
    """Check a form; nothing is computed yet.

    Raises:
        LladaUniError: something in it cannot be used; the message is for the visitor.
    """
    networks = service.engine.networks
    options = changed(fields(form.tab, networks), form.values)
    words = form.words if isinstance(form.words, str) else ""
    if not words.strip():
        raise PromptError(_MISSING[form.tab])
    check_text_size(words, service.settings.limits)
    (seed,) = resolve_seeds(options.pop("seed", None), 1)
    call = Call(tab=form.tab, words=words, options={"seed": seed} | options)
    try:
        return _made(service, form, words, seed, options, call)
    except ValidationError as error:
        raise ConfigError(validation_message(error.errors())) from error


_MISSING = {
    "generate": "Say in a few words what to draw.",
    "ask": "Ask something about the picture.",
    "edit": "Say what to change.",
    "story": "Say what the story is about.",
}


def _made(service: Service, form: Form, words: str, seed: int, options: dict[str, Any], call: Call) -> Order:
    networks = service.engine.networks
    if form.tab == "generate":
        body = GenerationBody.model_validate({"prompt": words, "seed": seed} | options)
        task: Task = generation_task(words, seed, body, picture_options(service, body))
        return Order(work=task_work(networks, task), call=call, seed=seed)
    if form.tab == "story":
        ChatBody.model_validate({"messages": []} | options)
        work = story_work(networks, [Said(role="user", parts=(words,))], options, seed=seed)
        return Order(work=work, call=call, seed=seed)
    if not form.picture:
        raise ImageError("Choose a picture first.")
    picture = read_picture(form.picture, service.settings.limits)
    if form.tab == "ask":
        ChatBody.model_validate({"messages": []} | options)
        task = AskTask(image=picture, question=words, seed=seed, **options)
        return Order(work=task_work(networks, task), call=_with(call, shows=True), seed=seed)
    return _edited(service, form, picture, seed, options, call)


def _edited(service: Service, form: Form, picture: Any, seed: int, options: dict[str, Any], call: Call) -> Order:
    """With a mask the marked cells are written anew, without one the whole picture follows the instruction."""
    limits = service.settings.limits
    body = EditBody.model_validate({"prompt": call.words, "seed": seed} | options)
    if form.mask:
        marks = load_mask(_checked_uri(form.mask), max_pixels=limits.max_pixels)
        task: Task = region_task(picture, marks, call.words, seed, body, picture_options(service, body))
        call = _with(call, shows=True, marks=True)
    else:
        kept = {name: value for name, value in call.options.items() if name != "strength"}
        call = Call(tab=call.tab, words=call.words, options=kept, shows=True)
        task = editing_task([picture], call.words, seed, body, picture_options(service, body))
    return Order(work=task_work(service.engine.networks, task), call=call, seed=seed)


def looked_at(service: Service, picture: Any) -> dict[str, Any]:
    """A picture as an edit will see it: ``picture`` (a data URI at the size of the result) and its token ``grid``.

    Raises:
        ImageError: it cannot be read, or is too large or too elongated.
    """
    networks = service.engine.networks
    source = open_source(networks, read_picture(picture, service.settings.limits))
    assert source.picture is not None
    return {"picture": data_uri(encoded(source.picture)), "grid": [source.grid.grid_h, source.grid.grid_w]}


def _checked_uri(source: Any) -> str:
    if not isinstance(source, str) or source[:5].lower() != "data:":
        raise ImageError("mask: expected a picture as a data URI")
    return source


def _with(call: Call, **changes: bool) -> Call:
    return Call(tab=call.tab, words=call.words, options=call.options, **changes)
