"""What the engine carries out: a task or a story as a generator of requests and drawings.

A plot yields a request and is sent what the request finished with, or yields a drawing and is sent the picture's
result; it returns the result of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llada_uni import prompts
from llada_uni.errors import PromptError
from llada_uni.pipeline.checks import check_text, resolve_seeds
from llada_uni.pipeline.jobs import Script
from llada_uni.pipeline.results import EncodedImage, ImageResult
from llada_uni.pipeline.scripts import job
from llada_uni.pipeline.stations import Drawing, blank, prepare
from llada_uni.pipeline.story import story_rules
from llada_uni.pipeline.story_results import StoryResult, StoryTurn
from llada_uni.pipeline.story_settings import StorySettings, story_settings
from llada_uni.pipeline.tasks import GenerateTask, Task
from llada_uni.protocols import Request, Usage
from llada_uni.sampling.interleaved import StoryRules, accept, begin, next_request
from llada_uni.sampling.story_state import Segment, StoryState
from llada_uni.serving.lanes import Lane

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["Plot", "Said", "Work", "story_work", "task_work"]

Plot = Generator[Request | Drawing, Any, Any]

_STORY_BRANCHES = 3


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to carry out whose arguments are checked; nothing of it is computed yet.

    ``pictures``: PIL at the tokenizer's size, or codes. ``plot``: made from their codes. ``num_branches``: most
    branches it has at once. ``is_story``: its rows go on after a picture, so that it keeps its place and its prefix.
    ``prompt_tokens``: length of its first prompt, ``picture_tokens`` of them codes of pictures.
    """

    pictures: Sequence[Any]
    plot: Callable[[Sequence[EncodedImage]], Plot]
    num_branches: int
    num_tokens: int
    prompt_tokens: int
    picture_tokens: int
    writes_pictures: bool
    is_story: bool = False

    def lane(self, short_tokens: int) -> Lane:
        """Which lane it belongs to."""
        if self.writes_pictures:
            return "pictures"
        return "short" if self.num_tokens <= short_tokens else "long"


