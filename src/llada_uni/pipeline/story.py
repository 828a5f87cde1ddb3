"""Stories: prompts with or without pictures to text and pictures in turn, drawn as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llada_uni import prompts
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.config import read_json
from llada_uni.errors import ConfigError, PromptError
from llada_uni.pipeline.checks import as_list, check_number, check_text, resolve_seeds
from llada_uni.pipeline.clock import Clock
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.results import EncodedImage, ImageDone, ImageResult
from llada_uni.pipeline.settings import output_grid
from llada_uni.pipeline.stations import draw, encode, prepare
from llada_uni.pipeline.story_results import FramePreview, StoryDone, StoryResult, StoryTurn
from llada_uni.pipeline.story_settings import StoryOptions, StorySettings, story_settings
from llada_uni.protocols import Event, Finished, Usage
from llada_uni.sampling.block_sampler import Granularity
from llada_uni.sampling.interleaved import StoryRules, begin, go_on
from llada_uni.sampling.stories import PhaseDone, write_stories
from llada_uni.sampling.story_state import Segment, StoryState

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["StoryEvent", "collect", "is_batch", "load_state", "story_rules", "stream_stories"]

StoryEvent = Event | PhaseDone | FramePreview | ImageDone | StoryDone
"""What a stream of stories yields."""


def stream_stories(
    networks: Networks,
    prompt: Any,
    options: StoryOptions,
    *,
    granularity: Granularity = "step",
    preview_every: int = 0,
) -> Iterator[StoryEvent]:
    """Check a request and give its events; ``LladaUni.stream_interleaved`` documents it."""
    settings = story_settings(networks.package.presets, networks.geometry, options)
    networks.require_decoder(settings.decoder)
    check_number(preview_every, name="preview_every", low=0, whole=True)
    rules = story_rules(networks, settings)
    stories = _stories(networks, prompt, options, rules)
    return _Narrator(networks, stories, settings, rules, preview_every).run(granularity)


def collect(events: Iterable[Any], *, many: bool) -> Any:
    """The results of a stream: one, or a list in the order of the prompts."""
    results = {event.row: event.result for event in events if isinstance(event, StoryDone)}
    ordered = [results[row] for row in sorted(results)]
    return ordered if many else ordered[0]


def is_batch(prompt: Any, options: StoryOptions) -> bool:
    """Whether a list comes out: a list of prompts went in, or a list of stories to go on with."""
    return any(isinstance(value, (list, tuple)) for value in (prompt, options.get("continue_from")))


def load_state(source: Any) -> StoryState | None:
    """State of a story from any form ``continue_from`` takes; None stays None.

    Raises:
        ConfigError: unreadable, or not the state of a story.
    """
    if source is None or isinstance(source, StoryState):
        return source
    if isinstance(source, StoryResult):
        return source.state
    if isinstance(source, Mapping):
        return StoryState.from_dict(source)
    if not isinstance(source, (str, Path)):
        raise ConfigError(f"continue_from: expected the state of a story or a file of it, got {type(source).__name__}")
    try:
        value = read_json(Path(source))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not a file that this package wrote: {error}") from error
    return StoryState.from_dict(value, source=str(source))


def story_rules(networks: Networks, settings: StorySettings) -> StoryRules:
    """What the state machine is told."""
    vocab, tokenizer = networks.vocab, networks.tokenizer
    fixed = settings.height is not None
    return StoryRules(
        vocab=vocab,
        geometry=networks.geometry,
        frame_rows=lambda ids: prompts.interleaved_frame(vocab, tokenizer, ids),
        text=settings.text_sampling(),
        picture=settings.picture_sampling(),
        first=settings.first_guidance(),
        later=settings.later_guidance(),
        max_positions=networks.max_positions,
        max_frames=settings.max_frames,
        max_new_tokens=settings.max_new_tokens,
        max_image_tokens=settings.max_image_tokens,
        grid=output_grid(networks.geometry, settings.height, settings.width) if fixed else None,
        on_bad_grid=settings.on_bad_grid,
        known_tail=networks.package.presets.image_tail,
    )


@dataclass(kw_only=True)
class _Story:
    """One story of a call while it is written."""

    prompt: str | None
    seed: int
    earlier: StoryState | None
    pictures: list[Any]
    state: StoryState | None = None
    prompt_tokens: int = 0
    segments: list[str | ImageResult] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    seen: int = 0


def _stories(networks: Networks, prompt: Any, options: StoryOptions, rules: StoryRules) -> list[_Story]:
    """The stories of a request, every mistake in it found."""
    earlier, texts = _paired(prompt, options)
    given = () if options.get("images") is None else options.get("images", ())
    groups = [as_list(group)[0] for group in (_groups(given, len(texts)) if is_batch(prompt, options) else [given])]
    drawn = resolve_seeds(options.get("seed"), len(texts))
    stories: list[_Story] = []
    for text, state, group, seed, pictures in zip(
        texts, earlier, groups, drawn, prepare(networks, groups), strict=True
    ):
        if state is not None:
            state.check(networks.vocab, source="continue_from")
            seed = state.seed if options.get("seed") is None else seed
        if text is None and group:
            raise PromptError("images: pictures stand before the words of a prompt, and there is no prompt")
        story = _Story(prompt=text, seed=seed, earlier=state, pictures=pictures)
        _opened(networks, story, [_blank(networks, picture) for picture in pictures], rules)
        stories.append(story)
    return stories


def _paired(prompt: Any, options: StoryOptions) -> tuple[list[StoryState | None], list[str | None]]:
    """Earlier states and prompts, one of each per story."""
    states, many_states = as_list(options.get("continue_from"))
    texts, many_texts = as_list(prompt)
    if many_texts and not texts:
        raise PromptError("prompt: expected at least one, got an empty list")
    if many_states and prompt is None:
        texts = [None] * len(states)
    if many_texts and not many_states and states == [None]:
        states = [None] * len(texts)
    if len(texts) != len(states) or not texts:
        raise PromptError(f"expected as many prompts as stories that go on, got {len(texts)} and {len(states)}")
    earlier = [load_state(state) for state in states]
    checked = [
        None if text is None and state is not None else check_text(text, name="prompt")
        for text, state in zip(texts, earlier, strict=True)
    ]
    return earlier, checked


def _groups(images: Any, count: int) -> list[Any]:
    groups, many = as_list(images)
    if not groups:
        return [()] * count
    if not many or len(groups) != count:
        raise PromptError(f"images: expected a list of {count}, one entry per story, got {len(groups)}")
    return groups


def _blank(networks: Networks, picture: Any) -> EncodedImage:
    """Codes of the right number for a picture of the tokenizer's size, to find out how long a prompt is."""
    grid = networks.geometry.grid_from_tokenizer_px(picture.height, picture.width)
    return EncodedImage(codes=(0,) * grid.num_tokens, grid=grid, model="")


