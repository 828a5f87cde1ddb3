"""The diffusion transformer against recorded outputs of the released code and its own laws."""

from __future__ import annotations

import dataclasses

import decoder_helpers
import pytest
import torch
from decoder_helpers import random_decoder

from golden_fixtures import assert_close, load_case
from llada_uni.config import to_mapping
from llada_uni.decoder import Decoder, DecoderConfig, FinalLayer
from llada_uni.decoder.dit import patch_tokens
from llada_uni.decoder.positions import PlaceTables, condition_positions, image_positions, rotation
from llada_uni.errors import ConfigError, SizeError

CPU = torch.device("cpu")
TINY = dataclasses.replace(decoder_helpers.TINY, n_layers=2)
GRID = dataclasses.replace(TINY, condition_positions="grid")
PLACED = dataclasses.replace(GRID, absolute_positions=12)


def golden_decoder() -> tuple[Decoder, dict, dict]:
    tensors, meta = load_case("dit_a")
    model = Decoder(DecoderConfig.from_mapping(meta["config"], source="fixture", foreign=True))
    weights = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if k.startswith("weights.")}
    model.load_state_dict(weights, strict=True)
    return model, tensors, meta


def scenario(tensors: dict, name: str) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    count = sum(key.startswith(f"in.{name}.x") for key in tensors)
    latents = [tensors[f"in.{name}.x{i}"][:, 0] for i in range(count)]
    return latents, tensors[f"in.{name}.t"], [tensors[f"in.{name}.cond{i}"] for i in range(count)]


@pytest.mark.parametrize("name", ["one", "exact32"])
def test_velocity_matches_released_code(name):
    model, tensors, meta = golden_decoder()
    (latent,), time, (condition,) = scenario(tensors, name)
    velocity = model(latent[None], time, condition[None])
    assert_close(velocity[0], tensors[f"out.{name}.v0"][:, 0], meta["tolerance"])


@pytest.mark.parametrize("name", ["one", "exact32", "two"])
def test_velocities_of_mixed_sizes_match_released_code(name):
    model, tensors, meta = golden_decoder()
    for index, velocity in enumerate(model.forward_list(*scenario(tensors, name))):
        assert_close(velocity, tensors[f"out.{name}.v{index}"][:, 0], meta["tolerance"])


