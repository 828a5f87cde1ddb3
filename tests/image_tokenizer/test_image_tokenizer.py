"""The image tokenizer against recorded outputs of the released code and its own laws."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from golden_fixtures import assert_close, load_case
from llada_uni.errors import ConfigError, ImageError
from llada_uni.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, VisionConfig, VQConfig

CASES = ["vision_a", "vision_b_patch16"]
TINY = ImageTokenizerConfig(
    vision_config=VisionConfig(hidden_size=24, intermediate_size=32, depth=2, num_heads=3, patch_size=4, image_size=16),
    vq_config=VQConfig(num_embeddings=11, embed_dim=6, latent_channels=24),
)


def grid(height: int, width: int) -> SimpleNamespace:
    return SimpleNamespace(grid_h=height, grid_w=width)


def golden_tokenizer(name: str) -> tuple[ImageTokenizer, dict, dict]:
    tensors, meta = load_case(name)
    config = ImageTokenizerConfig.from_mapping(meta["config"]["image_tokenizer_config"], source="fixture", foreign=True)
    model = ImageTokenizer(config)
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    model.load_state_dict(weights, strict=True)
    return model, tensors, meta


def grids_of(tensors: dict) -> list[SimpleNamespace]:
    return [grid(h, w) for _, h, w in tensors["in.grid_thw"].tolist()]


@pytest.fixture
def tiny() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(TINY).double()


def patches(*grids: SimpleNamespace, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    count = sum(g.grid_h * g.grid_w for g in grids)
    return torch.randn(count, 48, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CASES)
def test_features_and_latents_match_released_code(name):
    model, tensors, meta = golden_tokenizer(name)
    features = model.features(tensors["in.pixel_values"], grids_of(tensors))
    assert_close(features, tensors["out.features"], meta["tolerance"])
    assert_close(model.latents(features), tensors["out.vq_latent"], meta["tolerance"])


@pytest.mark.parametrize("name", CASES)
def test_codes_match_released_code(name):
    model, tensors, _ = golden_tokenizer(name)
    codes = model(tensors["in.pixel_values"], grids_of(tensors))
    assert codes.dtype == torch.int64
    assert torch.equal(codes, tensors["out.token_ids"])


@pytest.mark.parametrize("name", CASES)
def test_embedding_stages_match_released_code(name):
    model, tensors, meta = golden_tokenizer(name)
    embedded = model.vision.patch_embed(tensors["in.pixel_values"])
    assert_close(embedded, tensors["out.stage.patch_embed"], meta["tolerance"])
    placed = embedded + model.vision.embeddings(grids_of(tensors))
    assert_close(placed, tensors["out.stage.after_position"], meta["tolerance"])


def test_an_image_does_not_see_its_neighbours(tiny):
    grids = [grid(2, 3), grid(4, 4), grid(3, 2), grid(1, 5)]
    x = patches(*grids)
    packed = tiny.features(x, grids)
    parts = x.split([g.grid_h * g.grid_w for g in grids])
    alone = torch.cat([tiny.features(p, [g]) for p, g in zip(parts, grids, strict=True)])
    torch.testing.assert_close(packed, alone, atol=1e-12, rtol=0)


def test_equal_lengths_take_the_batched_path_with_the_same_result(tiny):
    grids = [grid(2, 3), grid(3, 2), grid(1, 6)]
    x = patches(*grids)
    alone = torch.cat([tiny.features(p, [g]) for p, g in zip(x.split(6), grids, strict=True)])
    torch.testing.assert_close(tiny.features(x, grids), alone, atol=1e-12, rtol=0)


def test_grid_shape_matters_not_only_its_length(tiny):
    x = patches(grid(2, 3))
    assert not torch.allclose(tiny.features(x, [grid(2, 3)]), tiny.features(x, [grid(3, 2)]))


def test_nearest_code_is_by_angle_first_on_ties(tiny):
    with torch.no_grad():
        tiny.codebook.copy_(torch.randn(11, 6, generator=torch.Generator().manual_seed(2)))
        tiny.codebook[7] = tiny.codebook[4] * 50.0
    assert tiny.quantise(tiny.codebook[[4, 7, 9]] * 0.001).tolist() == [4, 4, 9]


def test_search_in_parts_equals_search_at_once(tiny, monkeypatch):
    latents = torch.randn(50, 6, dtype=torch.float64)
    whole = tiny.quantise(latents)
    monkeypatch.setattr("llada_uni.image_tokenizer.quantizer._ROWS_PER_SEARCH", 7)
    assert torch.equal(tiny.quantise(latents), whole)


def test_bfloat16_weights_are_searched_in_float32(tiny):
    model = tiny.to(torch.bfloat16)
    latents = torch.randn(40, 6).bfloat16()
    directions = torch.nn.functional.normalize(model.codebook.float(), dim=-1)
    queries = torch.nn.functional.normalize(latents.float(), dim=-1)
    assert torch.equal(model.quantise(latents), (queries @ directions.T).argmax(-1))
    codes = model(patches(grid(2, 2), dtype=torch.bfloat16), [grid(2, 2)])
    assert codes.shape == (4,)


def test_gradients_reach_every_parameter_but_the_codebook(tiny):
    x = patches(grid(2, 2), grid(3, 2))
    latents = tiny.latents(tiny.features(x, [grid(2, 2), grid(3, 2)]))
    tiny.quantizer.restore(latents).square().sum().backward()
    without = [name for name, p in tiny.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["model.vqmodel.quantize.embedding.weight"]


def test_state_dict_keys_are_the_released_ones():
    with torch.device("meta"):
        state = ImageTokenizer(ImageTokenizerConfig()).state_dict()
    assert len(state) == 488
    assert sum(t.numel() for t in state.values()) == 1_199_457_280
    assert tuple(state["model.visual.blocks.39.attn.qkv.weight"].shape) == (4608, 1536)
    assert tuple(state["model.vqmodel.post_quant_conv.weight"].shape) == (1536, 2048, 1, 1)


@pytest.mark.parametrize("shape", [(5, 48), (6, 47), (0, 48)])
def test_wrong_patch_shape_is_refused(tiny, shape):
    with pytest.raises(ImageError, match=r"\(6, 48\)"):
        tiny.features(torch.zeros(shape), [grid(2, 3)])


def test_no_pictures_are_refused(tiny):
    with pytest.raises(ImageError):
        tiny.features(torch.zeros(0, 48), [])


def test_flat_foreign_config_is_read():
    flat = {"hidden_size": 24, "num_heads": 3, "latent_channels": 24, "embed_dim": 6, "model_type": "x", "beta": 0.5}
    config = ImageTokenizerConfig.from_mapping(flat, source="config.json", foreign=True)
    assert config.vision_config.num_heads == 3
    assert config.vq_config.beta == 0.5


def test_own_config_round_trips_and_refuses_unknown_keys():
    from llada_uni.config import to_mapping

    assert ImageTokenizerConfig.from_mapping(to_mapping(TINY), source="config.json") == TINY
    with pytest.raises(ConfigError, match="did you mean 'vq_config'"):
        ImageTokenizerConfig.from_mapping({"vq_confg": {}}, source="config.json")


@pytest.mark.parametrize(
    "vision", [{"hidden_size": 25}, {"image_size": 17}, {"spatial_merge_size": 2}, {"hidden_act": "relu"}]
)
def test_inconsistent_vision_config_is_refused(vision):
    base = {"hidden_size": 24, "num_heads": 3, "patch_size": 4, "image_size": 16}
    with pytest.raises(ConfigError):
        ImageTokenizerConfig.from_mapping({"vision_config": base | vision}, source="config.json")


def test_widths_of_encoder_and_codebook_must_agree():
    with pytest.raises(ConfigError, match="latent_channels 8"):
        ImageTokenizerConfig(vision_config=TINY.vision_config, vq_config=VQConfig(latent_channels=8))