@dataclass(frozen=True, kw_only=True)
class Said:
    """One turn of a conversation as it arrived: ``parts`` are texts and pictures in their order."""

    role: str
    parts: tuple[Any, ...]

    @property
    def text(self) -> str:
        """The texts, one line each."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Any, ...]:
        """The pictures alone."""
        return tuple(part for part in self.parts if not isinstance(part, str))


def task_work(networks: Networks, task: Task) -> Work:
    """A task of ``LladaUni.run`` for the engine, every mistake in it found.

    Raises:
        LladaUniError: the task cannot be done.
    """
    made = job(networks, task)
    shown = [blank(networks, picture) for picture in made.pictures]
    first = next(made.script(shown))
    planned = isinstance(task, GenerateTask) and task.thinking
    return Work(
        pictures=made.pictures,
        plot=lambda codes: _task_plot(made.script(codes)),
        num_branches=2 if planned else first.guidance.num_branches,
        num_tokens=first.num_tokens,
        prompt_tokens=len(first.prompts[0]),
        picture_tokens=sum(one.grid.num_tokens for one in shown),
        writes_pictures=planned or first.grid is not None,
    )


def _task_plot(script: Script) -> Plot:
    written = yield from script
    if not isinstance(written, Drawing):
        return written
    return (yield written)


def story_work(
    networks: Networks, turns: Sequence[Said], options: Mapping[str, Any], *, seed: int | None = None
) -> Work:
    """Text and pictures in turn after a conversation that ends with the user.

    ``options`` as in :class:`~llada_uni.pipeline.story_settings.StoryOptions`. A system turn has no place in the prompt
    of a story and is left out.

    Raises:
        PromptError: no user turn at the end, or one without words. BudgetError: the conversation is too long.
        ConfigError, SizeError, ImageError: as ``LladaUni.stream_interleaved``.
    """
    told = [turn for turn in turns if turn.role != "system"]
    if not told or told[-1].role != "user":
        raise PromptError("messages: expected a conversation that ends with a user turn")
    settings = story_settings(networks.package.presets, networks.geometry, options)
    networks.require_decoder(settings.decoder)
    rules = story_rules(networks, settings)
    (number,) = resolve_seeds(seed, 1)
    (pictures,) = prepare(networks, [[picture for turn in told for picture in turn.pictures]])

    def opened(codes: Sequence[EncodedImage]) -> StoryState:
        return begin(_story_ids(networks, told, codes), number, rules)

    shown = [blank(networks, picture) for picture in pictures]
    state = opened(shown)
    first = next_request(state, rules)
    return Work(
        pictures=pictures,
        plot=lambda codes: _story_plot(networks, told[-1], opened(codes), settings, rules),
        num_branches=_STORY_BRANCHES,
        num_tokens=first.num_tokens,
        prompt_tokens=len(state.ids),
        picture_tokens=sum(one.grid.num_tokens for one in shown),
        writes_pictures=True,
        is_story=True,
    )


def _story_ids(networks: Networks, turns: Sequence[Said], codes: Sequence[EncodedImage]) -> tuple[int, ...]:
    """Prompt ids of a conversation of stories: every answer stands as the model would have written it."""
    vocab, tokenizer = networks.vocab, networks.tokenizer
    blocks = iter([prompts.ImageBlock(grid=one.grid, codes=one.codes) for one in codes])
    ids: tuple[int, ...] = ()
    for turn in turns:
        own = [next(blocks) if not isinstance(part, str) else part for part in turn.parts]
        if turn.role == "user":
            words = check_text(turn.text, name="messages")
            shown = [part for part in own if not isinstance(part, str)]
            ids = prompts.interleaved_turn(vocab, tokenizer, words, shown, history=ids).cond
        else:
            kept = [part for part in own if not isinstance(part, str) or part.strip()]
            ids = (*ids, *prompts.answer_segments(vocab, tokenizer, kept)[:-1]) if kept else ids
    return ids


def _story_plot(networks: Networks, asked: Said, state: StoryState, settings: StorySettings, rules: StoryRules) -> Plot:
    opening, seen = state, len(state.segments)
    segments: list[str | ImageResult] = []
    usages: list[Usage] = []
    while state.phase != "done":
        finished = yield next_request(state, rules)
        usages.append(finished.usage)
        state = accept(state, finished, rules)
        for segment in state.segments[seen:]:
            if segment.grid is not None:
                segments.append((yield _drawing(networks, state, segment, settings, segments, asked, usages[-1])))
            elif text := networks.tokenizer.decode(state.ids[segment.start : segment.stop]).strip():
                segments.append(text)
        seen = len(state.segments)
    written = len(state.ids) - len(opening.ids)
    return StoryResult(
        turns=(StoryTurn(prompt=asked.text, images=asked.pictures, segments=tuple(segments)),),
        state=state,
        seed=state.seed,
        model=networks.name,
        finish_reason=str(state.reason),
        settings=settings.as_dict(),
        timings={},
        usage={
            "prompt_tokens": len(opening.ids),
            "output_tokens": written,
            "total_tokens": len(opening.ids) + written,
            "num_frames": state.frame_index,
            "num_calls": sum(usage.num_calls for usage in usages),
        },
    )


def _drawing(
    networks: Networks,
    state: StoryState,
    segment: Segment,
    settings: StorySettings,
    before: Sequence[str | ImageResult],
    asked: Said,
    usage: Usage,
) -> Drawing:
    """A picture of a story; its prompt is the text right before it."""
    assert segment.grid is not None
    height, width = networks.geometry.output_px(segment.grid)
    return Drawing(
        codes=tuple(networks.vocab.to_codes(state.ids[segment.start : segment.stop])),
        grid=segment.grid,
        seed=segment.seed,
        settings=settings,
        prompt=next((one for one in before[-1:] if isinstance(one, str)), asked.text),
        usage=asdict(usage),
        also={"height": height, "width": width},
    )
