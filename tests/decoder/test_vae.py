"""The autoencoder: recorded outputs, the diffusers oracle, and its own laws."""

from __future__ import annotations

import pytest
import torch

from golden_fixtures import assert_close, load_case
from llada_uni.config import to_mapping
from llada_uni.decoder import VAE, VAEConfig
from llada_uni.errors import ConfigError, SizeError

NANO = VAEConfig(
    block_out_channels=(8, 16, 16),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=4,
    mid_block_add_attention=False,
    scaling_factor=0.7,
    shift_factor=0.2,
)


def random_vae(config: VAEConfig) -> VAE:
    torch.manual_seed(4)
    model = VAE(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


def golden_vae() -> tuple[VAE, dict, dict]:
    tensors, meta = load_case("pipeline_a")
    model = VAE(VAEConfig.from_mapping(meta["config"]["vae_config"], source="fixture", foreign=True))
    prefix = "weights.vae.decoder."
    weights = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
    model.decoder.load_state_dict(weights, strict=True)
    return model, tensors, meta


@pytest.mark.parametrize("mode", ["normal", "turbo"])
def test_decoding_matches_recorded_pictures(mode):
    model, tensors, meta = golden_vae()
    with torch.no_grad():
        decoded = model.decode(model.from_model(tensors[f"out.{mode}.latents"].float()))
    assert_close(decoded[0], tensors[f"out.{mode}.vae_raw"], meta["tolerance"])


ORACLE_CONFIGS = {
    "flux style": {"mid_block_add_attention": True, "use_quant_conv": False, "use_post_quant_conv": False},
    "no attention": {"mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False},
    "quant convs": {"mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True},
}


@pytest.mark.parametrize("variant", ORACLE_CONFIGS)
@pytest.mark.parametrize("widths", [(8, 16), (8, 8, 16, 12)])
def test_encode_and_decode_equal_diffusers(variant, widths):
    diffusers = pytest.importorskip("diffusers")
    config = VAEConfig(
        block_out_channels=widths, layers_per_block=2, latent_channels=4, norm_num_groups=4, **ORACLE_CONFIGS[variant]
    )
    ours = random_vae(config).double()
    theirs = diffusers.AutoencoderKL(**to_mapping(config)).double().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(2, 3, 16, 24, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        mean, logvar = ours.encode(images)
        expected = theirs.encode(images).latent_dist
        torch.testing.assert_close(mean, expected.mean)
        torch.testing.assert_close(logvar, expected.logvar)
        torch.testing.assert_close(ours.decode(mean), theirs.decode(mean).sample)


def test_released_shape_has_the_released_tensors():
    with torch.device("meta"):
        state = VAE(VAEConfig()).state_dict()
    assert len(state) == 244
    assert sum(t.numel() for t in state.values()) == 83_819_683
    assert tuple(state["decoder.up_blocks.2.resnets.0.conv_shortcut.weight"].shape) == (256, 512, 1, 1)


def test_factor_follows_the_number_of_stages():
    model = random_vae(NANO)
    assert NANO.factor == 4
    mean, logvar = model.encode(torch.zeros(2, 3, 16, 24))
    assert mean.shape == logvar.shape == (2, 4, 4, 6)
    assert model.decode(mean).shape == (2, 3, 16, 24)


def test_model_latents_round_trip_in_the_released_order():
    model = VAE(NANO)
    raw = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(model.to_model(raw), (raw - 0.2) * 0.7)
    torch.testing.assert_close(model.from_model(model.to_model(raw)), raw)


def test_every_parameter_gets_a_gradient():
    model = random_vae(
        VAEConfig(
            block_out_channels=(8, 8), layers_per_block=1, latent_channels=2, norm_num_groups=4, use_quant_conv=True
        )
    )
    mean, logvar = model.encode(torch.randn(1, 3, 8, 8))
    (model.decode(mean).square().sum() + logvar.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_bfloat16_runs():
    model = random_vae(NANO).to(torch.bfloat16)
    assert model.decode(model.encode(torch.zeros(1, 3, 8, 8).bfloat16())[0]).dtype == torch.bfloat16


def test_sides_off_the_latent_grid_are_refused():
    with pytest.raises(SizeError, match=r"multiples of 4, got \(16, 18\)"):
        VAE(NANO).encode(torch.zeros(1, 3, 16, 18))


def test_block_types_are_filled_in_and_checked():
    assert NANO.down_block_types == ("DownEncoderBlock2D",) * 3
    assert VAEConfig.from_mapping(to_mapping(NANO), source="config.json") == NANO
    with pytest.raises(ConfigError, match="up_block_types: expected UpDecoderBlock2D x 3"):
        VAEConfig(block_out_channels=(8, 8, 8), norm_num_groups=4, up_block_types=("AttnUpDecoderBlock2D",) * 3)


def test_widths_must_fit_the_norm_groups():
    with pytest.raises(ConfigError, match="norm_num_groups 32"):
        VAEConfig(block_out_channels=(16, 32))
