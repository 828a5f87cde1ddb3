"""The model behind the call conventions of diffusers' pipelines. Does not import diffusers.

pipe = LladaUniPipeline.from_pretrained("nano")
image = pipe("two red apples", generator=torch.Generator().manual_seed(7)).images[0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from llada_uni.diffusion.sprint import Sprint
from llada_uni.errors import ConfigError
from llada_uni.pipeline.checks import as_items, check_choice, check_flag, check_number
from llada_uni.pipeline.generators import seeds_from
from llada_uni.pipeline.halves import until_written
from llada_uni.pipeline.model import LladaUni
from llada_uni.pipeline.networks import Networks
from llada_uni.pipeline.picture_arrays import from_array, to_array, to_tensor, unbatched
from llada_uni.pipeline.results import ImageDone, ImageResult
from llada_uni.pipeline.stations import returned
from llada_uni.protocols import FlowStep
from llada_uni.weights.load import resolve_device, resolve_dtype

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from llada_uni.pipeline.results import EncodedImage

__all__ = ["LladaUniPipeline", "LladaUniPipelineOutput"]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
StepCallback = Callable[["LladaUniPipeline", int, float, dict[str, Any]], Any]


class SamplerOptions(TypedDict, total=False):
    """Arguments of the model that diffusers has no name for; ``GenerateTask`` documents them."""

    steps_per_block: int | None
    confidence_threshold: float | None
    temperature: float | None
    decoder: str | None
    decoder_guidance: float | None
    guidance_interval: Sequence[float] | None
    step_cache: float | None
    sprint: str | Sprint | None
    keep_ratio: float | None


@dataclass(frozen=True)
class LladaUniPipelineOutput:
    """``images`` in the wished form, one per picture; ``results`` say how each was made (none for ``"latent"``).

    ``output["images"]`` and ``output[0]`` are ``output.images``.
    """

    images: list[Image] | list[EncodedImage] | np.ndarray | Tensor
    results: tuple[ImageResult, ...] = ()

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields in order."""
        return tuple(getattr(self, one.name) for one in fields(self))

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return {one.name: getattr(self, one.name) for one in fields(self)}[key]
        return self.to_tuple()[key]


