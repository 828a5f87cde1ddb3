"""The router against the released one and an independent peer; grouped experts against the loop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from golden_fixtures import assert_close, load_case
from llada_uni.layers.mlp import SwiGLU
from llada_uni.layers.moe import Experts, MoE, Router, Routing, expert_counts, route, static_expert_backend


def _seeded(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.normal_(0, 0.3, generator=generator)


def _hidden(tokens: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["router_a", "router_b_groups"])
def test_released_router(name):
    t, meta = load_case(name)
    config = meta["config"]
    router = Router(
        config["hidden_size"],
        config["num_experts"],
        top_k=config["num_experts_per_tok"],
        num_groups=config["n_group"],
        top_groups=config["topk_group"],
        scale=config["routed_scaling_factor"],
    )
    router.load_state_dict({k.rpartition(".")[2]: v for k, v in t.items() if k.startswith("weights.")})
    with torch.no_grad():
        routing = router(t["in.hidden"])
    assert_close(routing.logits, t["out.logits"], meta["tolerance"])
    assert torch.equal(routing.ids, t["out.topk_ids"])
    assert_close(routing.weights, t["out.topk_weights"], meta["tolerance"])


@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (4, 4), (2, 1)])
def test_peer_router(groups, top_groups):
    peer = pytest.importorskip("transformers.models.glm4_moe.modeling_glm4_moe")
    config = SimpleNamespace(
        hidden_size=12,
        num_local_experts=16,
        num_experts_per_tok=4,
        n_group=groups,
        topk_group=top_groups,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
    )
    theirs = peer.Glm4MoeTopkRouter(config)
    _seeded(theirs)
    ours = Router(12, 16, top_k=4, num_groups=groups, top_groups=top_groups, scale=2.5)
    ours.load_state_dict({"weight": theirs.weight, "expert_bias": theirs.e_score_correction_bias})
    hidden = _hidden(200, 12)
    with torch.no_grad():
        routing, (logits, weights, ids) = ours(hidden), theirs(hidden)
    torch.testing.assert_close(routing.logits, logits)
    table = torch.zeros(200, 16)
    torch.testing.assert_close(table.scatter(1, routing.ids, routing.weights), table.scatter(1, ids, weights))


def test_bias_selects_but_does_not_weigh():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    routing = route(logits, torch.tensor([0.0, 0.0, 0.0, 5.0]), top_k=2, scale=3.0)
    assert routing.ids.tolist() == [[3, 0]]
    chosen = logits.sigmoid()[0, [3, 0]]
    torch.testing.assert_close(routing.weights[0], 3.0 * chosen / chosen.sum())


def test_negative_scores_still_win_over_closed_groups():
    bias = torch.tensor([-2.0, -3.0, -8.0, -8.0])
    routing = route(torch.zeros(1, 4), bias, top_k=2, num_groups=2, top_groups=1)
    assert sorted(routing.ids[0].tolist()) == [0, 1]


def test_a_single_expert_is_not_normalised():
    routing = route(torch.tensor([[0.0, -4.0]]), torch.zeros(2), top_k=1, scale=2.5)
    assert routing.weights.tolist() == [[1.25]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_router_precision(dtype):
    router = Router(8, 4, top_k=2)
    _seeded(router)
    bias = router.expert_bias.clone()
    router = router.to(dtype)
    routing = router(_hidden(5, 8).to(dtype))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert routing.logits.dtype == routing.weights.dtype == expected
    assert router.expert_bias.dtype == torch.float32
    assert torch.equal(router.expert_bias, bias)


def _experts(dtype: torch.dtype, hidden_width: int = 10) -> dict[str, Experts]:
    every = {b: Experts(12, hidden_width, 5, backend=b).to(dtype) for b in ("loop", "grouped", "dense")}
    _seeded(every["loop"])
    for other in ("grouped", "dense"):
        every[other].load_state_dict(every["loop"].state_dict())
    return every


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [0, 1, 64])
@pytest.mark.parametrize("spread", [5, 2], ids=["all_experts", "idle_experts"])
@pytest.mark.parametrize("hidden_width", [16, 10], ids=["aligned", "unaligned"])
def test_grouped_and_dense_experts_equal_the_loop(dtype, tokens, spread, hidden_width):
    ids = torch.rand(tokens, spread, generator=torch.Generator().manual_seed(2)).topk(2).indices
    results = []
    for experts in _experts(dtype, hidden_width).values():
        x = _hidden(tokens, 12).to(dtype).requires_grad_()
        weights = _hidden(tokens, 2, seed=3).to(dtype).requires_grad_()
        out = experts(x, Routing(ids, weights, weights))
        out.square().sum().backward()
        results.append((out, x.grad, weights.grad, *(p.grad for p in experts.parameters())))
    torch.testing.assert_close(results[0], results[1], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(results[0], results[2], atol=2e-5, rtol=1e-4)


def test_grouped_experts_gradcheck():
    experts = Experts(3, 2, 4).double()
    _seeded(experts)
    ids = torch.tensor([[0, 3], [3, 1], [1, 0]])

    def run(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return experts(x, Routing(ids, weights, weights))

    assert torch.autograd.gradcheck(run, [_hidden(3, n, seed=n).double().requires_grad_() for n in (3, 2)])


def test_shared_expert_is_added_unscaled():
    router, experts, shared = Router(12, 5, top_k=2, scale=2.5), _experts(torch.float32)["grouped"], SwiGLU(12, 10)
    _seeded(router)
    x = _hidden(6, 12).view(2, 3, 12)
    with_shared, routing = MoE(router, experts, shared)(x)
    without, _ = MoE(router, experts, None)(x)
    torch.testing.assert_close(with_shared - without, shared(x), atol=1e-6, rtol=1e-5)
    assert routing.ids.shape == (6, 2)


def test_expert_counts():
    assert expert_counts(torch.tensor([[0, 3], [3, 1]]), 5).tolist() == [1, 1, 0, 2, 0]


@pytest.mark.parametrize("backend", ["grouped", "dense"])
def test_changes_of_projections_reach_every_backend(backend):
    """A change that depends on the expert and on its input: both must see the same segments as the loop."""

    def change(x: torch.Tensor, y: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        expert = torch.searchsorted(ends.long(), torch.arange(len(x)), right=True)
        return y * (1 + expert[:, None]) + x.sum(-1, keepdim=True)

    every, x = _experts(torch.float64), _hidden(9, 12).double()
    ids = torch.rand(9, 5, generator=torch.Generator().manual_seed(2)).topk(2).indices
    weights = _hidden(9, 2, seed=3).double()
    results = []
    for name in ("loop", backend):
        every[name].changes = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), change)
        results.append(every[name](x, Routing(ids, weights, weights)))
    torch.testing.assert_close(*results)


def test_off_cuda_the_static_backend_is_the_grouped_one():
    assert static_expert_backend(torch.zeros(2, 8, 8)) == "grouped"
