"""The backbone's laws: cache, masks, backends, dtypes, initialisation and router counts."""

from __future__ import annotations

import pytest
import torch
from golden_backbone import block_causal, tiny_backbone, tiny_config
from torch.nn import functional as F

from llada_uni.backbone import Backbone, KeyValueCache


def _ids(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 40, (rows, length), generator=torch.Generator().manual_seed(seed))


def _positions(rows: int, length: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + length).expand(rows, length)


@torch.no_grad()
def test_cached_blocks_equal_recomputation_in_float64():
    model, length, block_length = tiny_backbone(dtype=torch.float64), 24, 4
    ids = _ids(2, length)
    whole = model(ids, _positions(2, length), block_causal(length, block_length))
    cache = KeyValueCache.empty(model.config, batch_size=2, dtype=torch.float64)
    for start in range(0, length, block_length):
        part = slice(start, start + block_length)
        hidden, new = model.hidden(ids[:, part], _positions(2, block_length, start), None, cache, return_kv=True)
        torch.testing.assert_close(model.logits(hidden), whole[:, part], atol=1e-12, rtol=1e-10)
        cache = cache.append(new)
    assert (cache.length, cache.batch_size) == (length, 2)
    assert cache.num_bytes == 2 * 3 * 2 * 2 * length * 8 * 8


@torch.no_grad()
def test_block_length_one_is_causal_and_full_is_no_mask():
    model, length = tiny_backbone(), 12
    ids, positions = _ids(2, length), _positions(2, length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    assert torch.equal(block_causal(length, 1), causal)
    torch.testing.assert_close(model(ids, positions, block_causal(length, length)), model(ids, positions))
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 40
    torch.testing.assert_close(model(ids, positions, causal)[:, :-1], model(changed, positions, causal)[:, :-1])


@torch.no_grad()
def test_rows_do_not_depend_on_their_batch():
    model = tiny_backbone(dtype=torch.float64)
    ids = _ids(3, 10)
    together = model(ids, _positions(3, 10))
    for row in range(3):
        torch.testing.assert_close(together[row], model(ids[row : row + 1], _positions(1, 10))[0])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("attention", "experts"), [("sdpa", "grouped"), ("tiled", "grouped"), ("auto", "loop")])
