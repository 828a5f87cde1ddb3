"""The counter of different experts per call, against the loads that the backbone reports itself."""

from __future__ import annotations

import torch

from llada_uni.backbone.expert_use import count_experts
from llada_uni.testing.tiny import tiny_backbone


def test_counts_are_those_of_the_router_loads() -> None:
    model, expected = tiny_backbone(), []
    with count_experts(model) as use:
        for size in (1, 2, 30):
            ids = torch.randint(0, 20, (1, size), generator=torch.Generator().manual_seed(size))
            everywhere = torch.ones_like(ids, dtype=torch.bool)
            model(ids, torch.arange(size)[None], collect_load=everywhere)
            expected.append((model.router_loads() > 0).sum(1))
    assert torch.equal(use.per_call, torch.stack(expected))
    assert use.per_call[0].tolist() == [2]
    assert use.mean == use.per_call.double().mean()


def test_nothing_is_counted_outside_the_block() -> None:
    model = tiny_backbone()
    with count_experts(model) as use:
        pass
    model(torch.zeros(1, 3, dtype=torch.int64), torch.arange(3)[None])
    assert use.per_call.shape == (0, 1)
    assert use.mean == 0
