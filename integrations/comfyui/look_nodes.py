"""Nodes that read: pictures to codes, codes to pictures, pictures and a question to words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import inputs, values
from .follow import follow, quickest

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from llada_uni import EncodedImage, LladaUni


class LladaUniEncode:
    """Pictures to codes."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Reads pictures as codes."
    RETURN_TYPES = (inputs.CODES,)
    RETURN_NAMES = ("codes",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": (inputs.MODEL,), "image": ("IMAGE",)}, "optional": inputs.size()}

    def encode(self, model: LladaUni, image: Tensor, width: int = 0, height: int = 0) -> tuple[values.Codes]:
        """Scale, crop and encode every picture; without a size each keeps its shape as far as the model can."""
        items = model.encode_image(values.pictures(image), **inputs.given(width=width, height=height))
        return (values.Codes(tuple(items), (0,) * len(items)),)


class LladaUniDecode:
    """Codes to pictures."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Draws pictures from their codes."
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "Seed of the decoder's noise; -1 = the seed that the codes were written with."
        return {
            "required": {"model": (inputs.MODEL,), "codes": (inputs.CODES,)},
            "optional": {
                "decoder_seed": inputs.whole(tooltip, most=inputs.MAX_SEED, default=-1, least=-1),
                **inputs.decoding(),
                "preview": inputs.choice(inputs.FLOW_PREVIEWS, "Whether the picture is shown while it is drawn."),
            },
        }

    def decode(
        self,
        model: LladaUni,
        codes: values.Codes,
        decoder_seed: int = -1,
        decoder: str = "preset",
        num_steps: int = 0,
        preview: str = "picture",
    ) -> tuple[Tensor]:
        """Draw every picture of the batch, with seeds from ``decoder_seed`` on or those it was written with."""
        from llada_uni.pipeline import ImageDone
        from llada_uni.pipeline.halves import draw_codes

        seeds = codes.seeds if decoder_seed < 0 else [decoder_seed + row for row in range(len(codes.items))]
        options = inputs.given(decoder=decoder, num_steps=num_steps)
        drawing = draw_codes(model.networks, codes.items, seeds, at_once=model.pictures_at_once, **options)
        events = follow(drawing, model, preview, num_pictures=len(codes.items))
        images = [event.result.image for event in events if isinstance(event, ImageDone)]
        return (values.image_tensor(images),)


class LladaUniPreviewCodes:
    """A quick look at codes."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "A sketch in two decoder steps, or the codes themselves: one colour for each different code."
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "preview"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        show = inputs.choice(("picture", "codes"), "codes runs no network.")
        return {"required": {"model": (inputs.MODEL,), "codes": (inputs.CODES,), "show": show}}

    def preview(self, model: LladaUni, codes: values.Codes, show: str) -> tuple[Tensor]:
        """One picture of the decoded size for each item."""
        if show == "codes":
            return (values.image_tensor([_coloured(one, model.geometry.cell_px) for one in codes.items]),)
        decoder = quickest(model)
        images = [
            model.preview_image(one.codes, one.grid, seed=seed, decoder=decoder)
            for one, seed in zip(codes.items, codes.seeds, strict=True)
        ]
        return (values.image_tensor(images),)


class LladaUniUnderstand:
    """Pictures and a question to words."""

    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Answers a question about each picture, or about all of them together."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("answer",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "ask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        together = "Whether a batch is read as one request with several pictures; otherwise each picture has an answer."
        return {
            "required": {
                "model": (inputs.MODEL,),
                "question": inputs.words("What is in the picture?", "What to ask."),
                "seed": inputs.seed(),
            },
            "optional": {
                **inputs.sources(),
                "together": ("BOOLEAN", {"default": False, "tooltip": together}),
                "max_new_tokens": inputs.whole("Longest answer; 0 = preset.", most=65536),
                "temperature": inputs.weight("0 takes the likeliest words.", default=0.0, least=0.0, most=10.0),
            },
        }

    def ask(
        self,
        model: LladaUni,
        question: str,
        seed: int,
        image: Tensor | None = None,
        codes: values.Codes | None = None,
        together: bool = False,
        max_new_tokens: int = 0,
        temperature: float = 0.0,
    ) -> tuple[list[str]]:
        """The answers, one for each picture or a single one."""
        from llada_uni.pipeline import AnswerDone

        images = values.sources(image, codes)
        groups = [images] if together else [[one] for one in images]
        options = inputs.given(max_new_tokens=max_new_tokens, temperature=temperature)
        seeds = [seed + row for row in range(len(groups))]
        events = follow(model.stream_answer(groups, [question] * len(groups), seed=seeds, **options), model)
        return ([event.result.text for event in events if isinstance(event, AnswerDone)],)


def _coloured(item: EncodedImage, cell_px: int) -> Image:
    """Every cell in a colour that depends on its code alone."""
    import numpy as np
    from PIL import Image

    numbers = np.array(item.codes, dtype=np.uint64).reshape(item.grid.grid_h, item.grid.grid_w)
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    channels = [(mixed >> np.uint64(shift)).astype(np.uint8) for shift in (56, 48, 40)]
    size = item.grid.grid_w * cell_px, item.grid.grid_h * cell_px
    return Image.fromarray(np.stack(channels, axis=2)).resize(size, Image.Resampling.NEAREST)
