"""What the model can be asked to do, as values: any mixture of them is one batch for ``LladaUni.run``.

The methods of :class:`~llada_uni.pipeline.model.LladaUni` build these values, so that a field is documented once, here.
Fields left at None take the checkpoint's presets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llada_uni.diffusion.sprint import Sprint
    from llada_uni.image_tokenizer.images import ImageSource
    from llada_uni.pipeline.region_source import RegionSource
    from llada_uni.pipeline.results import EncodedImage, ImageResult

    Picture = ImageSource | EncodedImage | ImageResult
    """A real picture, or one that is codes already: those are used as they are."""

__all__ = [
    "AskTask",
    "ChatTask",
    "EditTask",
    "GenerateTask",
    "InpaintTask",
    "OutpaintTask",
    "RegionTask",
    "Task",
    "Turn",
    "VaryTask",
]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; its pictures stand before its text.

    ``role``: ``"system"`` (the first turn only, without pictures), ``"user"`` or ``"assistant"``. ``images``: PIL
    images, paths, bytes, data URIs, or pictures that are codes already.
    """

    role: str
    text: str = ""
    images: Sequence[Picture] = ()


@dataclass(frozen=True, kw_only=True)
class GenerateTask:
    """Words to a picture.

    Args:
        prompt: what to draw; control strings in it are plain text.
        height, width: size of the picture in pixels; one alone means a square, none the checkpoint's usual size.
        seed: 0 to 2**63 - 1; None draws 32 bits. Always reported.
        steps_per_block: most denoising steps in one block of tokens.
        guidance_scale: 1 is off.
        confidence_threshold: tokens more probable than this are final at once.
        temperature: of the tokens; 0 takes the most likely ones.
        num_steps: velocity evaluations of the decoder.
        decoder: ``"normal"`` or ``"turbo"``.
        decoder_guidance: how strongly the decoder is held to the codes; 1 is off.
        guidance_interval: (low, high), the decoder's times (0 noise to 1 picture) at which it is guided; outside one
            branch is computed. None is always.
        step_cache: above 0 to 1, the change up to which the decoder takes its deep layers over from an earlier step,
            faster and not the same picture; None computes every step.
        sprint: a preset (``"paper"``, ``"readme"``, ``"released"``) or a ``Sprint``; None is the exact path.
        keep_ratio: share of earlier positions that later steps of a block see, in place of SPRINT's own ratios.
        thinking: write a plan in words first. The result carries it; without a requested size the picture takes the
            grid that the plan announces, where the checkpoint can draw it.
        thinking_tokens: longest plan; the preset gives way to what the context still holds.
        thinking_temperature, thinking_top_p: how the plan's words are chosen; None is 0 and no limit.
    """

    prompt: str
    height: int | None = None
    width: int | None = None
    seed: int | None = None
    steps_per_block: int | None = None
    guidance_scale: float | None = None
    confidence_threshold: float | None = None
    temperature: float | None = None
    num_steps: int | None = None
    decoder: str | None = None
    decoder_guidance: float | None = None
    guidance_interval: Sequence[float] | None = None
    step_cache: float | None = None
    sprint: str | Sprint | None = None
    keep_ratio: float | None = None
    thinking: bool = False
    thinking_tokens: int | None = None
    thinking_temperature: float | None = None
    thinking_top_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """A picture, or several references, and an instruction to a picture.

    Args:
        image: one picture or a list of them. Codes (``EncodedImage``, ``ImageResult``) are used as they are.
        instruction: what to change; control strings in it are plain text.
        height, width: size of the result in pixels; without it that of the first picture, as the checkpoint sees it.
        guidance_text: weight of the instruction; 1 is off.
        guidance_image: weight of the pictures; 0 is off.
        crop: how a picture is brought to the editing size: ``"cover"`` scales it until it covers the window and cuts
            the centre out, ``"released"`` cuts the window out at native resolution (small pictures get black borders).
        seed, steps_per_block, confidence_threshold, temperature, num_steps, decoder, decoder_guidance,
            guidance_interval, step_cache, sprint, keep_ratio: as in :class:`GenerateTask`.
    """

    image: Picture | Sequence[Picture]
    instruction: str
    height: int | None = None
    width: int | None = None
    seed: int | None = None
    steps_per_block: int | None = None
    guidance_text: float | None = None
    guidance_image: float | None = None
    confidence_threshold: float | None = None
    temperature: float | None = None
    num_steps: int | None = None
    decoder: str | None = None
    decoder_guidance: float | None = None
    guidance_interval: Sequence[float] | None = None
    step_cache: float | None = None
    sprint: str | Sprint | None = None
    keep_ratio: float | None = None
    crop: Literal["cover", "released"] = "cover"


