"""What a sampled item comes to, what its batch cost, and how two paths compare item by item."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from _record import paired_difference
from llada_uni import LladaUni
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.protocols import BranchKey, Finished, Prefix, Request, StepBatch
from llada_uni.sampling.block_sampler import generate
from llada_uni.scenes.bench import CategoryScore

__all__ = ["Counting", "Outcome", "Sampled", "agreement", "sample", "summary", "together"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One item: the ids written, whether they are right, steps, backbone calls and positions its steps attended.

    ``token_s``, ``pixel_s``: its share of the processor seconds of its batch; pixels None where a picture was not drawn
    because it was known.
    """

    ids: tuple[int, ...]
    right: bool
    steps: int
    calls: int
    attended: int
    token_s: float
    pixel_s: float | None = 0.0


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A batch of requests: what they finished with, the positions each attended, the processor seconds of all."""

    done: list[Finished]
    attended: Counter[int]
    seconds: float

    def outcomes(self, right: Sequence[bool], pixel_s: Sequence[float | None]) -> list[Outcome]:
        """Both halves of every item together."""
        return [
            Outcome(
                ids=d.output_ids,
                right=r,
                steps=d.usage.num_steps,
                calls=d.usage.num_calls,
                attended=self.attended[row],
                token_s=self.seconds / len(self.done),
                pixel_s=spent,
            )
            for row, (d, r, spent) in enumerate(zip(self.done, right, pixel_s, strict=True))
        ]


class Counting:
    """A denoiser that counts, row by row, the positions its steps attend to: prefix as thinned, and the open block."""

    def __init__(self, denoiser: CachedDenoiser) -> None:
        self._denoiser = denoiser
        self._kept: dict[BranchKey, int] = {}
        self.attended: Counter[int] = Counter()

    def step(self, batch: StepBatch) -> Tensor:
        for b in batch.branches:
            if b.pending_ids.numel():
                self._kept.pop(b.key, None)
            self.attended[b.key.row] += self._kept.get(b.key, b.start) + b.pending_ids.numel() + b.active_ids.numel()
        return self._denoiser.step(batch)

    def prune(self, key: BranchKey, keep: Tensor) -> None:
        self._kept[key] = int(keep.shape[-1])
        self._denoiser.prune(key, keep)

    def prefill(self, prefixes: Sequence[Prefix]) -> int:
        return self._denoiser.prefill(prefixes)

    def commit(self, batch: StepBatch) -> int:
        return self._denoiser.commit(batch)

    def release(self, keys: Sequence[BranchKey]) -> None:
        self._denoiser.release(keys)

    def key_norms(self, key: BranchKey) -> Tensor:
        return self._denoiser.key_norms(key)

    def confidence(self, key: BranchKey) -> Tensor:
        return self._denoiser.confidence(key)

    def is_image(self, key: BranchKey) -> Tensor:
        return self._denoiser.is_image(key)


def sample(model: LladaUni, requests: Sequence[Request]) -> Sampled:
    """Run the block sampler."""
    began = time.process_time()
    denoiser, done = Counting(CachedDenoiser(model.networks.backbone)), dict[int, Finished]()
    for event in generate(requests, denoiser, granularity="block"):
        if isinstance(event, Finished):
            done[event.row] = event
    seconds = time.process_time() - began
    return Sampled(done=[done[row] for row in range(len(requests))], attended=denoiser.attended, seconds=seconds)


def agreement(first: Sequence[Outcome], second: Sequence[Outcome]) -> float:
    """Share of output positions at which both wrote the same id."""
    same = total = 0
    for a, b in zip(first, second, strict=True):
        same += sum(x == y for x, y in zip(a.ids, b.ids, strict=False))
        total += max(len(a.ids), len(b.ids))
    return same / max(total, 1)


def summary(found: Sequence[Outcome], exact: Sequence[Outcome]) -> dict[str, Any]:
    """One line of the table, compared with the exact path item by item."""
    count, rated = len(found), CategoryScore(correct=sum(o.right for o in found), total=len(found))
    attended, steps = sum(o.attended for o in found), sum(o.steps for o in found)
    calls, seconds = sum(o.calls for o in found), sum(o.token_s for o in found)
    pixels = sum(o.pixel_s or 0.0 for o in found)
    return {
        "rate": rated.rate,
        "interval": list(rated.interval),
        "minus_exact": paired_difference([o.right for o in exact], [o.right for o in found]),
        "ids_agreement": agreement(exact, found),
        "identical_outputs": sum(a.ids == b.ids for a, b in zip(exact, found, strict=True)) / count,
        "steps_per_item": steps / count,
        "backbone_calls_per_item": calls / count,
        "positions_attended_per_item": attended / count,
        "times_fewer_steps": sum(o.steps for o in exact) / steps,
        "times_fewer_calls": sum(o.calls for o in exact) / calls,
        "times_fewer_positions": sum(o.attended for o in exact) / attended,
        "times_fewer_token_s": sum(o.token_s for o in exact) / max(seconds, 1e-9),
        "token_cpu_s_per_item": seconds / count,
        "cpu_s_per_item": (seconds + pixels) / count,
    }


def together(parts: Sequence[dict[str, list[Outcome]]]) -> dict[str, Any]:
    """All items of all parts as one set: the exact path, and every setting compared with it."""
    joined = {name: [one for part in parts for one in part[name]] for name in parts[0]}
    lines = [{"name": name} | summary(found, joined["exact"]) for name, found in joined.items()]
    return {"items": len(joined["exact"]), "exact": lines[0], "settings": lines[1:]}
