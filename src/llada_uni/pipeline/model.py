"""The public class, and its two main paths: words to a picture, a picture and a question to words.

``_stream_images`` is the main path, one line per station: token grid -> prompt ids -> block sampler -> codes ->
semantic features -> flow sampler -> VAE -> picture. Understanding takes the same stations from the other side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack, overload

import torch

from llada_uni.errors import ConfigError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.image_tokenizer.images import ImageSource, for_understanding, load_image, resize_to_cover_and_crop
from llada_uni.pipeline.checks import as_items, as_list, check_text, paired, resolve_seeds
from llada_uni.pipeline.clock import Clock
from llada_uni.pipeline.networks import Networks
from llada_uni.pipeline.requests import answer_request, answer_room, image_request, question_ids
from llada_uni.pipeline.results import AnswerDone, EncodedImage, ImageDone, ImageResult, TextResult
from llada_uni.pipeline.settings import (
    AnswerOptions,
    AnswerSettings,
    DecodeOptions,
    ImageOptions,
    ImageSettings,
    answer_settings,
    decode_settings,
    image_settings,
    output_grid,
)
from llada_uni.pipeline.stations import draw, encode, prepare, returned, write
from llada_uni.pipeline.story import StoryEvent, collect, is_batch, stream_stories
from llada_uni.pipeline.story_results import StoryResult
from llada_uni.pipeline.story_settings import StoryOptions
from llada_uni.protocols import Event, Request
from llada_uni.sampling.block_sampler import Granularity
from llada_uni.weights.catalog import resolve
from llada_uni.weights.load import resolve_device, resolve_dtype
from llada_uni.weights.save import Components, save_checkpoint

__all__ = ["LladaUni"]


class LladaUni:
    """A checkpoint ready for use. Networks are loaded when a task first needs them and then kept.

    Keyword arguments left at None take the checkpoint's presets. A list as first argument gives a list of results,
    computed as one batch; every result is the one the same call makes alone with the seed the result reports.
    """

    pictures_at_once = 1
    """Pictures decoded together. 1 makes a picture the same bit for bit in every batch; more is faster on a GPU."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    @property
    def name(self) -> str:
        """What the checkpoint was opened as."""
        return self.networks.name

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str | Path = "nano",
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> LladaUni:
        """Open a checkpoint: ``"nano"`` (inside the package), a model id on the hub, or a directory.

        Args:
            name_or_dir: what to open; hub models are downloaded once.
            revision: commit, tag or branch of a hub model.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None or ``"auto"`` takes CUDA where there is one.
            dtype: ``"float32"`` (default on CPU), ``"bfloat16"`` (default elsewhere), ``"float16"`` or ``"float64"``.

        Raises:
            CheckpointError: no such model, or an incomplete or inconsistent one.
            OfflineError: it would have to be downloaded and the hub cannot be reached.
            ResourceError: no such device.
            ConfigError: a configuration file or an argument is not valid.
        """
        place = resolve_device(_automatic(device))
        directory = resolve(name_or_dir, revision)
        return cls(Networks(directory, name=str(name_or_dir), device=place, dtype=resolve_dtype(dtype, place)))

    def save_pretrained(self, directory: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write the checkpoint to ``directory``, completely or not at all.

        Networks in memory are written from memory (in ``dtype``, None = as they are), everything else is copied.

        Raises:
            CheckpointError: ``directory`` exists and is not a checkpoint.
            ResourceError: the disk is full or not writable; nothing has changed then.
        """
        return save_checkpoint(
            directory, Components(**self.networks.modules()), base=self.networks.directory, dtype=dtype
        )

    @property
    def geometry(self) -> Geometry:
        """All sizes of the checkpoint."""
        return self.networks.geometry

    # Words to a picture

    @overload
    def generate_image(self, prompt: str, **options: Unpack[ImageOptions]) -> ImageResult: ...
    @overload
    def generate_image(self, prompt: Sequence[str], **options: Unpack[ImageOptions]) -> list[ImageResult]: ...
    def generate_image(
        self, prompt: str | Sequence[str], **options: Unpack[ImageOptions]
    ) -> ImageResult | list[ImageResult]:
        """Make a picture from words; a list of prompts gives a list of pictures, made as one batch.

        Keyword arguments and errors are those of :meth:`stream_image`: ``height``, ``width``, ``seed``,
        ``steps_per_block``, ``guidance_scale``, ``confidence_threshold``, ``temperature``, ``num_steps``, ``decoder``.
        """
        _, many = as_list(prompt)
        results = _results(self.stream_image(prompt, granularity="block", **options), ImageDone)
        return results if many else results[0]

    def stream_image(
        self,
        prompt: str | Sequence[str],
        *,
        height: int | None = None,
        width: int | None = None,
        seed: int | Sequence[int] | None = None,
        steps_per_block: int | None = None,
        guidance_scale: float | None = None,
        confidence_threshold: float | None = None,
        temperature: float | None = None,
        num_steps: int | None = None,
        decoder: str | None = None,
        granularity: Granularity = "step",
    ) -> Iterator[Event | ImageDone]:
        """Make pictures and yield the samplers' events on the way, ``ImageDone`` last for each.

        Args:
            prompt: what to draw; control strings in it are plain text.
            height, width: size of the picture in pixels; one alone means a square, none the checkpoint's usual size.
            seed: 0 to 2**63 - 1. One number for a list means seed, seed + 1, ...; None draws 32 bits. Always reported.
            steps_per_block: most denoising steps in one block of tokens.
            guidance_scale: 1 is off.
            confidence_threshold: tokens more probable than this are final at once.
            temperature: of the tokens; 0 takes the most likely ones, None the checkpoint's preset.
            num_steps: velocity evaluations of the decoder.
            decoder: ``"normal"`` or ``"turbo"``.
            granularity: ``"block"`` leaves out the events of single steps.

        Raises:
            PromptError: a prompt is empty or not text. BudgetError: it is too long.
            SizeError: no such size. ConfigError: another argument is out of range. All before anything is computed.
        """
        texts = [check_text(text, name="prompt") for text in as_items(prompt, "prompt")]
        grid = output_grid(self.geometry, height, width)
        given = {
            "steps_per_block": steps_per_block,
            "guidance_scale": guidance_scale,
            "confidence_threshold": confidence_threshold,
            "temperature": temperature,
            "num_steps": num_steps,
            "decoder": decoder,
        }
        settings = image_settings(self.networks.package.presets, self.geometry.output_px(grid), given)
        self.networks.require_decoder(settings.decoder)
        seeds = resolve_seeds(seed, len(texts))
        requests = [
            image_request(self.networks, text, one, grid, settings) for text, one in zip(texts, seeds, strict=True)
        ]
        return self._stream_images(texts, requests, grid, settings, granularity)

    def _stream_images(
        self,
        texts: list[str],
        requests: list[Request],
        grid: TokenGrid,
        settings: ImageSettings,
        granularity: Granularity,
    ) -> Iterator[Event | ImageDone]:
        clock = Clock(self.networks)
        finished = yield from write(self.networks, requests, granularity)
        codes = torch.tensor([self.networks.vocab.to_codes(row.output_ids) for row in finished])
        clock.lap("tokens")
        seeds = [request.seed for request in requests]
        images = yield from draw(self.networks, codes, grid, seeds, settings, at_once=self.pictures_at_once)
        clock.lap("pixels")
        for row, image in enumerate(images):
            result = ImageResult(
                image=image,
                codes=tuple(codes[row].tolist()),
                grid=grid,
                prompt=texts[row],
                seed=requests[row].seed,
                model=self.name,
                settings=settings.as_dict(),
                timings=clock.timings(),
                usage=asdict(finished[row].usage),
            )
            yield ImageDone(row=row, result=result)

    # Codes to a picture and back

    @overload
    def decode_image(self, encoded: EncodedImage, **options: Unpack[DecodeOptions]) -> ImageResult: ...
    @overload
    def decode_image(self, encoded: Sequence[EncodedImage], **options: Unpack[DecodeOptions]) -> list[ImageResult]: ...
    def decode_image(
        self, encoded: EncodedImage | Sequence[EncodedImage], **options: Unpack[DecodeOptions]
    ) -> ImageResult | list[ImageResult]:
        """Turn codes into pictures; ``seed``, ``num_steps`` and ``decoder`` as in :meth:`stream_image`.

        Raises:
            SizeError: a grid this checkpoint was not trained on.
            ImageError: a code outside the codebook.
            ConfigError: another argument is out of range.
        """
        items, many = as_list(encoded)
        seeds = resolve_seeds(options.get("seed"), len(items))
        presets = self.networks.package.presets
        settings = decode_settings(presets, options.get("decoder"), options.get("num_steps"))
        self.networks.require_decoder(settings.decoder)
        for item in items:
            self._check_codes(item)
        clock = Clock(self.networks)
        images: dict[int, Any] = {}
        for grid in dict.fromkeys(item.grid for item in items):
            rows = [row for row, item in enumerate(items) if item.grid == grid]
            codes = torch.tensor([items[row].codes for row in rows])
            own = [seeds[row] for row in rows]
            drawn = returned(draw(self.networks, codes, grid, own, settings, at_once=self.pictures_at_once))
            images |= zip(rows, drawn, strict=True)
        clock.lap("pixels")
        results = [
            ImageResult(
                image=images[row],
                codes=item.codes,
                grid=item.grid,
                prompt=None,
                seed=seeds[row],
                model=self.name,
                settings=settings.as_dict(),
                timings=clock.timings(),
            )
            for row, item in enumerate(items)
        ]
        return results if many else results[0]

    @overload
    def encode_image(
        self, image: ImageSource, *, height: int | None = ..., width: int | None = ...
    ) -> EncodedImage: ...
    @overload
    def encode_image(
        self, image: Sequence[ImageSource], *, height: int | None = ..., width: int | None = ...
    ) -> list[EncodedImage]: ...
    def encode_image(
        self, image: ImageSource | Sequence[ImageSource], *, height: int | None = None, width: int | None = None
    ) -> EncodedImage | list[EncodedImage]:
        """Turn pictures into codes.

        Args:
            image: PIL image, path, bytes or data URI of any real picture; or a list of them.
            height, width: output size the codes shall decode to; without it the picture's own shape decides.

        Raises:
            ImageError: unreadable, too large or too elongated. SizeError: no such size.
        """
        sources, many = as_list(image)
        grid = None if height is None and width is None else output_grid(self.geometry, height, width)
        pictures = [load_image(source) for source in sources]
        if grid is None:
            sized = [for_understanding(picture, self.geometry) for picture in pictures]
        else:
            sized = [resize_to_cover_and_crop(picture, self.geometry.tokenizer_px(grid)) for picture in pictures]
        encoded = encode(self.networks, sized)
        return encoded if many else encoded[0]

    # Pictures and a question to words

    @overload
    def understand_image(self, image: Any, question: str, **options: Unpack[AnswerOptions]) -> TextResult: ...
    @overload
    def understand_image(
        self, image: Any, question: Sequence[str], **options: Unpack[AnswerOptions]
    ) -> list[TextResult]: ...
    def understand_image(
        self, image: Any, question: str | Sequence[str], **options: Unpack[AnswerOptions]
    ) -> TextResult | list[TextResult]:
        """Answer a question about a picture, or about several; a list of questions gives a list of answers.

        Arguments and errors are those of :meth:`stream_answer`: ``seed``, ``steps_per_block``,
        ``confidence_threshold``, ``temperature``, ``max_new_tokens``.
        """
        _, many = as_list(question)
        results = _results(self.stream_answer(image, question, granularity="block", **options), AnswerDone)
        return results if many else results[0]

    def stream_answer(
        self,
        image: Any,
        question: str | Sequence[str],
        *,
        seed: int | Sequence[int] | None = None,
        steps_per_block: int | None = None,
        confidence_threshold: float | None = None,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
        granularity: Granularity = "step",
    ) -> Iterator[Event | AnswerDone]:
        """Answer questions and yield the sampler's events on the way, ``AnswerDone`` last for each.

        Args:
            image: one picture (PIL image, path, bytes or data URI), or a list of pictures that are read together;
                for a list of questions a list with such an entry for each of them.
            question: what to ask; a list gives a batch.
            max_new_tokens: longest answer; the preset gives way to what the context still holds.
            seed, steps_per_block, confidence_threshold, temperature, granularity: as in :meth:`stream_image`.

        Raises:
            PromptError: a question is empty or not text, or has no picture. BudgetError: it is too long.
            ImageError: a picture is unreadable, too large or too elongated. ConfigError: an argument is out of range.
        """
        questions = [check_text(text, name="question") for text in as_items(question, "question")]
        given = {
            "steps_per_block": steps_per_block,
            "confidence_threshold": confidence_threshold,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
        }
        settings = answer_settings(self.networks.package.presets, given)
        seeds = resolve_seeds(seed, len(questions))
        pictures = prepare(self.networks, paired(image, question))
        return self._stream_answers(questions, pictures, seeds, settings, max_new_tokens, granularity)

    def _stream_answers(
        self,
        questions: list[str],
        pictures: list[list[Any]],
        seeds: list[int],
        settings: AnswerSettings,
        max_new_tokens: int | None,
        granularity: Granularity,
    ) -> Iterator[Event | AnswerDone]:
        clock = Clock(self.networks)
        encoded = iter(encode(self.networks, [picture for group in pictures for picture in group]))
        rows = [
            question_ids(self.networks, question, [next(encoded) for _ in group])
            for question, group in zip(questions, pictures, strict=True)
        ]
        clock.lap("encode")
        rules = [answer_room(self.networks, len(row), settings, max_new_tokens) for row in rows]
        requests = [answer_request(self.networks, *each) for each in zip(rows, seeds, rules, strict=True)]
        finished = yield from write(self.networks, requests, granularity)
        clock.lap("tokens")
        for row, done in enumerate(finished):
            result = TextResult(
                text=self.networks.tokenizer.decode(done.output_ids).strip(),
                question=questions[row],
                seed=seeds[row],
                model=self.name,
                finish_reason=done.reason,
                settings=rules[row].as_dict(),
                timings=clock.timings(),
                usage=asdict(done.usage),
            )
            yield AnswerDone(row=row, result=result)

    # Stories

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

    def _check_codes(self, item: EncodedImage) -> None:
        if not isinstance(item, EncodedImage):
            raise ConfigError(f"decode_image: expected an EncodedImage, got {type(item).__name__}")
        self.geometry.grid_from_output_px(*self.geometry.output_px(item.grid))
        self.networks.vocab.block(item.grid, item.codes)


def _automatic(device: str | torch.device | None) -> str | torch.device:
    if device is None or device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _results(events: Iterator[Any], done: type) -> list[Any]:
    return [event.result for event in events if isinstance(event, done)]