@dataclass(frozen=True, kw_only=True)
class AskTask:
    """A picture, or several that are read together, and a question to words.

    Args:
        image: one picture or a list of them.
        question: what to ask; control strings in it are plain text.
        max_new_tokens: longest answer; the preset gives way to what the context still holds.
        raw: the prompt form of the first released model file: pictures and question without any role.
        system: a system text of your own.
        seed, steps_per_block, confidence_threshold, temperature, sprint, keep_ratio: as in :class:`GenerateTask`.
    """

    image: Picture | Sequence[Picture]
    question: str
    seed: int | None = None
    steps_per_block: int | None = None
    confidence_threshold: float | None = None
    temperature: float = 0.0
    max_new_tokens: int | None = None
    sprint: str | Sprint | None = None
    keep_ratio: float | None = None
    raw: bool = False
    system: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChatTask:
    """A conversation to its next turn.

    Args:
        messages: turns in order, the last one the user's: :class:`Turn`, or dictionaries with ``role`` and ``content``
            (a text, or a list of ``text`` and ``image_url`` parts whose addresses are data URIs).
        seed, steps_per_block, confidence_threshold, temperature, max_new_tokens, sprint, keep_ratio: as in
            :class:`AskTask`.
    """

    messages: Sequence[Turn | Mapping[str, Any]]
    seed: int | None = None
    steps_per_block: int | None = None
    confidence_threshold: float | None = None
    temperature: float = 0.0
    max_new_tokens: int | None = None
    sprint: str | Sprint | None = None
    keep_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class RegionTask:
    """What the three edits on the token grid have in common; not a task by itself.

    Args:
        image: a picture, or a result or codes of this model.
        prompt: with ``reference`` an instruction, without it a description of the whole picture.
        reference: whether the source picture stands in the prompt.
        blend: whether pixels outside the region stay those of the source.
        block_length: of the prediction; the preset is ``region_block_length``.
        guidance_text, guidance_image: with ``reference``. guidance_scale: without it.
        seed, steps_per_block, confidence_threshold, temperature, num_steps, decoder, decoder_guidance,
            guidance_interval, step_cache: as in :class:`GenerateTask`.
    """

    image: RegionSource
    prompt: str
    reference: bool = True
    blend: bool = True
    seed: int | None = None
    block_length: int | None = None
    steps_per_block: int | None = None
    guidance_scale: float | None = None
    guidance_text: float | None = None
    guidance_image: float | None = None
    confidence_threshold: float | None = None
    temperature: float | None = None
    num_steps: int | None = None
    decoder: str | None = None
    decoder_guidance: float | None = None
    guidance_interval: Sequence[float] | None = None
    step_cache: float | None = None


@dataclass(frozen=True, kw_only=True)
class InpaintTask(RegionTask):
    """A picture, one region of which is predicted anew while all other codes stay.

    Args:
        mask, box, cells, keep_cells: the region, by exactly one of them; see ``LladaUni.stream_inpaint``.
        strength: share of the region's cells that is predicted.
        image, prompt and the others: as in ``LladaUni.stream_inpaint``.
    """

    mask: ImageSource | None = None
    box: Sequence[int] | None = None
    cells: Sequence[tuple[int, int]] | None = None
    keep_cells: Sequence[tuple[int, int]] | None = None
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OutpaintTask(RegionTask):
    """A picture on a larger one; what surrounds it is predicted.

    Args:
        height, width: size of the larger picture in pixels; a side left out stays as it is.
        anchor: where the picture lies in it; see ``LladaUni.stream_outpaint``.
        image, prompt and the others: as in ``LladaUni.stream_inpaint``.
    """

    height: int | None = None
    width: int | None = None
    anchor: str = "center"


@dataclass(frozen=True, kw_only=True)
class VaryTask(RegionTask):
    """A picture, a random share of whose cells is predicted anew.

    Args:
        strength: that share; 0 keeps every code, 1 predicts all.
        reference, blend: off, see ``LladaUni.stream_vary``.
        image, prompt and the others: as in ``LladaUni.stream_inpaint``.
    """

    strength: float = 0.5
    reference: bool = False
    blend: bool = False


Task = GenerateTask | EditTask | AskTask | ChatTask | InpaintTask | OutpaintTask | VaryTask
"""Anything that ``LladaUni.run`` does."""
