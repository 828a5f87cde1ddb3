"""How items are performed on a model: a prompt to pictures, an instruction and pictures to a picture, a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from llada_uni.evaluation.items import Answer, Item, SuiteModel

__all__ = ["answer", "draw", "edit", "grid_of", "reply_to", "tell_story"]

_ANSWER = ("steps_per_block", "confidence_threshold", "temperature", "max_new_tokens", "sprint", "keep_ratio")
_SAMPLING = ("steps_per_block", "confidence_threshold", "temperature", "num_steps", "decoder", "sprint", "keep_ratio")
_DRAW = (*_SAMPLING, "guidance_scale", "height", "width", "thinking")
_EDIT = (*_SAMPLING, "guidance_text", "guidance_image", "height", "width")


def answer(model: SuiteModel, item: Item, seeds: Sequence[int], options: dict[str, Any]) -> Answer:
    """The answer to a question about the item's pictures."""
    images = [image if isinstance(image, bytes) else str(image) for image in item.images]
    return reply_to(model, images, item.prompt, seeds[0], options), []


def reply_to(model: SuiteModel, images: Any, question: str, seed: int, options: dict[str, Any]) -> str:
    """The words of an answer; of ``options`` those that answers have."""
    return model.understand_image(images, question, seed=seed, **_only(options, _ANSWER)).text


def draw(model: SuiteModel, item: Item, seeds: Sequence[int], options: dict[str, Any]) -> Answer:
    """One picture per seed."""
    results = model.generate_image([item.prompt] * len(seeds), seed=list(seeds), **_only(options, _DRAW))
    return None, [result.image for result in results]


def edit(model: SuiteModel, item: Item, seeds: Sequence[int], options: dict[str, Any]) -> Answer:
    """One picture made of the item's pictures by its instruction."""
    images = [image if isinstance(image, bytes) else str(image) for image in item.images]
    source = images[0] if len(images) == 1 else images
    return None, [model.edit_image(source, item.prompt, seed=seeds[0], **_only(options, _EDIT)).image]


def tell_story(model: SuiteModel, item: Item, seeds: Sequence[int], options: dict[str, Any]) -> Answer:
    """Words and pictures in turn; the words carry ``[picture N]`` where a picture stood."""
    result = model.generate_interleaved(item.prompt, seed=seeds[0], **_only(options, ("steps_per_block",)))
    words: list[str] = []
    images: list[Image.Image] = []
    for segment in result.segments:
        if isinstance(segment, str):
            words.append(segment)
        else:
            words.append(f"[picture {len(images)}]")
            images.append(segment.image)
    return "\n".join(words), images


def grid_of(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a square grid, row by row (one picture stays as it is; 2 to 4 make 2 x 2)."""
    side = 1
    while side * side < len(images):
        side += 1
    width, height = images[0].size
    sheet = Image.new("RGB", (side * width, side * height))
    for index, image in enumerate(images):
        sheet.paste(image, (index % side * width, index // side * height))
    return sheet


def _only(options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if options.get(name) is not None}
