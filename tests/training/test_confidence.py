"""The confidence-aware term: what it adds, to which tokens, and that without it nothing changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tiny_stages import OBJECTIVES

from llada_uni.diffusion.losses import confidence_entropy
from llada_uni.diffusion.masking import training_allowed
from llada_uni.errors import ConfigError
from llada_uni.training.objective import Draw, Resources
from llada_uni.training.objectives.records import RecordsObjectiveConfig

WEIGHT = 0.7


def built(resources: Resources, **changes: Any) -> Any:
    objective = dataclasses.replace(OBJECTIVES["backbone"], **changes).build(resources, 0)
    objective.model.double()
    return objective


def test_the_loss_grows_by_the_mean_entropy_of_right_words(tiny_resources: Resources) -> None:
    plain, sharp = built(tiny_resources), built(tiny_resources, confidence_weight=WEIGHT)
    batch = plain.batch(Draw(seed=4, step=0, size=6))
    model = plain.model
    for parameter in (model.lm_head.weight, model.model.word_embeddings.weight):  # clear guesses
        parameter.data.mul_(3)
    sharp.model.load_state_dict(model.state_dict())
    allowed = training_allowed(batch["document"], batch["branch"], batch["block"], batch["stream"]).unsqueeze(1)
    logits = model.logits(model.hidden(batch["noisy_ids"], batch["position"], allowed))
    batch["ids"] = torch.where(batch["masked"] & ~batch["image"] & ~batch["fill"], logits.argmax(-1), batch["ids"])
    words = batch["masked"] & ~batch["image"] & ~batch["fill"]
    entropy, count = confidence_entropy(logits, batch["ids"], words)
    assert int(count) > 5
    (without, _), (with_term, told) = (one.loss(batch, torch.Generator()) for one in (plain, sharp))
    wanted = WEIGHT * float((entropy / count).detach())
    assert float((with_term - without).detach()) == pytest.approx(wanted, rel=1e-9)
    assert float(told["confidence_entropy"]) == pytest.approx(wanted / WEIGHT, rel=1e-9)


def test_following_the_term_makes_right_words_surer(tiny_resources: Resources) -> None:
    objective = built(tiny_resources, confidence_weight=WEIGHT)
    batch = objective.batch(Draw(seed=4, step=0, size=6))
    plain = built(tiny_resources)
    plain.model.load_state_dict(objective.model.state_dict())
    head = objective.model.lm_head.weight
    with torch.no_grad():
        told = plain.loss(batch, torch.Generator())[1]
    if not float(told["acc_text"]):
        masked = batch["masked"] & ~batch["image"] & ~batch["fill"]
        allowed = training_allowed(batch["document"], batch["branch"], batch["block"], batch["stream"]).unsqueeze(1)
        guess = plain.model.logits(plain.model.hidden(batch["noisy_ids"], batch["position"], allowed)).argmax(-1)
        batch["ids"] = torch.where(masked, guess, batch["ids"])
    (base, _), (loss, before) = plain.loss(batch, torch.Generator()), objective.loss(batch, torch.Generator())
    added = torch.autograd.grad(loss, head)[0] - torch.autograd.grad(base, plain.model.lm_head.weight)[0]
    with torch.no_grad():
        head -= 1e-2 * added / added.norm()
    after = objective.loss(batch, torch.Generator())[1]
    assert float(after["confidence_entropy"]) < float(before["confidence_entropy"])


def test_without_a_weight_nothing_changes(tiny_resources: Resources) -> None:
    objective = built(tiny_resources)
    _, told = objective.loss(objective.batch(Draw(seed=4, step=0, size=4)), torch.Generator())
    assert "confidence_entropy" not in told


@pytest.mark.parametrize("changes", [{"confidence_weight": -1.0}, {"confidence_weight": 1.0, "logit_chunk": 8}])
def test_weights_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="confidence_weight"):
        dataclasses.replace(OBJECTIVES["backbone"], **changes)
    with pytest.raises(ConfigError, match="confidence_weight"):
        RecordsObjectiveConfig(**changes)
