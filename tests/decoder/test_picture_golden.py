"""Codes -> features -> velocity -> sampler -> autoencoder -> picture, against a recorded run of the released code."""

from __future__ import annotations

import pytest
import torch

from golden_fixtures import assert_close, load_case
from llada_uni.decoder import VAE, Decoder, DecoderConfig, SemanticEmbedder, SemanticEmbedderConfig, VAEConfig
from llada_uni.protocols import LatentsDone
from llada_uni.sampling import flow_sampler
from llada_uni.sampling.flow_sampler import FlowSettings, sample_latents

TENSORS, META = load_case("pipeline_a")
CONFIG = META["config"]
# The released code counts grid points in its Euler sampler and writes 1.0 for a guidance scale of 2.
SETTINGS = {
    "normal": FlowSettings(num_steps=CONFIG["normal"]["num_steps"] - 1, guidance_scale=2.0, time_shift=6.0),
    "turbo": FlowSettings(solver="renoise", num_steps=CONFIG["turbo"]["num_steps"], guidance_scale=1.0, time_shift=1.0),
}


def weights(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def embedder() -> SemanticEmbedder:
    config = SemanticEmbedderConfig(num_codes=CONFIG["sigvq"]["vocab_size"], width=CONFIG["sigvq"]["inner_dim"])
    model = SemanticEmbedder(config).requires_grad_(False)
    model.load_state_dict(weights(TENSORS, "weights.sigvq."), strict=True)
    return model


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    model = Decoder(DecoderConfig.from_mapping(CONFIG["dit_config"], source="fixture", foreign=True))
    model.load_state_dict(weights(load_case("dit_a")[0], "weights."), strict=True)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> VAE:
    model = VAE(VAEConfig.from_mapping(CONFIG["vae_config"], source="fixture", foreign=True))
    model.decoder.load_state_dict(weights(TENSORS, "weights.vae.decoder."), strict=True)
    return model.requires_grad_(False)


def recorded_noise(seeds, purpose: str, index: int, shape: tuple[int, int, int]) -> torch.Tensor:
    noise = TENSORS["in.z"] if purpose == "decoder_noise" else TENSORS["in.turbo.noise"][index]
    return noise[:, :, 0]


@pytest.mark.parametrize("mode", ["normal", "turbo"])
def test_codes_to_picture(mode, embedder, decoder, vae, monkeypatch):
    codes = TENSORS["in.token_ids"].view(1, *TENSORS["in.h_w"].tolist())
    features = embedder(codes)
    assert_close(features[0], TENSORS["out.features"], META["tolerance"])

    monkeypatch.setattr(flow_sampler, "_noise", recorded_noise)
    shape = tuple(TENSORS["in.z"][0, :, 0].shape)
    events = list(sample_latents(decoder, features, latent_shape=shape, seeds=[0], settings=SETTINGS[mode]))
    assert sum(not isinstance(event, LatentsDone) for event in events) == SETTINGS[mode].num_steps
    latents = events[-1].latents[None]
    assert_close(latents, TENSORS[f"out.{mode}.latents"].float(), META["tolerance"])

    raw = vae.decode(vae.from_model(latents))
    assert_close(raw[0], TENSORS[f"out.{mode}.vae_raw"], META["tolerance"])
    picture = ((raw[0] / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)
    difference = (picture.int() - TENSORS[f"out.{mode}.image_u8"].int()).abs()
    assert difference.max() <= META["tolerance"]["uint8_pixels"]
    assert (difference == 0).float().mean() >= META["tolerance"]["uint8_equal_fraction"]
