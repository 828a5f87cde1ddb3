"""Quantised weights for inference: close to the dense ones, small, and every form computes the same product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llada_uni.layers import served as room
from llada_uni.layers.moe import Experts, Routing, route
from llada_uni.layers.quantized import Quantized
from llada_uni.layers.served import KINDS, Kind, Served, can_pack

CPU = torch.device("cpu")
SHAPES = [(6, 64), (3, 5, 192), (4, 7), (2, 112), (3, 32, 128), (2, 130, 140)]
ERROR = {"int8": 0.01, "int4": 0.14, "fp8": 0.04}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_again_it_is_close_and_takes_the_bytes_that_were_counted(kind: Kind, shape: tuple[int, ...]) -> None:
    weight = numbers(*shape)
    found = Served.of(weight, kind)
    assert found.to(torch.float64).shape == weight.shape
    assert relative(found.to(torch.float32), weight) < ERROR[kind]
    assert found.num_bytes == Served.count_bytes(shape, kind)
    assert found.shape == shape


def test_four_bit_numbers_are_those_of_training_up_to_the_rounding_of_the_factors() -> None:
    weight = numbers(5, 192)
    found, frozen = Served.of(weight, "int4").to(torch.float32), Quantized(weight, 4).to(torch.float32)
    step = weight.unflatten(-1, (-1, 64)).abs().amax(-1, keepdim=True) / 7
    assert float(((found - weight).unflatten(-1, (-1, 64)).abs() / step).max()) <= 0.5 + 7 / 256
    assert relative(found, frozen) < 0.1


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("rows", [1, 3, 33, 70])
def test_the_kernel_of_the_processor_agrees_with_the_dense_product(kind: Kind, rows: int) -> None:
    weight, x = numbers(32, 128, seed=1), numbers(rows, 128, seed=2)
    if not can_pack((32, 128), kind, device=CPU, dtype=torch.float32):
        pytest.skip("no such kernel here")
    plain, packed = Served.of(weight, kind), Served.of(weight, kind, packed=True)
    assert packed.num_bytes == Served.count_bytes((32, 128), kind, packed=True)
    wanted = F.linear(x.double(), plain.to(torch.float64))
    assert relative(packed.product(x), wanted) < 0.01
    assert packed.product(x).dtype == torch.float32
    assert relative(packed.to(torch.float32), plain.to(torch.float32)) < 0.005
    alone = torch.cat([packed.product(row[None]) for row in x])
    assert relative(alone, packed.product(x)) < 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_experts_compute_as_their_dense_form(kind: Kind, packed: bool) -> None:
    width, hidden, count = 64, 32, 4
    if packed and not can_pack((count, hidden, width), kind, device=CPU, dtype=torch.float32):
        pytest.skip("no such kernel here")
    dense, small = Experts(width, hidden, count), Experts(width, hidden, count)
    for name, parameter in list(dense.named_parameters()):
        made = Served.of(numbers(*parameter.shape, seed=len(name)) * 0.2, kind, packed=packed and kind != "fp8")
        parameter.data = made.to(torch.float32)
        delattr(small, name)
        setattr(small, name, made)
    x, logits = numbers(9, width), numbers(9, count, seed=4)
    routing = route(logits, torch.zeros(count), top_k=2)
    empty = Routing(torch.zeros_like(routing.ids), routing.weights, routing.logits)  # three experts without tokens
    with torch.inference_mode():
        for one in (routing, empty):
            assert relative(small(x, one), dense(x, one)) < (0.02 if packed else 1e-5)
        small.backend = "loop"
        assert relative(small(x, routing), dense(x, routing)) < (0.02 if packed else 1e-5)


def test_only_chosen_experts_become_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, made = Served.of(numbers(8, 4, 64), "int4"), []
    real = room.spread
    monkeypatch.setattr(room, "spread", lambda codes, *rest: made.append(codes.shape) or real(codes, *rest))
    ends = torch.tensor([0, 0, 2, 2, 2, 3, 3, 3], dtype=torch.int32)
    stack.product(numbers(3, 64), ends)
    assert made == [(4, 64), (4, 64)]


def test_no_kernel_where_numbers_must_be_exact_or_shapes_do_not_fit() -> None:
    assert not can_pack((32, 128), "int4", device=CPU, dtype=torch.float64)
    assert not can_pack((32, 128), "fp8", device=CPU, dtype=torch.float32)
    assert not can_pack((24, 128), "int4", device=CPU, dtype=torch.float32)
    assert not can_pack((32, 24), "int8", device=CPU, dtype=torch.float32)
    assert not can_pack((32, 112), "int4", device=CPU, dtype=torch.float32)
    assert not can_pack((32, 128), "int4", device=torch.device("cuda"), dtype=torch.bfloat16)
