"""The driver with everything inside a block on the device against the usual one, event by event."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from sampling_helpers import EOS, MASK, TEXT, VOCAB, image_request, outputs, random_request
from torch import Tensor

from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.backbone.slots import SlotBackbone
from llada_uni.diffusion.positions import aligned_batch_positions, aligned_positions
from llada_uni.diffusion.sprint import Sprint
from llada_uni.errors import CheckpointError
from llada_uni.grid import TokenGrid
from llada_uni.protocols import BlockDone, Event, Finished, Guidance, IdSet, Request, Sampling, Timings
from llada_uni.sampling import captured
from llada_uni.sampling.block_sampler import generate
from llada_uni.sampling.captured import CapturedSampler, _Recorder, unsupported
from llada_uni.testing.tiny import tiny_backbone


def by_row(events: Iterable[Event]) -> dict[int, list[Event]]:
    """Every row's events without their timings."""
    rows: dict[int, list[Event]] = {}
    for event in events:
        told = replace(event, timings=Timings()) if isinstance(event, Finished) else event
        rows.setdefault(event.row, []).append(told)  # type: ignore[union-attr]
    return rows


def usual(requests: list[Request], model: object) -> dict[int, list[Event]]:
    return by_row(generate(requests, CachedDenoiser(model), granularity="block"))  # type: ignore[arg-type]


def varied(source: random.Random, request: Request) -> Request:
    """With another order of commits, draws that pass filters, ids given beforehand, and headers to be read."""
    sampling = replace(
        request.sampling,
        commit_order=source.choice(["confidence", "random", "sequential"]),  # type: ignore[arg-type]
        confidence_threshold=source.choice([0.5, 0.9, 1.0]),
        temperature=source.choice([0.0, 0.8]),
        top_k=source.choice([None, 6]),
        top_p=source.choice([None, 0.8]),
    )
    given = {p: request.allowed.start for p in range(request.num_tokens) if source.random() < 0.3}
    if source.random() < 0.3:
        given = dict.fromkeys(range(2, request.num_tokens), request.allowed.start)
    header = VOCAB.header_grid if request.grid is None else None
    return replace(request, sampling=sampling, given=given if source.random() < 0.5 else {}, header_grid=header)


@pytest.mark.parametrize("chunk", range(4))
def test_captured_equals_usual_on_random_models(chunk: int) -> None:
    """100 models in all, float64: the same events of every row, whatever the other rows are."""
    for seed in range(25 * chunk, 25 * chunk + 25):
        source = random.Random(seed)
        alignment = source.choice([0, 0, 8])
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64, picture_alignment=alignment)
        requests = [varied(source, random_request(source)) for _ in range(source.choice([1, 2]))]
        requests += [replace(requests[0], seed=9, prompts=requests[0].prompts[::-1])] * source.choice([0, 1])
        sampler = CapturedSampler(SlotBackbone(model), most_rows=source.choice([1, 2, 64]))
        assert by_row(sampler.generate(requests)) == usual(requests, model), seed


def batch(count: int, *, seed: int = 0, **changes: object) -> list[Request]:
    """Pictures with equal rules and prompts of different lengths."""
    source = random.Random(seed)
    sampling = Sampling(block_length=4, steps_per_block=4, confidence_threshold=0.8)
    made = []
    for number in range(count):
        lengths = [source.randint(1, 12) for _ in range(3)]
        grid = TokenGrid(source.randint(1, 3), 4)
        others: dict[str, object] = {"sampling": sampling, "seed": number} | changes
        made.append(image_request(source, grid, lengths, **others))
    return made


@pytest.mark.parametrize(
    "guidance", [Guidance(), Guidance(kind="simple", scale=2.0), Guidance(kind="editing", text=3.0, image=1.5)]
)
def test_rows_that_end_at_different_times_leave_the_others_alone(guidance: Guidance) -> None:
    for seed in range(4):
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
        requests, sampler = batch(6, seed=seed, guidance=guidance), CapturedSampler(SlotBackbone(model))
        expected = usual(requests, model)
        assert by_row(sampler.generate(requests)) == expected
        assert len({event.usage.num_steps for events in expected.values() for event in events[-1:]}) > 1  # type: ignore[union-attr]
        alone = by_row(sampler.generate(requests[2:3]))[0]
        assert alone[-1].output_ids == expected[2][-1].output_ids  # type: ignore[union-attr]


def test_a_picture_header_in_text_moves_what_follows() -> None:
    """Positions follow ids that are written inside the block, as the usual driver computes them."""
    moved = 0
    for seed in range(10):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64, picture_alignment=8)
        sampling = Sampling(block_length=8, steps_per_block=8, confidence_threshold=0.3)
        boi = VOCAB.special.boi
        prompts = ((*(source.randrange(16) for _ in range(5)), boi, 1, 2),)
        few = IdSet(start=boi - 1, stop=boi + 3)
        request = Request(prompts=prompts, num_tokens=24, mask_id=MASK, allowed=few, sampling=sampling)
        sampler = CapturedSampler(SlotBackbone(model))
        found = by_row(sampler.generate([request]))
        assert found == usual([request], model), seed
        moved += boi in found[0][-1].output_ids  # type: ignore[union-attr]
    assert moved > 5