@pytest.mark.parametrize("name", ["one", "exact32", "two"])
def test_patches_positions_and_time_embedding_match_released_code(name):
    model, tensors, meta = golden_decoder()
    latents, time, conditions = scenario(tensors, name)
    assert_close(model.t_embedder(time), tensors[f"out.{name}.adaln"], meta["tolerance"])
    for i, (latent, condition) in enumerate(zip(latents, conditions, strict=True)):
        assert_close(patch_tokens(latent[None], 2)[0], tensors[f"out.{name}.patch_tokens{i}"], meta["tolerance"])
        placed = condition_positions(len(condition), "sequence", None, CPU)
        grid = (latent.shape[1] // 2, latent.shape[2] // 2)
        assert torch.equal(placed.int(), tensors[f"out.{name}.cond_pos_ids{i}"])
        image = image_positions(grid, "sequence", len(placed), CPU)
        assert torch.equal(image.int(), tensors[f"out.{name}.image_pos_ids{i}"])


def test_grid_layout_gives_condition_and_image_the_same_rows_and_columns():
    condition = condition_positions(40, "grid", (5, 8), CPU)
    image = image_positions((5, 8), "grid", 64, CPU)
    assert torch.equal(condition[:40, 1:], image[:40, 1:])
    assert condition[:40, 0].unique().tolist() == [1]
    assert image[:40, 0].unique().tolist() == [2]
    assert condition.shape == image.shape == (64, 3)
    assert not condition[40:].any()
    assert not image[40:].any()


def test_rotation_concatenates_the_axes():
    cos, sin = rotation(torch.tensor([[[3, 5, 7]]]), (4, 2, 2), 100.0, torch.float64)
    expected = torch.tensor([3.0, 3.0 / 10.0, 5.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(cos[0, 0, 0], expected.cos())
    torch.testing.assert_close(sin[0, 0, 0], expected.sin())


@pytest.mark.parametrize("config", [TINY, GRID, PLACED], ids=["sequence", "grid", "places"])
def test_items_of_a_mixed_batch_equal_the_same_items_alone(config):
    model = random_decoder(config)
    shapes = [(4, 6), (12, 8), (2, 16)]  # latent cells, two per token and side
    latents = [torch.randn(4, *shape, dtype=torch.float64) for shape in shapes]
    conditions = [torch.randn(h * w // 4, 6, dtype=torch.float64) for h, w in shapes]
    time = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    together = model.forward_list(latents, time, conditions)
    for i, velocity in enumerate(together):
        alone = model(latents[i][None], time[i : i + 1], conditions[i][None])[0]
        torch.testing.assert_close(velocity, alone, atol=1e-9, rtol=0)


def test_items_of_an_equal_batch_equal_the_same_items_alone():
    model = random_decoder(GRID)
    latents, conditions = torch.randn(3, 4, 6, 8).double(), torch.randn(3, 12, 6).double()
    time = torch.rand(3).double()
    together = model(latents, time, conditions)
    alone = torch.cat([model(latents[i : i + 1], time[i : i + 1], conditions[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("config", [TINY, GRID, PLACED], ids=["sequence", "grid", "places"])
def test_context_computed_once_gives_the_same_velocity(config):
    model = random_decoder(config)
    latents, conditions = torch.randn(2, 4, 6, 8).double(), torch.randn(2, 12, 6).double()
    context = model.context(conditions, (3, 4))
    for moment in (0.0, 0.5, 1.0):
        time = torch.full((2,), moment, dtype=torch.float64)
        assert torch.equal(model(latents, time, context), model(latents, time, conditions))


def test_head_of_the_trunk_is_the_forward():
    model = random_decoder(TINY)
    latents, time, conditions = torch.randn(1, 4, 4, 6).double(), torch.rand(1).double(), torch.randn(1, 5, 6).double()
    output = model.trunk(latents, time, conditions)
    assert output.grid == (2, 3)
    assert output.tokens.shape == (1, 6, 24)
    assert torch.equal(model.head(output), model(latents, time, conditions))
    auxiliary = FinalLayer(TINY).double()
    auxiliary.load_state_dict(model.final_layer.state_dict())
    assert torch.equal(auxiliary(output.tokens, output.modulation, output.grid), model.head(output))


def test_skipping_unused_rows_of_the_last_layer_changes_nothing():
    block = random_decoder(TINY).layers[-1]
    x, modulation = torch.randn(2, 9, 24).double(), torch.randn(2, 24).double()
    angles = torch.randn(1, 1, 9, 6).double()
    turn = (angles.cos(), angles.sin())
    torch.testing.assert_close(block(x, modulation, turn, num_queries=4), block(x, modulation, turn)[:, :4])


def test_every_parameter_gets_a_gradient():
    model = random_decoder(TINY).requires_grad_(True)
    latents, time, conditions = torch.randn(1, 4, 4, 6).double(), torch.rand(1).double(), torch.randn(1, 5, 6).double()
    model(latents, time, conditions).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_place_tables_add_the_row_and_the_column():
    tables = PlaceTables(6, 2)
    with torch.no_grad():
        tables.rows.copy_(torch.arange(12.0).view(6, 2))
        tables.columns.copy_(100 * torch.arange(12.0).view(6, 2))
    whole = tables((6, 6)).view(6, 6, 2)
    assert whole[2, 3].tolist() == [4 + 600, 5 + 700]
    crops = tables((2, 3), torch.tensor([[0, 0], [4, 1]])).view(2, 2, 3, 2)
    assert torch.equal(crops[0], whole[:2, :3])
    assert torch.equal(crops[1], whole[4:, 1:4])


def test_places_are_refused_beyond_the_tables():
    tables = PlaceTables(6, 2)
    assert tables((6, 1)).shape == (1, 6, 2)
    for grid, origin in (((7, 1), None), ((2, 3), [[0, 0], [5, 0]]), ((2, 3), [[0, 4]]), ((2, 3), [[-1, 0]])):
        with pytest.raises(SizeError, match="6 x 6 places"):
            tables(grid, None if origin is None else torch.tensor(origin))


def test_origin_of_a_crop_reaches_condition_and_image():
    model = random_decoder(PLACED)
    latents, time, features = torch.randn(2, 4, 4, 6).double(), torch.rand(2).double(), torch.randn(2, 6, 6).double()
    origin = torch.tensor([[0, 0], [3, 5]])
    velocity = model(latents, time, features, origin=origin)
    torch.testing.assert_close(velocity[:1], model(latents[:1], time[:1], features[:1]))
    assert not torch.allclose(velocity[1:], model(latents[1:], time[1:], features[1:]))
    context = model.context(features, (2, 3), origin=origin)
    assert torch.equal(model(latents, time, context, origin=origin), velocity)


def test_fresh_place_tables_change_nothing():
    plain, placed = Decoder(GRID), Decoder(PLACED)
    assert set(placed.state_dict()) - set(plain.state_dict()) == {"places.rows", "places.columns"}
    for model in (plain, placed):
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if not name.startswith("places"):
                torch.nn.init.normal_(parameter, std=0.2)
    arguments = torch.randn(1, 4, 4, 6), torch.rand(1), torch.randn(1, 6, 6)
    assert torch.equal(plain(*arguments), placed(*arguments))


def test_a_fresh_decoder_predicts_zero():
    velocity = Decoder(TINY)(torch.randn(1, 4, 4, 4), torch.rand(1), torch.randn(1, 4, 6))
    assert velocity.shape == (1, 4, 4, 4)
    assert not velocity.any()


def test_velocity_keeps_the_dtype_of_the_latents():
    model = random_decoder(TINY, torch.bfloat16)
    velocity = model(torch.randn(1, 4, 4, 6), torch.rand(1), torch.randn(1, 5, 6))
    assert velocity.dtype == torch.float32
    assert velocity.isfinite().all()


def test_released_shape_has_the_released_tensors():
    with torch.device("meta"):
        model = Decoder(DecoderConfig())
    state = model.state_dict()
    assert len(state) == 521
    assert sum(t.numel() for t in state.values()) == 6_160_808_512
    assert tuple(state["layers.29.feed_forward.w1.weight"].shape) == (10240, 3840)
    assert tuple(state["all_final_layer.2-1.adaLN_modulation.1.weight"].shape) == (3840, 256)
    assert tuple(state["t_embedder.mlp.0.weight"].shape) == (1024, 256)


@pytest.mark.parametrize("shape", [(5, 4), (4, 0), (4, 34)])
def test_impossible_latent_sizes_are_refused(shape):
    with pytest.raises(SizeError):
        random_decoder(TINY)(torch.zeros(1, 4, *shape), torch.zeros(1), torch.zeros(1, 4, 6))


def test_impossible_conditions_are_refused():
    with pytest.raises(SizeError, match="exceed"):
        random_decoder(TINY)(torch.zeros(1, 4, 4, 4), torch.zeros(1), torch.zeros(1, 200, 6))
    with pytest.raises(SizeError, match="one condition token per image token: got 5"):
        random_decoder(GRID)(torch.zeros(1, 4, 4, 4), torch.zeros(1), torch.zeros(1, 5, 6))
    with pytest.raises(SizeError, match="2 latents"):
        random_decoder(TINY)(torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.zeros(1, 5, 6))


def test_context_of_a_grid_decoder_needs_the_grid():
    with pytest.raises(SizeError, match="grid None"):
        random_decoder(GRID).context(torch.zeros(1, 4, 6))


@pytest.mark.parametrize(
    "bad",
    [
        {"axes_dims": [4, 4, 2]},
        {"all_patch_size": [2, 4]},
        {"condition_positions": "line"},
        {"absolute_positions": 4},
    ],
)
def test_inconsistent_config_is_refused(bad):
    with pytest.raises(ConfigError):
        DecoderConfig.from_mapping(to_mapping(TINY) | bad, source="config.json")


def test_config_round_trips():
    assert DecoderConfig.from_mapping(to_mapping(GRID), source="config.json") == GRID
