"""A checkpoint directory of tiny networks from which every stage can start."""

from __future__ import annotations

import pytest
import torch
from tiny_stages import AUTOENCODER, DECODER, NUM_CODES, TOKENIZER

from llada_uni.decoder.config import SemanticEmbedderConfig
from llada_uni.decoder.dit import Decoder
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE
from llada_uni.image_tokenizer.config import PreprocessorConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.testing.checkpoint import tiny_text_tokenizer
from llada_uni.training.objective import Resources
from llada_uni.weights.save import (
    save_decoder,
    save_image_tokenizer,
    save_semantic_embedder,
    save_text_tokenizer,
    save_vae,
)


@pytest.fixture(scope="session")
def tiny_resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    """A checkpoint directory with every component the stages start from, and an empty cache."""
    out = tmp_path_factory.mktemp("out")
    torch.manual_seed(0)
    save_text_tokenizer(out, tiny_text_tokenizer())
    save_image_tokenizer(out, ImageTokenizer(TOKENIZER), PreprocessorConfig(patch_size=8))
    save_vae(out, VAE(AUTOENCODER))
    save_semantic_embedder(out, SemanticEmbedder(SemanticEmbedderConfig(num_codes=NUM_CODES, width=8)))
    save_decoder(out, Decoder(DECODER), "normal")
    return Resources(out=out, cache=tmp_path_factory.mktemp("cache"))
