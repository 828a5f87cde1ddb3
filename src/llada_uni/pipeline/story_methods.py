"""The methods of the public class for text and pictures in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Unpack

from llada_uni.pipeline.story import StoryEvent, collect, is_batch, stream_stories
from llada_uni.pipeline.story_results import StoryResult
from llada_uni.pipeline.story_settings import StoryOptions
from llada_uni.sampling.block_sampler import Granularity

if TYPE_CHECKING:
    from llada_uni.pipeline.networks import Networks

__all__ = ["StoryMethods"]


class StoryMethods:
    """Part of ``LladaUni``; not for use on its own."""

    networks: Networks

    def generate_interleaved(
        self, prompt: str | Sequence[str | None] | None = None, **options: Unpack[StoryOptions]
    ) -> StoryResult | list[StoryResult]:
        """Write text and draw pictures in turn; a list of prompts gives a list of stories, written as one batch.

        Keyword arguments and errors are those of :meth:`stream_interleaved`.
        """
        events = self.stream_interleaved(prompt, granularity="block", **options)
        return collect(events, many=is_batch(prompt, options))

    def stream_interleaved(
        self,
        prompt: str | Sequence[str | None] | None = None,
        *,
        granularity: Granularity = "step",
        preview_every: int = 0,
        **options: Unpack[StoryOptions],
    ) -> Iterator[StoryEvent]:
        """Write stories and yield the events on the way.

        For each text ``TextDelta``, for a picture that is announced ``HeaderSeen``, for every finished phase
        ``PhaseDone`` with a state to go on from; then ``FlowStep`` and ``ImageDone`` of a picture, last ``StoryDone``.

        Args:
            prompt: what the story is about; None lets a story go on by itself.
            granularity: ``"block"`` leaves out the events of single steps.
            preview_every: a ``FramePreview`` after so many steps of the decoder each; 0 makes none.
            options: ``images``, ``continue_from``, ``max_frames``, sizes, budgets, guidance and sampling values, all
                described at :class:`~llada_uni.pipeline.story_settings.StoryOptions`.

        Raises:
            PromptError: a prompt is empty or not text, or missing where the model had ended the story.
            BudgetError: no room in the context for a picture after it. ConfigError: another argument is out of range,
            or not the state of a story. SizeError, ImageError: a size or a picture that cannot be used.
        """
        return stream_stories(self.networks, prompt, options, granularity=granularity, preview_every=preview_every)
