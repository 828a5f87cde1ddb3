"""Few-step distillation: the decoder learns the average velocity to the end of the path.

Two heads on one trunk: v, the velocity, and u, the average velocity from the present time to 1. On a path with velocity
v the average satisfies u = v + (1 - time) du/dt, which is the target of u with du/dt taken by a central difference
along v and without gradient. The u head keeps the released parameter names; the v head is discarded.
Source: LLaDA2.0-Uni paper Eq. 8 with time reversed (0 = noise here); UCGM section 3.1 for the difference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llada_uni.decoder.blocks import FinalLayer
from llada_uni.decoder.dit import Decoder, TokenBatch
from llada_uni.diffusion.flow import (
    TimeLaw,
    central_difference,
    expand_time,
    interpolate,
    path_velocity,
    sample_time,
)
from llada_uni.diffusion.guidance import norm_limited
from llada_uni.diffusion.losses import flow_squared_error, pseudo_huber
from llada_uni.training.export import frozen, warm_start
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.decoder import Conditioned, FlowData, FlowDataConfig, Judge, Sampler, decoder_blocks
from llada_uni.weights.save import save_decoder

__all__ = ["TurboObjective", "TurboObjectiveConfig", "average_velocity_target"]


@dataclass(frozen=True, kw_only=True)
class TurboObjectiveConfig:
    """Distillation of the decoder found in the checkpoint directory.

    ``teacher_guidance`` is the share of the teacher's guidance direction added to the path's velocity (0 = no teacher);
    the guided velocity is never longer than the plain one.
    """

    data: FlowDataConfig
    time: TimeLaw = field(default_factory=lambda: TimeLaw(kind="beta", shift=1.0))
    epsilon: float = 0.005
    clip: float = 1.0
    huber_scale: float = 0.5
    teacher_guidance: float = 0.0
    eval_pictures: int = 24
    num_steps: int = 8
    warm: str | None = None

    def build(self, resources: Resources, seed: int) -> TurboObjective:
        """The trained decoder with a second head, and the frozen original as teacher."""
        tokenizer, vae = frozen(resources.out, "image_tokenizer"), frozen(resources.out, "vae")
        teacher = frozen(resources.out, "decoder")
        embedder = frozen(resources.out, "semantic_embedder")
        student = copy.deepcopy(teacher).requires_grad_(True)
        warm_start(student, self.warm, "decoder-turbo", resources)
        data = FlowData(self.data, resources, tokenizer, vae)
        return TurboObjective(
            self, _Model(student, embedder), teacher, data, Judge(tokenizer=tokenizer, vae=vae, held_out=data.held_out)
        )


class _Model(Conditioned):
    def __init__(self, decoder: Decoder, embedder: torch.nn.Module) -> None:
        super().__init__(decoder, embedder)  # type: ignore[arg-type]
        self.velocity_head: FinalLayer = copy.deepcopy(decoder.final_layer)


class TurboObjective:
    """Velocity and average velocity."""

    def __init__(
        self, config: TurboObjectiveConfig, model: _Model, teacher: Decoder, data: FlowData, judge: Judge
    ) -> None:
        self.config, self.model, self._teacher, self._data, self._judge = config, model, teacher, data, judge

    def batch(self, draw: Draw) -> Batch:
        """See :meth:`FlowData.batch`; every sample keeps its condition."""
        batch = self._data.batch(draw)
        return {**batch, "keep": torch.ones_like(batch["keep"])}

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the student."""
        return decoder_blocks(self.model.decoder)

    def weight(self, batch: Batch) -> float:
        """Number of latent numbers."""
        return float(batch["latents"].numel())

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Weighted robust errors of both heads."""
        data, decoder, config = batch["latents"], self.model.decoder, self.config
        noise = torch.randn(data.shape, generator=generator).to(data)
        time = sample_time(config.time, len(data), generator).to(data)
        state = interpolate(data, noise, time)
        tokens = 2 * batch["codes"].shape[1], 2 * batch["codes"].shape[2]
        context = decoder.context(self.model.features(batch), tokens, origin=batch["origin"])
        output = decoder.trunk(state, time, context, origin=batch["origin"])
        average = decoder.head(output)
        velocity = self.model.velocity_head(output.tokens, output.modulation, output.grid)
        aim = self._velocity_target(batch, state, time, path_velocity(data, noise))
        target = average_velocity_target(
            lambda x, t: decoder(x, t, _detached(context), origin=batch["origin"]),
            state, time, aim, epsilon=config.epsilon, clip=config.clip,
        )  # fmt: skip
        errors = {"v_error": flow_squared_error(velocity, aim), "u_error": flow_squared_error(average, target)}
        weight = torch.sin(math.pi / 2 * time)
        robust = sum(pseudo_huber(error, config.huber_scale) for error in errors.values())
        return (weight * robust).mean(), {name: error.detach().mean() for name, error in errors.items()}

    def _velocity_target(self, batch: Batch, state: Tensor, time: Tensor, velocity: Tensor) -> Tensor:
        if self.config.teacher_guidance == 0:
            return velocity
        self._teacher.to(state.device)
        with torch.no_grad():
            features, origin = self.model.features(batch), batch["origin"]
            with_condition = self._teacher(state, time, features, origin=origin)
            without = self._teacher(state, time, torch.zeros_like(features), origin=origin)
        return norm_limited(velocity, velocity - (with_condition - without), 1 + self.config.teacher_guidance)

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Nothing."""
        return {}

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """Pictures decoded from true codes in few steps, against their renders."""
        self.model.eval()
        return self._judge.score(self._sampler, seed, self.config.eval_pictures)

    def samples(self, seed: int, count: int) -> np.ndarray:
        """Renders above pictures decoded from their codes, uint8 [2, count, H, W, 3]."""
        self.model.eval()
        return self._judge.samples(self._sampler, seed, count)

    @property
    def _sampler(self) -> Sampler:
        return Sampler(model=self.model, num_steps=self.config.num_steps, shift=1.0, renoise_ratio=1.0)

    def export(self, directory: Path) -> None:
        """Writes ``decoder-turbo/``."""
        save_decoder(directory, self.model.decoder, "turbo")


@torch.no_grad()
def average_velocity_target(
    average: object, state: Tensor, time: Tensor, velocity: Tensor, *, epsilon: float, clip: float | None
) -> Tensor:
    """velocity + (1 - time) * d average / d time along ``velocity``: what the average velocity must equal, [B, ...]."""
    slope = central_difference(average, state, time, velocity, epsilon=epsilon, clip=clip)  # type: ignore[arg-type]
    return velocity + (1 - expand_time(time, state)) * slope


def _detached(context: TokenBatch) -> TokenBatch:
    return TokenBatch(tokens=context.tokens.detach(), positions=context.positions, lengths=context.lengths)