class LladaUniPipeline:
    """Words to pictures, or pictures and an instruction to pictures, called like a pipeline of diffusers.

    A thin coat over :class:`LladaUni`, which is ``pipe.model`` and can do more; pictures are the same for the same
    seeds. Networks are loaded when they are first needed.
    """

    def __init__(self, model: LladaUni, *, torch_dtype: str | torch.dtype | None = None) -> None:
        self.model = model
        self._wished_dtype = torch_dtype

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path = "nano",
        *,
        torch_dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
    ) -> LladaUniPipeline:
        """Open a checkpoint: ``"nano"``, a model id on the hub, or a directory.

        Args:
            pretrained_model_name_or_path: what to open.
            torch_dtype: ``torch.bfloat16``, ...; None is float32 on the CPU and bfloat16 elsewhere.
            revision: commit, tag or branch of a hub model.
            device: None takes CUDA where there is one; :meth:`to` changes it.

        Raises:
            CheckpointError, OfflineError, ResourceError, ConfigError: as ``LladaUni.from_pretrained``.
        """
        model = LladaUni.from_pretrained(
            pretrained_model_name_or_path, revision=revision, device=device, dtype=torch_dtype
        )
        return cls(model, torch_dtype=torch_dtype)

    def save_pretrained(self, save_directory: str | Path) -> Path:
        """Write the checkpoint, as ``LladaUni.save_pretrained``."""
        return self.model.save_pretrained(save_directory)

    @property
    def device(self) -> torch.device:
        """Where the networks are, or will be."""
        return self.model.networks.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.model.networks.dtype

    def to(self, *where: Any, device: Any = None, dtype: Any = None) -> LladaUniPipeline:
        """Move to a device, a dtype or both: ``to("cuda")``, ``to(torch.bfloat16)``, ``to("cuda", torch.bfloat16)``.

        Without a dtype, here or in :meth:`from_pretrained`, that of the new device is taken. Where the dtype changes,
        the networks are read from the checkpoint again.

        Raises:
            ResourceError: the machine has no such device. ConfigError: neither a device nor a floating-point dtype.
        """
        for one in where:
            if isinstance(one, torch.dtype):
                dtype = one
            else:
                device = one
        place = self.device if device is None else resolve_device(device)
        wished = self._wished_dtype if dtype is None else dtype
        self.model.networks = _moved(self.model.networks, place, resolve_dtype(wished, place))
        self._wished_dtype = wished
        return self

    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        *,
        image_guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        **options: Unpack[SamplerOptions],
    ) -> LladaUniPipelineOutput | tuple[Any]:
        """Make pictures; with ``image`` edit it. Arguments left at None take the checkpoint's presets.

        Args:
            prompt: what to draw or, with ``image``, what to change; a list is a batch.
            image: a picture, or a list of references for one prompt; for a list of prompts one picture for all, or a
                list with an entry for each. A picture is a PIL image, a path, bytes, a data URI, codes, a tensor
                [C, H, W] or an array [H, W, C] of numbers from 0 to 1; a 4-dimensional one is a list.
            height, width: size in pixels.
            num_inference_steps: velocity evaluations of the decoder (``num_steps`` elsewhere in this package).
            guidance_scale: weight of the words, 1 is off: ``guidance_scale``, or ``guidance_text`` of an edit.
            image_guidance_scale: weight of the pictures in an edit, 0 is off: ``guidance_image``.
            negative_prompt: not supported; only None and "" are accepted.
            num_images_per_prompt: pictures of each prompt, in a row.
            generator: one for all pictures, or a list with one for each; ``manual_seed(7)`` is ``seed=7``, and a
                generator that is used again goes on to other pictures. None draws seeds.
            output_type: ``"pil"``, ``"np"`` (float32 [B, H, W, 3] from 0 to 1), ``"pt"`` (float32 [B, 3, H, W]), or
                ``"latent"``: the codes of the pictures, which ``pipe.model.decode_image`` draws.
            return_dict: False returns ``(images,)``.
            callback_on_step_end: called as ``callback(pipe, step, timestep, {"latents": estimate})`` after every step
                of the decoder on one picture; ``timestep`` is the share of steps done, ``estimate`` [1, C, H, W] what
                the latents would become. It may raise to stop; it cannot change the latents.
            options: ``steps_per_block``, ``confidence_threshold``, ``temperature``, ``decoder``, ``sprint``,
                ``keep_ratio``.

        Raises:
            PromptError, BudgetError, ImageError, SizeError, ConfigError: as ``LladaUni.generate_image`` and
                ``edit_image``, one line each, before anything is computed.
        """
        self._check(options, image, negative_prompt, image_guidance_scale)
        check_choice(output_type, name="output_type", choices=OUTPUT_TYPES)
        check_flag(return_dict, name="return_dict")
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise ConfigError(f"callback_on_step_end: expected a function, got {type(callback_on_step_end).__name__}")
        copies = check_number(num_images_per_prompt, name="num_images_per_prompt", low=1, whole=True)
        prompts = [text for text in as_items(prompt, "prompt") for _ in range(copies)]
        common = {"height": height, "width": width, "num_steps": num_inference_steps, **options}
        common["seed"] = seeds_from(generator, len(prompts))
        if image is None:
            events = self.model.stream_image(prompts, guidance_scale=guidance_scale, granularity="block", **common)
        else:
            weights = {"guidance_text": guidance_scale, "guidance_image": image_guidance_scale}
            groups = [group for group in _groups(image, prompt) for _ in range(copies)]
            events = self.model.stream_edit(groups, prompts, granularity="block", **weights, **common)
        if output_type == "latent":
            output = LladaUniPipelineOutput(returned(until_written(self.model.networks, events, len(prompts))))
        else:
            output = _shown(self._results(events, callback_on_step_end), output_type)
        return output if return_dict else (output.images,)

    def _check(self, options: Any, image: Any, negative_prompt: Any, image_guidance_scale: Any) -> None:
        unknown = sorted(set(options) - set(SamplerOptions.__annotations__))
        if unknown:
            known = ", ".join(SamplerOptions.__annotations__)
            raise ConfigError(f"unexpected argument {unknown[0]!r}; beside those of diffusers there are {known}")
        if negative_prompt not in (None, "", [], [""]):
            raise ConfigError("negative_prompt is not supported: guidance goes away from the prompt without words")
        if image is None and image_guidance_scale is not None:
            raise ConfigError("image_guidance_scale has no meaning without image; use guidance_scale")

    def _results(self, events: Iterator[Any], callback: StepCallback | None) -> list[ImageResult]:
        done: dict[int, ImageResult] = {}
        for event in events:
            if isinstance(event, ImageDone):
                done[event.row] = event.result
            elif isinstance(event, FlowStep) and callback is not None:
                _told(callback, self, event)
        return [done[row] for row in sorted(done)]


def _told(callback: StepCallback, pipe: LladaUniPipeline, event: FlowStep) -> None:
    latents = event.data_estimate[None]
    answer = callback(pipe, event.index, (event.index + 1) / event.num_steps, {"latents": latents})
    if isinstance(answer, dict) and answer.get("latents", latents) is not latents:
        raise ConfigError("callback_on_step_end returned other latents; it can watch the decoder, not change it")


def _groups(image: Any, prompt: Any) -> list[Any]:
    """An entry for each prompt: a picture, or a list of references."""
    image = unbatched(image)
    if not isinstance(prompt, (list, tuple)):
        return [_pictures(image)]
    if not isinstance(image, (list, tuple)):
        return [_pictures(image)] * len(prompt)
    if len(image) != len(prompt):
        raise ConfigError(f"image: expected one picture or a list of {len(prompt)}, one per prompt, got {len(image)}")
    return [_pictures(unbatched(entry)) for entry in image]


def _pictures(entry: Any) -> Any:
    return [from_array(one) for one in entry] if isinstance(entry, (list, tuple)) else from_array(entry)


def _shown(results: list[ImageResult], output_type: str) -> LladaUniPipelineOutput:
    pictures = [one.image for one in results]
    images = {"pil": list, "np": to_array, "pt": to_tensor}[output_type](pictures)
    return LladaUniPipelineOutput(images, tuple(results))


def _moved(networks: Networks, place: torch.device, dtype: torch.dtype) -> Networks:
    if not networks.keeping.plain:
        raise ConfigError("a quantised, offloaded or planned model stays where it is; open it there instead")
    if dtype != networks.dtype:
        moved = Networks(networks.directory, name=networks.name, device=place, dtype=dtype)
        moved.engine = networks.engine
        return moved
    for module in networks.modules().values():
        module.to(place)
    networks.device = place
    return networks
