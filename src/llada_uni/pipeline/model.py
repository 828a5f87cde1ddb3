"""The public class: what a checkpoint can be asked to do.

A method turns its arguments into tasks (``tasks``), tasks become jobs (``scripts``), and ``perform``, the main path
from words to a picture and back, carries any mixture of jobs out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import torch

from llada_uni.diffusion.sprint import Sprint
from llada_uni.grid import Geometry
from llada_uni.image_tokenizer.images import ImageSource, for_understanding, load_image, resize_to_cover_and_crop
from llada_uni.pipeline.checks import as_items, as_list, paired, resolve_seeds
from llada_uni.pipeline.conversation import Conversation
from llada_uni.pipeline.halves import draw_codes
from llada_uni.pipeline.memory import MemoryPlan
from llada_uni.pipeline.networks import Networks
from llada_uni.pipeline.opening import open_networks
from llada_uni.pipeline.perform import perform
from llada_uni.pipeline.pixels import PixelOptions
from llada_uni.pipeline.region_methods import RegionMethods
from llada_uni.pipeline.results import AnswerDone, EncodedImage, ImageDone, ImageResult, TextResult
from llada_uni.pipeline.scripts import job
from llada_uni.pipeline.settings import (
    DECODER_VALUES,
    AnswerOptions,
    ChatOptions,
    DecodeOptions,
    EditOptions,
    ImageOptions,
    output_grid,
)
from llada_uni.pipeline.stations import encode
from llada_uni.pipeline.story_methods import StoryMethods
from llada_uni.pipeline.tasks import AskTask, ChatTask, EditTask, GenerateTask, Task, Turn
from llada_uni.protocols import Event
from llada_uni.sampling.block_sampler import Granularity
from llada_uni.weights.save import Components, save_checkpoint

if TYPE_CHECKING:
    from llada_uni.pipeline.tasks import Picture

__all__ = ["LladaUni"]


class LladaUni(RegionMethods, StoryMethods):
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
        adapter: str | Path | Sequence[str | Path] | None = None,
        pixels: PixelOptions | None = None,
        quantize: str | None = None,
        offload: str | None = None,
        memory: int | str | None = None,
        together: bool = False,
        engine: str | None = None,
    ) -> LladaUni:
        """Open a checkpoint: ``"nano"`` (inside the package), a model id on the hub, or a directory.

        Args:
            name_or_dir: what to open; hub models are downloaded once.
            revision: commit, tag or branch of a hub model.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None or ``"auto"`` takes CUDA where there is one.
            dtype: ``"float32"`` (default on CPU), ``"bfloat16"`` (default elsewhere), ``"float16"`` or ``"float64"``.
            adapter: directory of an adapter, or several; each is merged into its network when that is loaded.
            pixels: how pictures are drawn: compiled or captured decoder, tiles of the autoencoder.
            quantize: form of the backbone's experts: ``"int8"``, ``"int4"``, ``"fp8"``, or ``"none"`` where integers
                are stored; None is as stored.
            offload: where experts wait until they are used: ``"cpu"`` (main memory, for a GPU) or ``"disk"``.
            memory: bytes or an amount such as ``"24GB"``; :attr:`memory_plan` then says how it is kept to.
            together: with ``memory``, networks never take turns (a server needs all of them at any time).
            engine: ``"usual"`` (default) or ``"captured"``: a block of ids at a time on the device, recorded as CUDA
                graphs there; the same ids up to rounding.

        Raises:
            CheckpointError: no such model or adapter, or an incomplete or inconsistent one.
            OfflineError: it would have to be downloaded and the hub cannot be reached.
            ResourceError: no such device, or no plan fits into ``memory``.
            ConfigError: a configuration file or an argument is not valid.
        """
        keep: dict[str, Any] = {"quantize": quantize, "offload": offload, "memory": memory, "together": together}
        keep |= {"pixels": pixels, "engine": engine}
        return cls(open_networks(name_or_dir, revision, device=device, dtype=dtype, adapter=adapter, **keep))

    @property
    def memory_plan(self) -> MemoryPlan | None:
        """What ``memory`` led to; None without it."""
        return self.networks.plan

    def save_pretrained(self, directory: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write the checkpoint to ``directory``, completely or not at all.

        Networks in memory are written from memory (in ``dtype``, None = as they are), everything else, quantised and
        offloaded ones included, is copied from the checkpoint it was read from.

        Raises:
            CheckpointError: ``directory`` exists and is not a checkpoint.
            ResourceError: the disk is full or not writable; nothing has changed then.
        """
        self.networks.load_adapted()
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
        ``steps_per_block``, ``guidance_scale``, ``confidence_threshold``, ``temperature``, ``num_steps``, ``decoder``,
        ``decoder_guidance``, ``guidance_interval``, ``step_cache``, ``sprint``, ``keep_ratio``, ``thinking``,
        ``thinking_tokens``, ``thinking_temperature``, ``thinking_top_p``.
        """
        results = _results(self.stream_image(prompt, granularity="block", **options))
        return results if as_list(prompt)[1] else results[0]

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
        decoder_guidance: float | None = None,
        guidance_interval: Sequence[float] | None = None,
        step_cache: float | None = None,
        sprint: str | Sprint | None = None,
        keep_ratio: float | None = None,
        thinking: bool = False,
        thinking_tokens: int | None = None,
        thinking_temperature: float | None = None,
        thinking_top_p: float | None = None,
        granularity: Granularity = "step",
    ) -> Iterator[Event | ImageDone | AnswerDone]:
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
            decoder_guidance, guidance_interval, step_cache: of the decoder, as in
                :class:`~llada_uni.pipeline.tasks.GenerateTask`.
            sprint: a preset (``"paper"``, ``"readme"``, ``"released"``) or a :class:`Sprint`; None is the exact path.
            keep_ratio: share of earlier positions that later steps of a block see, in place of SPRINT's own ratios.
            thinking: write a plan in words first; its events come first, and the result carries it. Without a requested
                size the picture takes the grid that the plan announces, where the checkpoint can draw it.
            thinking_tokens: longest plan; the preset gives way to what the context still holds.
            thinking_temperature, thinking_top_p: how the plan's words are chosen; None is 0 and no limit.
            granularity: ``"block"`` leaves out the events of single steps.

        Raises:
            PromptError: a prompt is empty or not text. BudgetError: it is too long.
            SizeError: no such size. ConfigError: another argument is out of range. All before anything is computed.
        """
        options = {name: value for name, value in locals().items() if name in ImageOptions.__annotations__}
        texts = as_items(prompt, "prompt")
        seeds = resolve_seeds(options.pop("seed"), len(texts))
        tasks = [GenerateTask(prompt=text, seed=one, **options) for text, one in zip(texts, seeds, strict=True)]
        return self.stream(tasks, granularity=granularity)

    # Pictures and an instruction to a picture

    @overload
    def edit_image(
        self, image: Picture | Sequence[Picture], instruction: str, **options: Unpack[EditOptions]
    ) -> ImageResult: ...
    @overload
    def edit_image(
        self, image: Sequence[Any], instruction: Sequence[str], **options: Unpack[EditOptions]
    ) -> list[ImageResult]: ...
    def edit_image(
        self, image: Any, instruction: str | Sequence[str], **options: Unpack[EditOptions]
    ) -> ImageResult | list[ImageResult]:
        """Change a picture, or make one out of several references, as an instruction says.

        Args:
            image: one picture or a list of references; for a list of instructions a list with such an entry for each.
            instruction: what to change; a list gives a batch.
            options: the other fields of :class:`~llada_uni.pipeline.tasks.EditTask`: ``height``, ``width``, ``seed``,
                ``steps_per_block``, ``guidance_text``, ``guidance_image``, ``confidence_threshold``, ``temperature``,
                ``num_steps``, ``decoder``, ``decoder_guidance``, ``guidance_interval``, ``step_cache``, ``sprint``,
                ``keep_ratio``, ``crop``.

        Raises:
            PromptError: an instruction is empty or not text, or has no picture. BudgetError: it is too long.
            ImageError: a picture is unreadable, too large or too elongated. SizeError: no such size.
            ConfigError: another argument is out of range.
        """
        results = _results(self.stream_edit(image, instruction, granularity="block", **options))
        return results if as_list(instruction)[1] else results[0]

    def stream_edit(
        self,
        image: Any,
        instruction: str | Sequence[str],
        *,
        granularity: Granularity = "step",
        **options: Unpack[EditOptions],
    ) -> Iterator[Event | ImageDone | AnswerDone]:
        """:meth:`edit_image` as events, ``ImageDone`` last for each; errors are raised before anything is computed."""
        texts = as_items(instruction, "instruction")
        groups, given = paired(image, instruction, "instruction"), {**options}
        seeds = resolve_seeds(given.pop("seed", None), len(texts))
        rows = zip(groups, texts, seeds, strict=True)
        tasks = [EditTask(image=one, instruction=text, seed=own, **given) for one, text, own in rows]  # type: ignore[arg-type]
        return self.stream(tasks, granularity=granularity)

    # Codes to a picture and back

    @overload
    def decode_image(self, encoded: EncodedImage, **options: Unpack[DecodeOptions]) -> ImageResult: ...
    @overload
    def decode_image(self, encoded: Sequence[EncodedImage], **options: Unpack[DecodeOptions]) -> list[ImageResult]: ...
    def decode_image(
        self, encoded: EncodedImage | Sequence[EncodedImage], **options: Unpack[DecodeOptions]
    ) -> ImageResult | list[ImageResult]:
        """Turn codes into pictures; ``seed``, ``num_steps``, ``decoder`` and its values as in :meth:`stream_image`.

        Raises:
            SizeError: a grid this checkpoint was not trained on.
            ImageError: a code outside the codebook.
            ConfigError: another argument is out of range.
        """
        items, many = as_list(encoded)
        seeds = resolve_seeds(options.get("seed"), len(items))
        events = draw_codes(
            self.networks,
            items,
            seeds,
            **{name: options.get(name) for name in DECODER_VALUES},
            at_once=self.pictures_at_once,
        )
        results = _results(events)
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
        ``confidence_threshold``, ``temperature``, ``max_new_tokens``, ``sprint``, ``keep_ratio``, ``raw``, ``system``.
        """
        results = _results(self.stream_answer(image, question, granularity="block", **options))
        return results if as_list(question)[1] else results[0]

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
        sprint: str | Sprint | None = None,
        keep_ratio: float | None = None,
        raw: bool = False,
        system: str | None = None,
        granularity: Granularity = "step",
    ) -> Iterator[Event | ImageDone | AnswerDone]:
        """Answer questions and yield the sampler's events on the way, ``AnswerDone`` last for each.

        Args:
            image: one picture (PIL image, path, bytes or data URI), or a list of pictures that are read together;
                for a list of questions a list with such an entry for each of them.
            question: what to ask; a list gives a batch.
            max_new_tokens: longest answer; the preset gives way to what the context still holds.
            raw: the prompt form of the first released model file: pictures and question without any role.
            system: a system text of your own.
            seed, steps_per_block, confidence_threshold, temperature, sprint, keep_ratio, granularity: as in
                :meth:`stream_image`.

        Raises:
            PromptError: a question is empty or not text, or has no picture. BudgetError: it is too long.
            ImageError: a picture is unreadable, too large or too elongated. ConfigError: an argument is out of range.
        """
        options: dict[str, Any] = {
            "steps_per_block": steps_per_block,
            "confidence_threshold": confidence_threshold,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "sprint": sprint,
            "keep_ratio": keep_ratio,
            "raw": raw,
            "system": system,
        }
        texts = as_items(question, "question")
        seeds = resolve_seeds(seed, len(texts))
        rows = zip(paired(image, question), texts, seeds, strict=True)
        tasks = [AskTask(image=one, question=text, seed=own, **options) for one, text, own in rows]
        return self.stream(tasks, granularity=granularity)

    # Conversations

    def chat(self, messages: Sequence[Turn | Mapping[str, Any]], **options: Unpack[ChatOptions]) -> TextResult:
        """The assistant's next turn in a conversation, with pictures in any turn of it or none at all.

        Args:
            messages: the turns so far, the last one the user's; see :class:`~llada_uni.pipeline.tasks.ChatTask`. A
                ``system`` turn at the start replaces the usual system text.
            options: ``seed``, ``steps_per_block``, ``confidence_threshold``, ``temperature``, ``max_new_tokens``,
                ``sprint``, ``keep_ratio``.

        Raises:
            PromptError: an unknown role, a second system turn or one with a picture, an empty turn, no user turn at the
                end. BudgetError: the conversation is too long. ImageError: a picture is unreadable.
            ConfigError: another argument is out of range.
        """
        (result,) = _results(self.stream_chat(messages, granularity="block", **options))
        return result

    def stream_chat(
        self,
        messages: Sequence[Turn | Mapping[str, Any]],
        *,
        granularity: Granularity = "step",
        **options: Unpack[ChatOptions],
    ) -> Iterator[Event | ImageDone | AnswerDone]:
        """:meth:`chat` as events, ``AnswerDone`` last; errors are raised before anything is computed."""
        return self.stream([ChatTask(messages=messages, **options)], granularity=granularity)

    def conversation(self, system: str | None = None, *, seed: int | None = None) -> Conversation:
        """A conversation that makes pictures, asks about them and edits them; ``system`` is its system text.

        With a ``seed`` its n-th result (from 0) uses ``seed + n`` unless told otherwise.
        """
        return Conversation(self, system, seed=seed)

    # Any mixture

    def run(self, tasks: Sequence[Task]) -> list[Any]:
        """Do tasks of any kinds as one batch; results in order, each the one that its task gives alone.

        Their requests share the backbone's steps; pictures that follow a plan are written together after that.

        Raises:
            LladaUniError: a task cannot be done; nothing is computed then.
        """
        return _results(self.stream(tasks, granularity="block"))

    def stream(
        self, tasks: Sequence[Task], *, granularity: Granularity = "step"
    ) -> Iterator[Event | ImageDone | AnswerDone]:
        """:meth:`run` as events; ``row`` is the task's place in ``tasks``.

        A row ends with ``AnswerDone`` or ``ImageDone``; one with a plan has two ``Started`` and two ``Finished``.
        """
        jobs = [job(self.networks, task) for task in as_items(tasks, "tasks")]
        return perform(self.networks, jobs, granularity, at_once=self.pictures_at_once)


def _results(events: Iterator[Any]) -> list[Any]:
    """Results in the order of their rows."""
    done = {event.row: event.result for event in events if isinstance(event, (ImageDone, AnswerDone))}
    return [done[row] for row in sorted(done)]