def test_text_ends_at_its_stop_id() -> None:
    reasons = set()
    for seed in range(12):
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64)
        stops = frozenset((EOS, *range(0, 16, 3)))
        words: dict[str, object] = {"allowed": TEXT, "grid": None, "stop_ids": stops, "num_tokens": 30}
        requests = batch(3, seed=seed, changes=words)
        found = outputs(CapturedSampler(SlotBackbone(model)).generate(requests))
        assert found == outputs(generate(requests, CachedDenoiser(model))), seed
        reasons |= {reason for reason, _ in found.values()}
    assert "stop" in reasons


def test_slots_are_used_again_and_grow() -> None:
    model = tiny_backbone(3, vocab=VOCAB, dtype=torch.float64)
    network = SlotBackbone(model)
    sampler = CapturedSampler(network)
    sizes = []
    for count in (1, 4, 2):
        requests = batch(count, seed=count)
        assert by_row(sampler.generate(requests)) == usual(requests, model)
        sizes.append(network.num_bytes)
    assert sizes[0] < sizes[1] == sizes[2]


@pytest.mark.parametrize("over", ["vocabulary", "allowed"])
def test_a_picture_computes_the_rows_of_picture_ids_alone(over: Literal["vocabulary", "allowed"]) -> None:
    """Where guidance is rescaled over the whole vocabulary, too."""
    model = tiny_backbone(0, vocab=VOCAB, dtype=torch.float64)
    network, ranges = SlotBackbone(model), set()
    logits = network.logits

    def watched(hidden: Tensor, id_range: tuple[int, int] | None = None, /) -> Tensor:
        ranges.add(id_range)
        return logits(hidden, id_range)

    network.logits = watched  # type: ignore[method-assign]
    guidance = Guidance(kind="simple", scale=2.0, rescale_over=over)
    list(CapturedSampler(network).generate(batch(2, guidance=guidance) + batch(1)))
    assert ranges == {(VOCAB.image_offset, VOCAB.vocab_size)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_spread_over_the_vocabulary_without_its_logits(dtype: torch.dtype) -> None:
    model = tiny_backbone(0, vocab=VOCAB, dtype=dtype)
    network = SlotBackbone(model)
    hidden = torch.randn(3, 5, model.config.hidden_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = (hidden.double() @ model.lm_head.weight.double().T).std(-1, keepdim=True)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(network.spread(hidden).double(), expected, atol=0, rtol=tolerance)


def test_blocks_are_told_as_they_end() -> None:
    requests = batch(1)
    events = CapturedSampler(SlotBackbone(tiny_backbone(0, vocab=VOCAB))).generate(requests)
    assert isinstance(next(e for e in events if e.row == 0 and not hasattr(e, "max_calls")), BlockDone)  # type: ignore[union-attr]


def test_numbers_that_are_none_are_an_error() -> None:
    model = tiny_backbone(0, vocab=VOCAB)
    model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="non-finite"):
        list(CapturedSampler(SlotBackbone(model)).generate(batch(1)))


def test_what_the_usual_driver_has_to_do() -> None:
    plain = batch(1)
    assert unsupported(plain, "block") is None
    assert "single steps" in str(unsupported(plain, "step"))
    thin = [replace(plain[0], sampling=replace(plain[0].sampling, sprint=Sprint(keep_ratio=0.5)))]
    assert "SPRINT" in str(unsupported(thin, "block"))


def test_positions_of_a_batch_are_those_of_its_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    for every in (1, 4, 8):
        ids = torch.randint(0, 5, (6, 20), generator=generator)
        lengths, first = torch.tensor([0, 1, 5, 13, 19, 20]), torch.tensor([0, 3, 8, 0, 5, 16])
        valid = torch.arange(20) >= 20 - lengths[:, None]
        found = aligned_batch_positions(ids, valid, first, 2, every)
        for row, length in enumerate(lengths.tolist()):
            own = ids[row, 20 - length :]
            expected = aligned_positions(own, 2, every, first=int(first[row]))
            assert torch.equal(found[row, 20 - length :], expected)


class Replayed:
    """Stands for a CUDA graph on a machine without one: replays the very step it was recorded from."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.replay = step


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording as on CUDA: fixed addresses, empty seats, and a first step that is kept; with few places at a time."""
    monkeypatch.setattr(captured, "_PLACES", 8)
    monkeypatch.setattr(_Recorder, "_record", lambda self, state, step: Replayed(step))


@pytest.mark.usefixtures("recorded")
def test_recordings_serve_every_later_step_of_their_kind() -> None:
    """A replay knows nothing but the addresses it was recorded with, so whatever the key leaves out would show."""
    for seed in range(6):
        source = random.Random(seed)
        model = tiny_backbone(seed, vocab=VOCAB, dtype=torch.float64, picture_alignment=source.choice([0, 8]))
        sampler = CapturedSampler(SlotBackbone(model), record=True, most_rows=4)
        for turn in range(4):
            one = varied(source, random_request(source))
            requests = [replace(one, seed=turn)] * source.randint(1, 5) + batch(source.randint(1, 3), seed=turn)
            for order in ("confidence", "sequential"):
                requests.append(replace(one, sampling=replace(one.sampling, commit_order=order)))  # type: ignore[arg-type]
            assert by_row(sampler.generate(requests)) == usual(requests, model), (seed, turn)
        held = sampler.num_recordings
        assert by_row(sampler.generate(requests)) == usual(requests, model), seed
        assert sampler.num_recordings == held > 0
