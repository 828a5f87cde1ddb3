"""Peers from ``diffusers`` on our weights: its LLaDA2 pipeline for text, its Z-Image transformer for pixels."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from llada_uni.backbone.model import Backbone
from llada_uni.config import to_mapping
from llada_uni.decoder.config import DecoderConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.diffusion.masking import block_causal_allowed
from llada_uni.protocols import Request

__all__ = ["TextPeer", "fields_they_know", "pixel_peer", "velocity_of_theirs"]


def _library() -> Any:
    try:
        import diffusers
    except ImportError:
        raise SystemExit(
            "the peer needs diffusers: install llada-uni[dev], or leave it out with --against reference"
        ) from None
    return diffusers


class TextPeer:
    """``diffusers.LLaDA2Pipeline`` around our network, which it calls for the whole window in every step.

    The pipeline chooses and commits; the network is ours with its grouped experts, so the difference is the procedure.
    Only requests without guidance whose prompt and answer fill whole blocks: the pipeline hides what lies behind.
    """

    def __init__(self, backbone: Backbone) -> None:
        diffusers = _library()
        diffusers.utils.logging.set_verbosity_error()
        self._pipeline = diffusers.LLaDA2Pipeline(
            model=_Callable(backbone), scheduler=diffusers.BlockRefinementScheduler()
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self._device = backbone.lm_head.weight.device

    def __call__(self, request: Request) -> tuple[int, ...]:
        """The ids written after the prompt."""
        (prompt,), sampling = request.prompts, request.sampling
        assert sampling.steps_per_block <= request.num_tokens, "with fewer ids the pipeline takes fewer steps"
        assert (len(prompt) + request.num_tokens) % sampling.block_length == 0, "whole blocks only"
        self._pipeline.model.allowed = (request.allowed.start, request.allowed.stop)
        done = self._pipeline(
            input_ids=torch.tensor([prompt], device=self._device),
            gen_length=request.num_tokens,
            block_length=sampling.block_length,
            num_inference_steps=sampling.steps_per_block,
            sampling_method="greedy",
            threshold=sampling.confidence_threshold,
            editing_threshold=None,
            eos_early_stop=False,
            mask_token_id=request.mask_id,
            output_type="seq",
        )
        return tuple(done.sequences[0].tolist())


class _Callable(nn.Module):
    """Our network under the signature that the pipeline expects of a model."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.allowed = backbone, (0, backbone.config.vocab_size)

    @property
    def device(self) -> torch.device:
        return self.backbone.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.lm_head.weight.dtype

    def forward(self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        blocks = position_ids // 32
        logits = self.backbone(ids, position_ids, block_causal_allowed(blocks, blocks).unsqueeze(1))
        start, stop = self.allowed
        logits[..., :start] = logits[..., stop:] = -torch.inf
        return SimpleNamespace(logits=logits)


def fields_they_know(config: DecoderConfig) -> DecoderConfig:
    """``config`` without what is ours alone: the released positions, their tables and the time embedding."""
    lengths = DecoderConfig().axes_lens
    return replace(
        config, condition_positions="sequence", absolute_positions=0, time_hidden_dim=1024, axes_lens=lengths
    )


def pixel_peer(ours: Decoder) -> nn.Module:
    """``diffusers.ZImageTransformer2DModel`` with the weights of ``ours`` (not copies)."""
    diffusers = _library()
    own = ("condition_positions", "absolute_positions", "time_hidden_dim")
    fields = {name: value for name, value in to_mapping(ours.config).items() if name not in own}
    with torch.device("meta"):
        theirs = diffusers.ZImageTransformer2DModel(**fields, n_kv_heads=ours.config.n_heads)
    state = {name.replace("semantic_embedder.", "cap_embedder."): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True, assign=True)
    return theirs.eval().requires_grad_(False)


def velocity_of_theirs(theirs: nn.Module, latents: Tensor, time: Tensor, features: Tensor) -> Tensor:
    """Their prediction in our shapes [B, C, H, W]."""
    result = theirs([one[:, None] for one in latents], time, list(features), return_dict=False)[0]
    return torch.stack([one[:, 0] for one in result])
