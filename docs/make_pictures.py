"""Draws the pictures of the guides with nano: docs/assets/{generate,regions}.png. Nothing is chosen."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from llada_uni import LladaUni

ASSETS = Path(__file__).parent / "assets"
GAP_PX = 4
PROMPTS = (
    "a red apple",
    "a blue fish",
    "a yellow star",
    "a green tree on grass",
    "two red apples",
    "three blue stars",
    "a cat and a house",
    "a pink balloon at night",
)


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one height side by side."""
    width = sum(picture.width for picture in pictures) + GAP_PX * (len(pictures) - 1)
    sheet, left = Image.new("RGB", (width, pictures[0].height), "white"), 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP_PX
    return sheet


def generated(model: LladaUni) -> Image.Image:
    """The prompts with seeds 0, 1, ..."""
    return strip([result.image for result in model.generate_image(list(PROMPTS), seed=list(range(len(PROMPTS))))])


def regions(model: LladaUni) -> Image.Image:
    """A picture, a region of it predicted again, the picture enlarged, and half of its codes predicted again."""
    source = model.generate_image("a blue fish", seed=3)
    star = model.inpaint_image(source, "a blue fish and a yellow star", box=(0, 64, 64, 128), reference=False, seed=1)
    wide = model.outpaint_image(source, "a blue fish and a red ball", width=192, height=128, reference=False, seed=1)
    varied = model.vary_image(source, "a blue fish", seed=1)
    return strip([one.image for one in (source, star, wide, varied)])


if __name__ == "__main__":
    nano = LladaUni.from_pretrained("nano")
    generated(nano).save(ASSETS / "generate.png", optimize=True)
    regions(nano).save(ASSETS / "regions.png", optimize=True)
