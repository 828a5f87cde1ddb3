"""Several prompts as one batch, on a contact sheet; each picture is the one its prompt and seed give alone.

python examples/batch.py [MODEL]
"""

from __future__ import annotations

import sys

from PIL import Image

from llada_uni import LladaUni, LladaUniError

PROMPTS = [
    "a red ball on grass",
    "three yellow stars at night",
    'a sign that says "OPEN"',
    "a blue fish above a green boat",
]


def main(name: str = "nano") -> None:
    """Four pictures side by side."""
    model = LladaUni.from_pretrained(name)
    results = model.generate_image(PROMPTS, seed=[1, 2, 3, 4])
    width, height = results[0].image.size
    sheet = Image.new("RGB", (width * len(results), height))
    for index, result in enumerate(results):
        sheet.paste(result.image, (width * index, 0))
        print(result.seed, result.prompt, dict(result.usage))
    sheet.save("batch.png")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LladaUniError as error:
        sys.exit(f"error: {error}")