def test_fast_backends_equal_the_reference_forward_and_backward(attention, experts, masked):
    slow = tiny_backbone(attention="reference", experts="loop")
    fast = Backbone(slow.config, attention=attention, experts=experts)
    fast.load_state_dict(slow.state_dict())
    ids, length = _ids(2, 70), 70
    allowed = block_causal(length, 7) if masked else None
    results = []
    for model in (slow, fast):
        logits = model(ids, _positions(2, length), allowed)
        F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        results.append((logits, {k: p.grad for k, p in model.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-4, rtol=1e-4)
    for key, grad in results[0][1].items():
        torch.testing.assert_close(grad, results[1][1][key], atol=1e-5, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}")


def test_logit_mask_selects_logits_and_keeps_the_gradient():
    model, ids, positions = tiny_backbone(dtype=torch.float64), _ids(2, 12), _positions(2, 12)
    mask = torch.rand(2, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    grads = []
    for logits in (model(ids, positions)[mask], model(ids, positions, logit_mask=mask)):
        model.zero_grad()
        F.cross_entropy(logits, ids[mask]).backward()
        grads.append((logits, [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(grads[0], grads[1])


@torch.no_grad()
def test_logits_of_an_id_range():
    model = tiny_backbone()
    hidden = model.hidden(_ids(1, 5), _positions(1, 5))
    torch.testing.assert_close(model.logits(hidden, (24, 40)), model.logits(hidden)[..., 24:40])


@torch.no_grad()
def test_router_loads_count_marked_positions():
    model, ids = tiny_backbone(), _ids(2, 9)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, :4] = mask[1, 7] = True
    seen = []
    for router in model.routers():
        router.register_forward_hook(lambda _, __, out: seen.append(out.ids))
    plain = model(ids, _positions(2, 9))
    seen.clear()
    counted = model(ids, _positions(2, 9), collect_load=mask)
    assert torch.equal(plain, counted)
    expected = torch.stack([torch.bincount(i.view(2, 9, -1)[mask].flatten(), minlength=8) for i in seen])
    assert torch.equal(model.router_loads(), expected)
    assert model.router_loads().sum(1).tolist() == [10, 10]


@torch.no_grad()
def test_last_layer_counts_only_kept_positions():
    model, ids = tiny_backbone(), _ids(2, 9)
    everything, half = torch.ones(2, 9, dtype=torch.bool), (torch.arange(9) < 4).expand(2, 9)
    model(ids, _positions(2, 9), logit_mask=half, collect_load=everything)
    assert model.router_loads().sum(1).tolist() == [36, 16]


def test_construction_on_the_meta_device_and_assignment():
    model = tiny_backbone()
    with torch.device("meta"):
        empty = Backbone(model.config)
    assert all(t.is_meta for t in (*empty.parameters(), *empty.buffers()))
    empty.load_state_dict(model.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(empty(_ids(1, 6), _positions(1, 6)), model(_ids(1, 6), _positions(1, 6)))


def test_to_empty_keeps_the_bias_in_float32():
    with torch.device("meta"):
        model = Backbone(tiny_config()).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    assert {r.expert_bias.dtype for r in model.routers()} == {torch.float32}
    assert not any(r.expert_bias.is_meta for r in model.routers())


@torch.no_grad()
def test_bfloat16_runs_and_does_not_round_the_bias():
    model = tiny_backbone()
    expected, before = model(_ids(2, 8), _positions(2, 8)), [r.expert_bias.clone() for r in model.routers()]
    model.bfloat16()
    logits = model(_ids(2, 8), _positions(2, 8), block_causal(8, 4))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert all(torch.equal(a, r.expert_bias) for a, r in zip(before, model.routers(), strict=True))
    assert (model(_ids(2, 8), _positions(2, 8)) - expected).abs().mean() < 0.2 * expected.abs().mean()


def test_bfloat16_autocast_trains_float32_weights_and_leaves_the_router_alone():
    model = tiny_backbone()
    ids, positions = _ids(2, 70), _positions(2, 70)
    routings = []
    for router in model.routers():
        router.register_forward_hook(lambda _, __, out: routings.append(out))
    exact = model(ids, positions, block_causal(70, 7))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids, positions, block_causal(70, 7))
    assert all(r.logits.dtype == r.weights.dtype == torch.float32 for r in routings)
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    assert (logits - exact).abs().mean() < 0.2 * exact.abs().mean()


def test_reset_parameters_is_seeded_and_as_documented():
    config = tiny_config(use_bias=True)
    states = []
    for seed in (3, 3, 4):
        model = Backbone(config)
        model.reset_parameters(torch.Generator().manual_seed(seed))
        states.append(model.state_dict())
    first, same, other = states
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert first["model.word_embeddings.weight"].std() == pytest.approx(0.02, rel=0.1)
    for key, tensor in first.items():
        if key.endswith("norm.weight"):
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif key.endswith("bias"):
            assert not tensor.any()


def test_released_parameter_names():
    keys = set(Backbone(tiny_config(num_hidden_layers=2)).state_dict())
    layers = {f"model.layers.{i}.{name}" for i in range(2) for name in _LAYER}
    assert keys == layers | {f"model.layers.0.mlp.{p}_proj.weight" for p in ("gate", "up", "down")} | _MOE | _TOP


_LAYER = {
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "attention.query_key_value.weight",
    "attention.query_layernorm.weight",
    "attention.key_layernorm.weight",
    "attention.dense.weight",
}
_MOE = {f"model.layers.1.mlp.gate.{n}" for n in ("weight", "expert_bias")}
_MOE |= {f"model.layers.1.mlp.experts.{p}_proj" for p in ("gate", "up", "down")}
_MOE |= {f"model.layers.1.mlp.shared_experts.{p}_proj.weight" for p in ("gate", "up", "down")}
_TOP = {"model.word_embeddings.weight", "model.norm.weight", "lm_head.weight"}


def test_released_size_on_meta_is_16_3_billion():
    with torch.device("meta"):
        model = Backbone(tiny_config().__class__())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(16.32e9, rel=1e-3)


def test_variants_without_shared_experts_norms_bias_and_with_tied_embeddings():
    config = tiny_config(
        num_shared_experts=0, use_qk_norm=False, moe_router_enable_expert_bias=False, tie_word_embeddings=True
    )
    model = tiny_backbone(config=config)
    assert model.lm_head.weight is model.model.word_embeddings.weight
    assert not any("shared" in k or "query_layernorm" in k or "expert_bias" in k for k in model.state_dict())
    assert model(_ids(1, 5), _positions(1, 5)).isfinite().all()


@torch.no_grad()
def test_cache_selection():
    model = tiny_backbone()
    _, cache = model.hidden(_ids(2, 6), _positions(2, 6), return_kv=True)
    assert torch.equal(cache.truncate(4).keys[1], cache.keys[1][:, :, :4])
    shared = cache.select_positions(torch.tensor([5, 0]))
    assert torch.equal(shared.values[2], cache.values[2][:, :, [5, 0]])
    per_row = cache.select_positions(torch.tensor([[0, 2], [1, 3]]))
    assert torch.equal(per_row.keys[0][1], cache.keys[0][1][:, [1, 3]])
    rows = cache.select_rows(torch.tensor([1, 1, 0]))
    assert torch.equal(rows.keys[0][0], cache.keys[0][1])
    joined = KeyValueCache.concatenate_rows([cache, rows])
    assert (joined.batch_size, joined.length) == (5, 6)
    order = torch.randperm(6)
    permuted = cache.select_positions(order)
    query = (_ids(2, 3, seed=5), _positions(2, 3, 6), None)
    torch.testing.assert_close(model(*query, permuted), model(*query, cache), atol=1e-5, rtol=1e-5)