def _opened(networks: Networks, story: _Story, encoded: Sequence[EncodedImage], rules: StoryRules) -> StoryState:
    """The state the story begins with in this call."""
    before, seed = story.earlier, story.seed
    if story.prompt is None:
        assert before is not None, "without a prompt a story goes on"
        return go_on(replace(before, seed=seed), rules)
    blocks = [prompts.ImageBlock(grid=one.grid, codes=one.codes) for one in encoded]
    history = before.history if before is not None else ()
    ids = prompts.interleaved_turn(networks.vocab, networks.tokenizer, story.prompt, blocks, history=history).cond
    return begin(ids, seed, rules) if before is None else go_on(replace(before, seed=seed), rules, ids)


class _Narrator:
    """Writes the stories of one call and draws their pictures as soon as their codes are known."""

    def __init__(
        self,
        networks: Networks,
        stories: list[_Story],
        settings: StorySettings,
        rules: StoryRules,
        preview_every: int,
    ) -> None:
        self._networks, self._stories, self._settings, self._rules = networks, stories, settings, rules
        self._preview_every = preview_every

    def run(self, granularity: Granularity) -> Iterator[StoryEvent]:
        """All events of all stories, ``StoryDone`` last for each."""
        clock, networks = Clock(self._networks), self._networks
        encoded = iter(encode(networks, [picture for story in self._stories for picture in story.pictures]))
        for story in self._stories:
            own = [next(encoded) for _ in story.pictures]
            story.state = _opened(networks, story, own, self._rules)
            story.prompt_tokens, story.seen = len(story.state.ids), len(story.state.segments)
        clock.lap("encode")
        states = [story.state for story in self._stories if story.state is not None]
        denoiser = CachedDenoiser(networks.backbone)
        for event in write_stories(states, self._rules, denoiser, granularity=granularity):
            yield event
            if isinstance(event, Finished):
                self._stories[event.row].usages.append(event.usage)
            elif isinstance(event, PhaseDone):
                clock.lap("tokens")
                yield from self._phase(event, clock)
                _ = networks.backbone  # where networks take turns, a picture has taken its weights

    def _phase(self, event: PhaseDone, clock: Clock) -> Iterator[StoryEvent]:
        story = self._stories[event.row]
        story.state = event.state
        for segment in event.state.segments[story.seen :]:
            ids = event.state.ids[segment.start : segment.stop]
            if segment.grid is not None:
                yield from self._draw(event.row, segment, clock)
            elif text := self._networks.tokenizer.decode(ids).strip():
                story.segments.append(text)
        story.seen = len(event.state.segments)
        if event.state.phase == "done":
            yield StoryDone(row=event.row, result=self._result(story, clock))

    def _draw(self, row: int, segment: Segment, clock: Clock) -> Iterator[StoryEvent]:
        """One picture; yields the decoder's steps, previews and ``ImageDone``."""
        story, networks, grid = self._stories[row], self._networks, segment.grid
        assert story.state is not None
        assert grid is not None
        frame = sum(isinstance(one, ImageResult) for one in story.segments)
        codes = networks.vocab.to_codes(story.state.ids[segment.start : segment.stop])
        drawing = draw(networks, torch.tensor([codes]), grid, [segment.seed], self._settings)
        while True:
            try:
                step = next(drawing)
            except StopIteration as done:
                (image,) = done.value
                break
            yield replace(step, row=row)
            if self._preview_every and (step.index + 1) % self._preview_every == 0:
                (preview,) = to_images(networks.vae, step.data_estimate[None], tile_px=networks.pixels.vae_tile_px)
                yield FramePreview(row, frame, step.index, step.num_steps, preview)
        clock.lap("pixels")
        height, width = networks.geometry.output_px(grid)
        result = ImageResult(
            image=image,
            codes=tuple(codes),
            grid=grid,
            prompt=next((one for one in story.segments[-1:] if isinstance(one, str)), story.prompt),
            seed=segment.seed,
            model=networks.name,
            settings=self._settings.as_dict() | {"height": height, "width": width},
            timings=clock.timings(),
            usage=asdict(story.usages[-1]),
        )
        story.segments.append(result)
        yield ImageDone(row=row, result=result)

    def _result(self, story: _Story, clock: Clock) -> StoryResult:
        assert story.state is not None
        written = len(story.state.ids) - story.prompt_tokens
        usage = {
            "prompt_tokens": story.prompt_tokens,
            "output_tokens": written,
            "total_tokens": story.prompt_tokens + written,
            "num_frames": story.state.frame_index - story.state.first_frame,
            "num_blocks": sum(one.num_blocks for one in story.usages),
            "num_steps": sum(one.num_steps for one in story.usages),
            "num_calls": sum(one.num_calls for one in story.usages),
        }
        turn = StoryTurn(prompt=story.prompt, images=tuple(story.pictures), segments=tuple(story.segments))
        return StoryResult(
            turns=(turn,),
            state=story.state,
            seed=story.seed,
            model=self._networks.name,
            finish_reason=str(story.state.reason),
            settings=self._settings.as_dict(),
            timings=clock.timings(),
            usage=usage,
        )
