"""The backbone against numbers produced by the released code."""

from __future__ import annotations

import pytest
import torch
from golden_backbone import block_causal, golden_backbone
from torch.nn import functional as F

from golden_fixtures import assert_close
from llada_uni.backbone import KeyValueCache

CASES = ("backbone_a", "backbone_b")
BACKENDS = ({}, {"attention": "reference", "experts": "loop"})


@pytest.fixture(params=[(c, b) for c in CASES for b in range(len(BACKENDS))], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request):
    name, backend = request.param
    with torch.no_grad():
        yield golden_backbone(name, **BACKENDS[backend])


def _positions(ids: torch.Tensor, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + ids.shape[1]).expand_as(ids)


def test_full_attention_hidden_states_and_routing(case):
    model, t, meta = case
    hidden, routings = [], []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    for router in model.routers():
        router.register_forward_hook(lambda _, __, out: routings.append(out))
    ids = t["in.full.input_ids"]
    hidden.append(model.hidden(ids, _positions(ids)))
    assert_close(model.logits(hidden[-1]), t["out.full.logits"], meta["tolerance"])
    for i, state in enumerate(hidden):
        assert_close(state, t[f"out.full.hidden.{i}"], meta["tolerance"])
    first = model.config.first_k_dense_replace
    assert len(routings) == model.config.num_hidden_layers - first
    for i, routing in enumerate(routings, start=first):
        expected = {k: t[f"out.full.router.{i}.{k}"].flatten(0, 1) for k in ("ids", "weights", "logits")}
        assert torch.equal(routing.ids, expected["ids"])
        assert_close(routing.weights, expected["weights"], meta["tolerance"])
        assert_close(routing.logits, expected["logits"], meta["tolerance"])


def test_padded_batch(case):
    model, t, meta = case
    ids, lengths = t["in.varlen.input_ids"], t["in.varlen.lengths"]
    logits = model(ids, _positions(ids), t["in.varlen.allowed"].bool())
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    assert_close(logits * real.unsqueeze(-1), t["out.varlen.logits"], meta["tolerance"])
    for row, length in enumerate(lengths.tolist()):
        alone = model(ids[row : row + 1, :length], _positions(ids[:1, :length]))
        assert_close(alone[0], t["out.varlen.logits"][row, :length], meta["tolerance"])


def test_block_causal(case):
    model, t, meta = case
    ids = t["in.blockcausal.input_ids"]
    logits = model(ids, _positions(ids), t["in.blockcausal.allowed"].bool()[None, None])
    assert_close(logits, t["out.blockcausal.logits"], meta["tolerance"])


def test_training_layout(case):
    model, t, meta = case
    ids = torch.cat((t["in.bd.noisy_ids"], t["in.bd.clean_ids"]), 1)
    logits = model(ids, t["in.bd.position_ids"], t["in.bd.allowed"].bool()[None, None])
    assert_close(logits, t["out.bd.logits"], meta["tolerance"])


def test_cached_block_steps(case):
    model, t, meta = case
    prefix, block_length = t["in.kv.prefix_ids"], t["in.kv.commit_ids"].shape[1]
    start, tolerance = prefix.shape[1], meta["tolerance"]
    allowed = block_causal(start, block_length)
    hidden, cache = model.hidden(prefix, _positions(prefix), allowed, return_kv=True)
    assert_close(model.logits(hidden), t["out.kv.prefill_logits"], tolerance)
    frozen = [k.clone() for k in cache.keys]
    for step in ("step1", "step2"):
        ids = t[f"in.kv.{step}_ids"]
        assert_close(model(ids, _positions(ids, start), None, cache), t[f"out.kv.{step}_logits"], tolerance)
    assert all(torch.equal(a, b) for a, b in zip(frozen, cache.keys, strict=True))
    commit, following = t["in.kv.commit_ids"], t["in.kv.next_ids"]
    hidden, new = model.hidden(commit, _positions(commit, start), None, cache, return_kv=True)
    assert_close(model.logits(hidden), t["out.kv.commit_logits"], tolerance)
    grown = cache.append(new)
    assert (cache.length, grown.length) == (start, start + block_length)
    logits = model(following, _positions(following, grown.length), None, grown)
    assert_close(logits, t["out.kv.next_logits"], tolerance)


@pytest.mark.parametrize("step", ["step1", "next"])
def test_cached_steps_equal_the_released_recomputation(case, step):
    model, t, meta = case
    done = [t["in.kv.prefix_ids"]] + ([t["in.kv.commit_ids"]] if step == "next" else [])
    ids = torch.cat((*done, t[f"in.kv.{step}_ids"]), 1)
    allowed = block_causal(ids.shape[1], t["in.kv.next_ids"].shape[1])
    logits = model(ids, _positions(ids), allowed)
    assert_close(logits, t[f"out.kv.{step}_uncached_logits"], meta["tolerance"])
    assert_close(logits[:, -t["in.kv.next_ids"].shape[1] :], t[f"out.kv.{step}_logits"], meta["tolerance"])


def test_empty_cache_changes_nothing(case):
    model, t, _ = case
    ids = t["in.full.input_ids"]
    cache = KeyValueCache.empty(model.config, batch_size=ids.shape[0])
    assert torch.equal(model(ids, _positions(ids), None, cache), model(ids, _positions(ids)))


@pytest.mark.parametrize("backend", BACKENDS, ids=["fast", "reference"])
def test_training_loss_and_gradients(backend):
    model, t, meta = golden_backbone("dfactory_loss_a", **backend)
    n, block_length = meta["config"]["n"], meta["config"]["block_size"]
    block = torch.arange(n) // block_length
    same, earlier = block[:, None] == block, block[:, None] > block
    allowed = torch.cat((torch.cat((same, earlier), 1), torch.cat((torch.zeros_like(same), same | earlier), 1)))
    ids = torch.cat((t["in.noisy_ids"], t["in.clean_ids"]), 1)
    logits = model(ids, torch.arange(n).repeat(2).expand_as(ids), allowed[None, None])[:, :n]
    assert_close(logits, t["out.noisy_logits"], meta["tolerance"])
    labels = t["in.labels"]
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    assert_close(losses, t["out.per_token_ce"], meta["tolerance"])
    loss = losses.sum() / (labels != -100).sum()
    assert_close(loss, t["out.loss"], meta["tolerance"])
    loss.backward()
    grads = {k: p.grad for k, p in model.named_parameters()}
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    assert_close(norm, t["out.grad_norm"], meta["tolerance"])
    for key in (k.removeprefix("out.grad.") for k in t if k.startswith("out.grad.")):
        head, found, tail = key.partition(".mlp.experts.")
        expert, _, projection = tail.removesuffix(".weight").partition(".")
        grad = grads[f"{head}.mlp.experts.{projection}"][int(expert)] if found else grads[key]
        assert_close(grad, t[f"out.grad.{key}"], meta["tolerance"])
