"""Networks and vocabularies small enough for a test to build hundreds of them."""

from __future__ import annotations

import torch

from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.model import Backbone
from llada_uni.vocab import SpecialIds, Vocab

__all__ = ["tiny_backbone", "tiny_backbone_config", "tiny_vocab"]


def tiny_vocab(*, num_text: int = 16, num_codes: int = 24, max_side: int = 8) -> Vocab:
    """A vocabulary of ``num_text`` plain ids, the control ids with grid sides 1..max_side, and ``num_codes`` codes."""
    eos, mask, soi, eoi, boi, role_open, role_close = range(num_text, num_text + 7)
    first = num_text + 7
    special = SpecialIds(
        eos=eos,
        mask=mask,
        soi=soi,
        eoi=eoi,
        boi=boi,
        role_open=role_open,
        role_close=role_close,
        reserved={side: first + side - 1 for side in range(1, max_side + 1)},
    )
    return Vocab(text_vocab_size=first + max_side, num_codes=num_codes, special=special)


def tiny_backbone_config(
    vocab: Vocab | None = None, *, num_layers: int = 2, picture_alignment: int = 0
) -> BackboneConfig:
    """Width 16, two heads on one key/value head, a dense layer and then layers of four experts in two groups."""
    vocab = vocab or tiny_vocab()
    return BackboneConfig(
        vocab_size=vocab.vocab_size,
        image_token_offset=vocab.image_offset,
        hidden_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=8,
        rope_theta=10000.0,
        max_position_embeddings=512,
        pad_token_id=vocab.special.eos,
        picture_alignment=picture_alignment,
        picture_start_id=vocab.special.boi if picture_alignment else None,
    )


def tiny_backbone(
    seed: int = 0,
    *,
    vocab: Vocab | None = None,
    dtype: torch.dtype = torch.float32,
    scale: float = 0.5,
    picture_alignment: int = 0,
) -> Backbone:
    """A random backbone whose weights, biases and router biases are all away from their neutral values.

    Matrices are normal with standard deviation ``scale`` (large enough for confident, varied predictions), vectors
    1 + 0.2 normal, router biases 0.2 normal.
    """
    generator = torch.Generator().manual_seed(seed)
    model = (
        Backbone(tiny_backbone_config(vocab, picture_alignment=picture_alignment))
        .to(dtype)
        .eval()
        .requires_grad_(False)
    )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("bias"):
            tensor.copy_(0.2 * noise)
        else:
            tensor.copy_(1 + 0.2 * noise if tensor.ndim == 1 else scale * noise)
    return model
