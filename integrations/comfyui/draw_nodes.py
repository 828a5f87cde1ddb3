"""Nodes that write codes: from words, from a picture and an instruction, or for a part of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import inputs, values
from .follow import follow

if TYPE_CHECKING:
    from torch import Tensor

    from llada_uni import LladaUni

PREVIEW = inputs.choice(
    inputs.TOKEN_PREVIEWS,
    "While it runs: how sure the model is of each code, or a sketch after every block (costs decoder steps), or none.",
)


class LladaUniGenerate:
    """Words to codes."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Writes the codes of pictures from words; decode them to see the pictures."
    RETURN_TYPES = (inputs.CODES,)
    RETURN_NAMES = ("codes",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (inputs.MODEL,),
                "prompt": inputs.words("two red apples left of a house", "What to draw."),
                "seed": inputs.seed(),
            },
            "optional": {
                **inputs.size(),
                "batch_size": inputs.whole("How many pictures.", most=64, default=1, least=1),
                "guidance_scale": inputs.weight("Weight of the words; 1 is off, -1 = preset."),
                **inputs.sampling(),
                "preview": PREVIEW,
            },
        }

    def generate(
        self,
        model: LladaUni,
        prompt: str,
        seed: int,
        width: int = 0,
        height: int = 0,
        batch_size: int = 1,
        guidance_scale: float = -1.0,
        steps_per_block: int = 0,
        temperature: float = -1.0,
        preview: str = "confidence",
    ) -> tuple[values.Codes]:
        """Write ``batch_size`` pictures with seeds from ``seed`` on."""
        options = inputs.given(
            width=width,
            height=height,
            guidance_scale=guidance_scale,
            steps_per_block=steps_per_block,
            temperature=temperature,
        )
        seeds = _seeds(seed, batch_size)
        events = model.stream_image([prompt] * batch_size, seed=seeds, **options)
        return (_written(model, events, seeds, preview),)


class LladaUniEdit:
    """Pictures and an instruction to codes."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Writes the codes of a changed picture, or of one made from up to three references."
    RETURN_TYPES = (inputs.CODES,)
    RETURN_NAMES = ("codes",)
    FUNCTION = "edit"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        reference = ("IMAGE", {"tooltip": "A further picture the instruction may speak of."})
        return {
            "required": {
                "model": (inputs.MODEL,),
                "instruction": inputs.words("make it snow", "What to change."),
                "seed": inputs.seed(),
            },
            "optional": {
                **inputs.sources(),
                "image_2": reference,
                "image_3": reference,
                **inputs.size(),
                "guidance_text": inputs.weight("Weight of the instruction; 1 is off, -1 = preset."),
                "guidance_image": inputs.weight("Weight of the pictures; 0 is off, -1 = preset."),
                **inputs.sampling(),
                "preview": PREVIEW,
            },
        }

    def edit(
        self,
        model: LladaUni,
        instruction: str,
        seed: int,
        image: Tensor | None = None,
        codes: values.Codes | None = None,
        image_2: Tensor | None = None,
        image_3: Tensor | None = None,
        width: int = 0,
        height: int = 0,
        guidance_text: float = -1.0,
        guidance_image: float = -1.0,
        steps_per_block: int = 0,
        temperature: float = -1.0,
        preview: str = "confidence",
    ) -> tuple[values.Codes]:
        """Edit every picture of the batch; a reference of batch 1 serves all of them."""
        first = values.sources(image, codes)
        groups = [[one] for one in first]
        for name, reference in (("image_2", image_2), ("image_3", image_3)):
            if reference is not None:
                more = values.beside(values.pictures(reference), len(first), name)
                groups = [[*group, one] for group, one in zip(groups, more, strict=True)]
        options = inputs.given(
            width=width,
            height=height,
            guidance_text=guidance_text,
            guidance_image=guidance_image,
            steps_per_block=steps_per_block,
            temperature=temperature,
        )
        seeds = _seeds(seed, len(groups))
        events = model.stream_edit(groups, [instruction] * len(groups), seed=seeds, **options)
        return (_written(model, events, seeds, preview),)


class LladaUniInpaint:
    """A picture, one region of which is predicted anew."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Predicts the masked part of a picture anew; codes and pixels outside it stay as they are."
    RETURN_TYPES = ("IMAGE", inputs.CODES)
    RETURN_NAMES = ("image", "codes")
    FUNCTION = "inpaint"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        on = {"default": True}
        return {
            "required": {
                "model": (inputs.MODEL,),
                "mask": ("MASK", {"tooltip": "1 where the picture may change; of the picture's shape."}),
                "prompt": inputs.words(
                    "add a yellow star", "With reference an instruction, without it a description of the whole picture."
                ),
                "seed": inputs.seed(),
            },
            "optional": {
                **inputs.sources(),
                "reference": ("BOOLEAN", {**on, "tooltip": "Whether the model reads the whole picture first."}),
                "blend": ("BOOLEAN", {**on, "tooltip": "Whether pixels outside the mask stay those of the source."}),
                "strength": inputs.weight("Share of the masked cells.", default=1.0, least=0.0, most=1.0),
                "guidance": inputs.weight("Weight of the words; 1 is off, -1 = preset."),
                **inputs.sampling(),
                **inputs.decoding(),
                "preview": PREVIEW,
            },
        }

    def inpaint(
        self,
        model: LladaUni,
        mask: Tensor,
        prompt: str,
        seed: int,
        image: Tensor | None = None,
        codes: values.Codes | None = None,
        reference: bool = True,
        blend: bool = True,
        strength: float = 1.0,
        guidance: float = -1.0,
        steps_per_block: int = 0,
        temperature: float = -1.0,
        decoder: str = "preset",
        num_steps: int = 0,
        preview: str = "confidence",
    ) -> tuple[Tensor, values.Codes]:
        """Inpaint every picture of the batch; a mask of batch 1 serves all of them."""
        from llada_uni import InpaintTask
        from llada_uni.pipeline import ImageDone

        images = values.sources(image, codes)
        masks = values.beside(values.marks(mask), len(images), "mask")
        options = inputs.given(
            steps_per_block=steps_per_block, temperature=temperature, decoder=decoder, num_steps=num_steps
        )
        name = "guidance_text" if reference else "guidance_scale"
        options |= inputs.given(**{name: guidance}) | {"reference": reference, "blend": blend, "strength": strength}
        seeds = _seeds(seed, len(images))
        tasks = [
            InpaintTask(image=one, mask=region, prompt=prompt, seed=own, **options)
            for one, region, own in zip(images, masks, seeds, strict=True)
        ]
        events = follow(model.stream(tasks), model, preview, num_pictures=len(tasks))
        results = [event.result for event in events if isinstance(event, ImageDone)]
        written = values.Codes(tuple(one.encoded for one in results), tuple(seeds))
        return (values.image_tensor([one.image for one in results]), written)


def _seeds(seed: int, count: int) -> list[int]:
    return [seed + row for row in range(count)]


def _written(model: LladaUni, events: Iterator[Any], seeds: list[int], preview: str) -> values.Codes:
    """Listen until the codes are there; nothing is drawn."""
    from llada_uni.pipeline.halves import until_written
    from llada_uni.pipeline.stations import returned

    items = returned(until_written(model.networks, follow(events, model, preview), len(seeds)))
    return values.Codes(tuple(items), tuple(seeds))
