"""A complete checkpoint directory of random networks, small enough to be written and read in a second."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, PreprocessorConfig, VisionConfig, VQConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.prompts import SYSTEM_PROMPTS, UNCONDITION
from llada_uni.testing.tiny import tiny_backbone
from llada_uni.vocab import CONTROL_STRINGS, TextTokenizer
from llada_uni.weights.catalog import PackageConfig, Presets
from llada_uni.weights.save import Components, save_checkpoint

ModuleT = TypeVar("ModuleT", bound=nn.Module)

__all__ = ["TINY_GRIDS", "tiny_components", "tiny_text_tokenizer", "write_tiny_checkpoint"]

TINY_GRIDS = ((4, 4), (4, 6), (6, 4))
_NUM_CODES = 24
_NUM_TEXT = 320
_PATCH = 4
_WIDTH = 16
_LINES = (
    *SYSTEM_PROMPTS,
    UNCONDITION,
    "SYSTEM HUMAN ASSISTANT",
    "two red apples left of a house",
    "how many stars are there?",
    "what colour is the small boat on the right?",
)


def write_tiny_checkpoint(directory: Path | str, seed: int = 0) -> Path:
    """Write a checkpoint in the released layout with every component, float32; returns ``directory``.

    One cell is 4 tokenizer pixels, 8 output pixels and 2 x 2 decoder tokens; the trained grids are ``TINY_GRIDS``
    (32x32, 48x32 and 32x48 output pixels, width x height). The same seed writes the same numbers.
    """
    return save_checkpoint(directory, tiny_components(seed), dtype=None)


def tiny_components(seed: int = 0) -> Components:
    """The parts of :func:`write_tiny_checkpoint` as modules."""
    tokenizer = tiny_text_tokenizer()
    vocab = tokenizer.vocab(text_vocab_size=tokenizer.num_ids, num_codes=_NUM_CODES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Components(
            backbone=tiny_backbone(seed, vocab=vocab),
            image_tokenizer=_frozen(ImageTokenizer(_image_tokenizer_config())),
            preprocessor=PreprocessorConfig(patch_size=_PATCH),
            semantic_embedder=_frozen(SemanticEmbedder(SemanticEmbedderConfig(num_codes=_NUM_CODES, width=_WIDTH))),
            decoder=_frozen(Decoder(_decoder_config())),
            decoder_turbo=_frozen(Decoder(_decoder_config())),
            vae=_frozen(VAE(_vae_config())),
            text_tokenizer=tokenizer,
            package=_package(),
        )


def tiny_text_tokenizer() -> TextTokenizer:
    """Byte-level BPE of about 320 entries from a few lines, followed by the control strings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_NUM_TEXT, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL_STRINGS])
    return TextTokenizer(tokenizer.to_str(), source="the tiny tokenizer")


def _image_tokenizer_config() -> ImageTokenizerConfig:
    vision = VisionConfig(hidden_size=16, intermediate_size=32, depth=2, num_heads=2, patch_size=_PATCH, image_size=16)
    return ImageTokenizerConfig(
        vision_config=vision, vq_config=VQConfig(num_embeddings=_NUM_CODES, embed_dim=8, latent_channels=16)
    )


def _decoder_config() -> DecoderConfig:
    return DecoderConfig(
        in_channels=4,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        axes_dims=(4, 4, 4),
        cap_feat_dim=_WIDTH,
        condition_positions="grid",
        time_hidden_dim=32,
    )


def _vae_config() -> VAEConfig:
    return VAEConfig(
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.0,
        shift_factor=0.0,
        mid_block_add_attention=False,
    )


def _package() -> PackageConfig:
    presets = Presets(
        decoder="turbo",
        block_length=16,
        steps_per_block=4,
        text_steps_per_block=4,
        guidance_scale=2.0,
        num_steps=6,
        turbo_steps=3,
        max_new_tokens=24,
    )
    return PackageConfig(trained_grids=TINY_GRIDS, presets=presets, notes="random numbers for tests")


def _frozen(module: ModuleT) -> ModuleT:
    return module.requires_grad_(False).eval()
