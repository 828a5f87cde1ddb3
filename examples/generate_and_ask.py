"""Make a picture, then ask about it: the same model writes and reads.

python examples/generate_and_ask.py [MODEL]
"""

from __future__ import annotations

import sys

from llada_uni import LladaUni


def main(name: str = "nano") -> None:
    """One picture and three questions."""
    model = LladaUni.from_pretrained(name)
    result = model.generate_image("two red apples left of a house", seed=7)
    print(result.save("apples.png"), f"{result.timings['total']:.1f} s")

    questions = ["how many apples are there?", "what colour is the house?", "is there a fish?"]
    answers = model.understand_image([result.image] * len(questions), questions)
    for answer in answers:
        print(f"{answer.question} {answer.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
