"""Codes -> pixels: the semantic embedder, the flow-matching transformer and the autoencoder."""

from llada_uni.decoder.blocks import FinalLayer
from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
from llada_uni.decoder.dit import Decoder, TokenBatch, TrunkOutput
from llada_uni.decoder.semantic import SemanticEmbedder
from llada_uni.decoder.vae import VAE

__all__ = [
    "VAE",
    "Decoder",
    "DecoderConfig",
    "FinalLayer",
    "SemanticEmbedder",
    "SemanticEmbedderConfig",
    "TokenBatch",
    "TrunkOutput",
    "VAEConfig",
]
