"""Reading and checking the backbone configuration."""

from __future__ import annotations

import json

import pytest
import torch
from golden_backbone import tiny_config
from hypothesis import given
from hypothesis import strategies as st

from llada_uni.backbone import BackboneConfig
from llada_uni.errors import ConfigError

RELEASED = {
    "architectures": ["LLaDA2MoeModelLM"],
    "auto_map": {"AutoConfig": "configuration_llada2uni_moe.LLaDA2MoeConfig"},
    "model_type": "llada2_moe",
    "vocab_size": 173568,
    "image_token_offset": 157184,
    "hidden_size": 2048,
    "num_hidden_layers": 20,
    "rope_parameters": {"rope_theta": 600000, "partial_rotary_factor": 0.5, "rope_type": "default"},
    "partial_rotary_factor": 0.5,
    "rope_theta": 600000,
    "rope_scaling": None,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": False,
    "use_fp8_experts": True,
    "rotary_dim": 64,
}


def test_released_file_equals_the_defaults():
    assert BackboneConfig.from_mapping(RELEASED, foreign=True) == BackboneConfig()
    assert BackboneConfig().rotary_dim == 64
    assert BackboneConfig().num_moe_layers == 19


def test_round_trip_through_json():
    config = tiny_config(partial_rotary_factor=0.25)
    text = json.dumps(config.to_mapping())
    assert BackboneConfig.from_mapping(json.loads(text)) == config
    assert BackboneConfig.from_mapping(json.loads(text), foreign=True) == config


def test_rotary_embedding_from_every_place():
    sizes = {"head_dim": 16, "partial_rotary_factor": 0.25, "rope_theta": 1e4}
    places = (
        sizes,
        {"head_dim": 16, "rotary_dim": 4, "rope_theta": 10000},
        {"head_dim": 16, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25, "type": "default"}},
    )
    assert len({BackboneConfig.from_mapping(p) for p in places}) == 1


@pytest.mark.parametrize(
    "contradiction",
    [
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e4}},
        {"partial_rotary_factor": 0.5, "rotary_dim": 32},
        {"rope_scaling": {"type": "yarn", "factor": 4}},
        {"rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]}},
        {"sliding_window": 4096},
        {"hiden_size": 64},
    ],
    ids=lambda c: next(iter(c)),
)
def test_contradictions_are_errors_also_in_foreign_files(contradiction):
    with pytest.raises(ConfigError):
        BackboneConfig.from_mapping(contradiction, foreign=True)


def test_unknown_keys():
    with pytest.warns(UserWarning, match="brand_new"):
        BackboneConfig.from_mapping({"brand_new": 1}, foreign=True)
    with pytest.raises(ConfigError, match="brand_new"):
        BackboneConfig.from_mapping({"brand_new": 1})


def test_absent_image_offset_follows_the_vocabulary():
    assert BackboneConfig.from_mapping({"vocab_size": 157184}).image_token_offset is None
    assert BackboneConfig.from_mapping({"vocab_size": 173568}).image_token_offset == 157184


def test_null_head_dim_is_derived():
    sizes = {"head_dim": None, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
    assert BackboneConfig.from_mapping(sizes).head_dim == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads 4"),
        ({"n_group": 3}, "num_experts 8"),
        ({"n_group": 8, "topk_group": 4}, "8 groups"),
        ({"topk_group": 5}, "topk_group"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok must be 1..4"),
        ({"partial_rotary_factor": 0.4}, "partial_rotary_factor 0.4"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor 1.5"),
        ({"pad_token_id": 40}, "pad_token_id"),
        ({"image_token_offset": 40}, "image_token_offset"),
        ({"score_function": "softmax"}, "score_function"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_shared_experts": -1}, "num_shared_experts"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_inconsistent_sizes_are_named(change, named):
    with pytest.raises(ConfigError, match=named):
        tiny_config(**change)


def test_dense_models_need_no_consistent_experts():
    assert tiny_config(first_k_dense_replace=3, num_experts=7).num_moe_layers == 0


@given(
    st.integers(1, 64), st.integers(1, 16), st.integers(1, 16), st.integers(1, 64), st.integers(1, 8), st.integers(1, 8)
)
def test_sizes_are_accepted_exactly_when_every_token_can_be_routed(experts, groups, top_groups, top_k, heads, kv):
    fits = (
        experts % groups == 0
        and top_groups <= groups
        and (groups == 1 or experts // groups >= 2)
        and top_k <= experts // groups * top_groups
        and heads % kv == 0
    )
    sizes = {
        "num_experts": experts,
        "n_group": groups,
        "topk_group": top_groups,
        "num_experts_per_tok": top_k,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
    }
    if fits:
        tiny_config(**sizes)
    else:
        with pytest.raises(ConfigError):
            tiny_config(**sizes)


def test_aligned_pictures_need_the_id_that_starts_them():
    with pytest.raises(ConfigError, match="picture_alignment 8 needs picture_start_id"):
        tiny_config(picture_alignment=8)
    with pytest.raises(ConfigError, match="picture_alignment must not be negative, got -1"):
        tiny_config(picture_alignment=-1)
    assert tiny_config(picture_alignment=8, picture_start_id=3).positions(torch.tensor([1, 3, 9])).tolist() == [0, 7, 8]
