"""Chunked cross-entropy is the plain one, and never holds more than a chunk of logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llada_uni.diffusion.chunked import chunked_cross_entropy
from llada_uni.diffusion.losses import token_cross_entropy

ROWS, WIDTH, IDS = 61, 4, 500


def case(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(IDS, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    ids = torch.randint(IDS, (rows,), generator=generator)
    return hidden, weight, ids, torch.rand(rows, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 8, 61, 1000])
def test_losses_and_gradients_equal_those_of_all_logits(chunk: int) -> None:
    hidden, weight, ids, share = case()
    losses, best = chunked_cross_entropy(hidden, weight, ids, chunk)
    found = torch.autograd.grad((losses * share).sum(), (hidden, weight))
    logits = hidden @ weight.T
    expected = token_cross_entropy(logits, ids)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(best, logits.argmax(-1))
    for a, b in zip(found, torch.autograd.grad((expected * share).sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_bfloat16_products_and_float32_losses_under_autocast() -> None:
    hidden, weight, ids, _ = case(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = chunked_cross_entropy(hidden, weight, ids, 8)
        expected = token_cross_entropy(torch.nn.functional.linear(hidden, weight), ids)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, expected)
    losses.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32


def test_no_rows_give_no_losses() -> None:
    hidden, weight, ids, _ = case(rows=0)
    losses, best = chunked_cross_entropy(hidden, weight, ids, 8)
    losses.sum().backward()
    assert losses.shape == best.shape == (0,)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for item in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(item, Tensor):
                self.numbers = max(self.numbers, item.numel())
        return made


def test_at_most_a_chunk_of_logits_exists_at_a_time() -> None:
    hidden, weight, ids, _ = case()
    with _Largest() as chunked:
        chunked_cross_entropy(hidden, weight, ids, 8)[0].sum().backward()
    assert chunked.numbers == 8 * IDS
    with _Largest() as plain:
        token_cross_entropy(hidden @ weight.T, ids).sum().backward()
    assert plain.numbers == ROWS * IDS  # the count sees what it should


def test_nothing_of_the_size_of_the_logits_is_kept_for_the_backward_pass() -> None:
    hidden, weight, ids, _ = case()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        chunked_cross_entropy(hidden, weight, ids, 8)
    assert sum(kept.values()) < 8 * IDS
