"""A causally trained backbone as a model: same prompts, guidance, temperature and decoder, one id after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llada_uni.backbone.causal import CausalRows
from llada_uni.backbone.model import Backbone
from llada_uni.evaluation.baselines.results import Drawn, Told
from llada_uni.pipeline import LladaUni
from llada_uni.pipeline.requests import answer_request, answer_room, image_request, question_ids
from llada_uni.pipeline.settings import AnswerOptions, ImageOptions, answer_settings, image_settings, output_grid
from llada_uni.pipeline.stations import draw, encode, prepare, returned
from llada_uni.sampling.causal import write_next

__all__ = ["AutoregressiveModel"]


class AutoregressiveModel:
    """``backbone`` (of ``recipes.nano:autoregressive``) between the tokenizers and the pixel decoder of ``base``.

    Keys and values are cached; every id is one call for all rows of a batch and their guidance branches.
    """

    name = "autoregressive"

    def __init__(self, base: LladaUni, backbone: Backbone) -> None:
        self._base, self._backbone = base, backbone.eval()

    def generate_image(self, prompt: Sequence[str], /, *, seed: Sequence[int], **given: Any) -> list[Drawn]:
        """A picture for each prompt; ``given`` as for ``LladaUni.generate_image``, of which guidance, temperature and
        what concerns the pixel decoder have a meaning here."""
        base = self._base
        grid = output_grid(base.geometry, None, None)
        options = dict.fromkeys(ImageOptions.__annotations__) | given
        settings = image_settings(base.networks.package.presets, base.geometry.output_px(grid), options)
        requests = [image_request(base.networks, *one, grid, settings) for one in zip(prompt, seed, strict=True)]
        written = write_next(requests, CausalRows(self._backbone))
        codes = torch.tensor([base.networks.vocab.to_codes(ids) for ids in written])
        images = returned(draw(base.networks, codes, grid, seed, settings, at_once=base.pictures_at_once))
        return [Drawn(image=image) for image in images]

    def understand_image(
        self, image: Sequence[Any], question: Sequence[str], /, *, seed: int = 0, max_new_tokens: int = 64, **given: Any
    ) -> list[Told]:
        """One answer about each picture, greedy unless ``temperature`` is given."""
        networks = self._base.networks
        options = dict.fromkeys(AnswerOptions.__annotations__) | {"temperature": 0.0} | given
        settings = answer_settings(networks.package.presets, options | {"max_new_tokens": max_new_tokens})
        encoded = encode(networks, [one for (one,) in prepare(networks, [[one] for one in image])])
        prompts = [question_ids(networks, text, [one]) for text, one in zip(question, encoded, strict=True)]
        requests = [
            answer_request(networks, ids, seed + place, answer_room(networks, len(ids), settings, max_new_tokens))
            for place, ids in enumerate(prompts)
        ]
        written = write_next(requests, CausalRows(self._backbone))
        return [Told(text=networks.tokenizer.decode(ids).strip()) for ids in written]
