"""Tasks as jobs: every kind of task has a function here (edits on the token grid in ``regions``) that checks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from llada_uni.errors import ConfigError
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.images import for_editing
from llada_uni.pipeline.checks import check_choice, check_flag, check_text, paired, resolve_seeds
from llada_uni.pipeline.jobs import Job, Script
from llada_uni.pipeline.regions import inpaint_job, outpaint_job, vary_job
from llada_uni.pipeline.requests import (
    answer_request,
    answer_room,
    conversation_ids,
    edit_request,
    image_request,
    planned_request,
    question_ids,
    thinking_request,
    thinking_room,
)
from llada_uni.pipeline.results import EncodedImage, TextResult
from llada_uni.pipeline.settings import (
    CROPS,
    ImageSettings,
    answer_settings,
    edit_settings,
    image_settings,
    output_grid,
    thinking_settings,
)
from llada_uni.pipeline.stations import Drawing, blank, prepare, sized
from llada_uni.pipeline.tasks import (
    AskTask,
    ChatTask,
    EditTask,
    GenerateTask,
    InpaintTask,
    OutpaintTask,
    Task,
    VaryTask,
)
from llada_uni.pipeline.turns import as_turns
from llada_uni.protocols import Finished, Request, Usage

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["job"]

_PLAN_OPTIONS = ("thinking_tokens", "thinking_temperature", "thinking_top_p")


def job(networks: Networks, task: Task) -> Job:
    """Check everything about ``task`` that can be checked without computing, its length included.

    Raises:
        PromptError, ImageError, SizeError, BudgetError, ConfigError: see the methods of ``LladaUni``.
    """
    make = _JOBS.get(type(task))
    if make is None:
        known = ", ".join(kind.__name__ for kind in _JOBS)
        raise ConfigError(f"tasks: expected values of {known}, got {type(task).__name__}")
    made = make(networks, task)
    next(made.script([blank(networks, picture) for picture in made.pictures]))
    return made


# Words to a picture


def _generate(networks: Networks, task: GenerateTask) -> Job:
    prompt = check_text(task.prompt, name="prompt")
    grid = output_grid(networks.geometry, task.height, task.width)
    settings = image_settings(networks.package.presets, networks.geometry.output_px(grid), vars(task))
    networks.require_decoder(settings.decoder)
    (seed,) = resolve_seeds(task.seed, 1)
    if check_flag(task.thinking, name="thinking"):
        return _think(networks, task, seed, grid, settings)
    given = [name for name in _PLAN_OPTIONS if getattr(task, name) is not None]
    if given:
        raise ConfigError(f"{given[0]}: has a meaning only together with thinking")

    def script(_: Sequence[EncodedImage]) -> Script:
        written = yield image_request(networks, prompt, seed, grid, settings)
        codes = tuple(networks.vocab.to_codes(written.output_ids))
        return Drawing(codes=codes, grid=grid, seed=seed, settings=settings, prompt=prompt, usage=asdict(written.usage))

    return Job(script=script)


def _think(networks: Networks, task: GenerateTask, seed: int, grid: TokenGrid, settings: ImageSettings) -> Job:
    """The plan first, then the picture of the requested grid, or of the one the plan announces."""
    plan = thinking_settings(networks.package.presets, vars(task))
    plan = thinking_room(networks, task.prompt, grid, plan, task.thinking_tokens)
    free = task.height is None and task.width is None

    def script(_: Sequence[EncodedImage]) -> Script:
        first = thinking_request(networks, task.prompt, seed, plan)
        thought = yield first
        own = _announced(networks, first, thought) if free else None
        height, width = networks.geometry.output_px(own or grid)
        final = replace(settings, height=height, width=width)
        words, second = planned_request(networks, first, thought.output_ids, seed, own or grid, final)
        written = yield second
        return Drawing(
            codes=tuple(networks.vocab.to_codes(written.output_ids)),
            grid=own or grid,
            seed=seed,
            settings=final,
            prompt=task.prompt,
            thinking=words,
            usage=_both(thought.usage, written.usage),
            also=plan.as_dict(),
        )

    return Job(script=script)


def _announced(networks: Networks, plan: Request, thought: Finished) -> TokenGrid | None:
    """The grid in the header that a plan ends with, if the checkpoint can draw it and the context holds it."""
    grid = networks.vocab.header_grid(thought.output_ids) if thought.reason == "header" else None
    trained = networks.geometry.trained_grids
    if grid is None or (trained is not None and grid not in trained):
        return None
    length = len(plan.prompts[0]) + len(thought.output_ids) + grid.num_tokens
    return grid if length <= networks.max_positions else None


def _both(first: Usage, second: Usage) -> dict[str, int]:
    """What two requests in a row consumed; the plan is counted as output, not again as prompt."""
    later = asdict(second) | {"prompt_tokens": 0}
    return {name: value + later[name] for name, value in asdict(first).items()}


# Pictures and an instruction to a picture


def _edit(networks: Networks, task: EditTask) -> Job:
    instruction = check_text(task.instruction, name="instruction")
    check_choice(task.crop, name="crop", choices=CROPS)
    (sources,) = paired(task.image, instruction, "instruction")
    geometry = networks.geometry
    pictures = [sized(networks, one, lambda image: for_editing(image, geometry, task.crop)) for one in sources]
    unsized = task.height is None and task.width is None
    grid = blank(networks, pictures[0]).grid if unsized else output_grid(geometry, task.height, task.width)
    settings = edit_settings(networks.package.presets, geometry.output_px(grid), vars(task))
    networks.require_decoder(settings.decoder)
    (seed,) = resolve_seeds(task.seed, 1)

    def script(images: Sequence[EncodedImage]) -> Script:
        written = yield edit_request(networks, instruction, images, seed, grid, settings)
        codes = tuple(networks.vocab.to_codes(written.output_ids))
        return Drawing(
            codes=codes, grid=grid, seed=seed, settings=settings, prompt=instruction, usage=asdict(written.usage)
        )

    return Job(pictures=pictures, script=script)


# Words


def _ask(networks: Networks, task: AskTask) -> Job:
    question = check_text(task.question, name="question")
    system = None if task.system is None else check_text(task.system, name="system")
    if check_flag(task.raw, name="raw") and system is not None:
        raise ConfigError("raw: this form of the prompt has no system text; leave one of the two out")
    (sources,) = paired(task.image, question)

    def prompt(images: Sequence[EncodedImage]) -> tuple[int, ...]:
        return question_ids(networks, question, images, raw=task.raw, system=system)

    return _answer(networks, task, question, sources, prompt)


def _chat(networks: Networks, task: ChatTask) -> Job:
    turns = as_turns(task.messages)
    sources = [image for turn in turns for image in turn.images]

    def prompt(images: Sequence[EncodedImage]) -> tuple[int, ...]:
        return conversation_ids(networks, turns, images)

    return _answer(networks, task, turns[-1].text if turns else "", sources, prompt)


def _answer(
    networks: Networks,
    task: AskTask | ChatTask,
    question: str,
    sources: Sequence[Any],
    prompt: Callable[[Sequence[EncodedImage]], tuple[int, ...]],
) -> Job:
    settings = answer_settings(networks.package.presets, vars(task))
    (seed,) = resolve_seeds(task.seed, 1)
    (pictures,) = prepare(networks, [sources])

    def script(images: Sequence[EncodedImage]) -> Script:
        row = prompt(images)
        final = answer_room(networks, len(row), settings, task.max_new_tokens)
        written = yield answer_request(networks, row, seed, final)
        return TextResult(
            text=networks.tokenizer.decode(written.output_ids).strip(),
            question=question,
            seed=seed,
            model=networks.name,
            finish_reason=written.reason,
            settings=final.as_dict(),
            timings={},
            usage=asdict(written.usage),
        )

    return Job(pictures=pictures, script=script)


_JOBS: Mapping[type, Callable[[Networks, Any], Job]] = {
    GenerateTask: _generate,
    EditTask: _edit,
    AskTask: _ask,
    ChatTask: _chat,
    InpaintTask: inpaint_job,
    OutpaintTask: outpaint_job,
    VaryTask: vary_job,
}
