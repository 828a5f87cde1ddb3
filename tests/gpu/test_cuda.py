"""What only a GPU can show: the same numbers as on the CPU, and training steps that run there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from llada_uni import EncodedImage, PixelOptions, TokenGrid
from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.backbone.model import Backbone
from llada_uni.backbone.slots import SlotBackbone
from llada_uni.decoder import Decoder, DecoderConfig
from llada_uni.decoder.graphs import DecoderGraphs
from llada_uni.layers.attention import attend
from llada_uni.pipeline import LladaUni
from llada_uni.protocols import Finished, Guidance, IdSet, Request, Sampling
from llada_uni.sampling.block_sampler import generate
from llada_uni.sampling.captured import CapturedSampler
from llada_uni.scenes import SceneGraph, SceneObject, render

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def models() -> tuple[LladaUni, LladaUni]:
    return LladaUni.from_pretrained("nano", device="cpu"), LladaUni.from_pretrained(
        "nano", device="cuda", dtype="float32"
    )


def tiny_backbone(experts: str) -> Backbone:
    config = BackboneConfig(
        vocab_size=256, image_token_offset=128, hidden_size=128, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_experts=8, num_experts_per_tok=2, n_group=2,
        topk_group=2, moe_intermediate_size=64, pad_token_id=0, rope_theta=10000.0, max_position_embeddings=256,
    )  # fmt: skip
    model = Backbone(config, experts=experts)  # type: ignore[arg-type]
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model.cuda()


def test_logits_equal_those_of_the_cpu(models: tuple[LladaUni, LladaUni]) -> None:
    cpu, gpu = (model.networks.backbone for model in models)
    ids = torch.randint(0, cpu.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(64).expand(2, 64)
    allowed = (positions[:, None, :, None] // 32) >= (positions[:, None, None, :] // 32)
    with torch.inference_mode():
        expected = cpu(ids, positions, allowed)
        found = gpu(ids.cuda(), positions.cuda(), allowed.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fast", ["grouped", "dense"])
def test_fast_experts_equal_looped_ones_forward_and_backward(fast: str, dtype: torch.dtype) -> None:
    losses, gradients = [], []
    for experts in (fast, "loop"):
        model = tiny_backbone(experts).to(dtype)
        ids = torch.arange(96, device="cuda").view(2, 48)
        logits = model(ids, torch.arange(48, device="cuda").expand(2, 48), None)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        loss.backward()
        losses.append(loss.detach())
        gradients.append(model.model.layers[1].mlp.experts.down_proj.grad)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(losses[0], losses[1], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gradients[0], gradients[1], atol=tolerance, rtol=tolerance)


def test_attention_backends_agree() -> None:
    q, k, v = (torch.randn(2, heads, 70, 32, device="cuda") for heads in (4, 2, 2))
    allowed = torch.rand(2, 1, 70, 70, device="cuda") > 0.5
    torch.testing.assert_close(
        attend(q, k, v, allowed, backend="auto"), attend(q, k, v, allowed, backend="reference"), atol=2e-3, rtol=2e-3
    )


def test_a_picture_is_made_and_read(models: tuple[LladaUni, LladaUni]) -> None:
    _, gpu = models
    result = gpu.generate_image("a blue fish", seed=1)
    assert result.image.size == (128, 128)
    assert len(result.codes) == 64
    assert gpu.understand_image(result.image, "what is this?", max_new_tokens=16).finish_reason in ("stop", "length")


def test_codes_equal_those_of_the_cpu(models: tuple[LladaUni, LladaUni]) -> None:
    scene = SceneGraph(objects=(SceneObject(kind="fish", colour="blue", size="large", row=2, column=2),))
    cpu, gpu = (model.encode_image(render(scene)).codes for model in models)
    assert sum(a == b for a, b in zip(cpu, gpu, strict=True)) >= 63


def test_a_picture_is_computed_on_the_device(models: tuple[LladaUni, LladaUni]) -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    models[1].generate_image(["a red ball", "two green trees"], seed=0)
    assert torch.cuda.max_memory_allocated() > before + 1_000_000


# The pixel decoder's options


def codes_to_pixels(model: LladaUni, seeds: list[int], **options: Any) -> list[np.ndarray]:
    codes = tuple(index * 37 % 512 for index in range(64))
    encoded = EncodedImage(codes=codes, grid=TokenGrid(8, 8), model="nano")
    results = model.decode_image([encoded] * len(seeds), seed=seeds, **options)
    return [np.asarray(result.image).astype(np.int16) for result in results]


@pytest.mark.parametrize("decoder", ["turbo", "normal"])
@pytest.mark.parametrize("compile_decoder", [False, True])
def test_captured_evaluations_draw_the_same_pictures(
    models: tuple[LladaUni, LladaUni], decoder: str, compile_decoder: bool
) -> None:
    pixels = PixelOptions(graph_decoder=True, compile_decoder=compile_decoder)
    captured = LladaUni.from_pretrained("nano", device="cuda", dtype="float32", pixels=pixels)
    guidance = None if decoder == "turbo" else 2.0
    expected = codes_to_pixels(models[1], [1, 2], decoder=decoder, decoder_guidance=guidance)
    found = codes_to_pixels(captured, [1, 2], decoder=decoder, decoder_guidance=guidance)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).mean() < 0.5
    network = captured.networks.decoder(decoder)
    graphs = captured.networks.shared_work(network).graphs
    assert graphs is not None
    assert graphs.num_captured == 1


def test_pictures_of_two_sizes_take_turns_on_captured_evaluations() -> None:
    torch.manual_seed(0)
    config = DecoderConfig(
        dim=96, n_heads=4, axes_dims=(8, 8, 8), n_layers=3, n_refiner_layers=1, in_channels=4, cap_feat_dim=16,
        time_hidden_dim=32,
    )  # fmt: skip
    decoder = Decoder(config).cuda().requires_grad_(False)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    graphs = DecoderGraphs()
    pictures = []
    for rows, columns in ((8, 8), (8, 8), (4, 12)):
        features = torch.randn(1, rows * columns, 16, device="cuda")
        latents = torch.randn(1, 4, 2 * rows, 2 * columns, device="cuda")
        pictures.append((latents, decoder.prepare(features, (rows, columns))))
    for step in range(4):
        time = torch.full((1,), 0.2 * step, device="cuda")
        for latents, context in pictures:
            found = graphs(decoder, latents + step, time, context)
            torch.testing.assert_close(found, decoder(latents + step, time, context), atol=1e-4, rtol=1e-4)
    assert graphs.num_captured == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_give_the_same_ids_every_time(dtype: str) -> None:
    """The first run records, the second one only replays; batches of other sizes come between."""
    model = LladaUni.from_pretrained("nano", device="cuda", dtype=dtype)
    sampler, requests = CapturedSampler(SlotBackbone(model.networks.backbone)), word_requests(model)
    first = [written(sampler, requests[:count]) for count in (4, 1, 3)]
    recordings = sampler.num_recordings
    assert [written(sampler, requests[:count]) for count in (4, 1, 3)] == first
    assert sampler.num_recordings == recordings > 0


def test_recorded_steps_write_what_the_usual_driver_writes() -> None:
    """float64 on the device: no rounding decides anything."""
    model = LladaUni.from_pretrained("nano", device="cuda", dtype="float64")
    backbone, requests = model.networks.backbone, word_requests(model)
    sampler = CapturedSampler(SlotBackbone(backbone))
    for count in (4, 1, 3, 4):
        events = generate(requests[:count], CachedDenoiser(backbone))
        usual = {event.row: event.output_ids for event in events if isinstance(event, Finished)}
        assert written(sampler, requests[:count]) == usual


def word_requests(model: LladaUni) -> list[Request]:
    """Guided pictures and an answer, with and without draws."""
    vocab, config = model.networks.vocab, model.networks.backbone.config
    mask, ids = vocab.special.mask, IdSet(start=vocab.image_offset, stop=config.vocab_size)
    prompts = [tuple(range(2, 2 + n)) for n in (40, 13)]
    made: list[Request] = []
    for seed, temperature in enumerate((0.0, 0.0, 1.0)):
        sampling = Sampling(steps_per_block=8, temperature=temperature, commit_order="random")
        guidance = Guidance(kind="simple", scale=2.0)
        picture = Request(
            prompts=tuple(prompts), num_tokens=64, mask_id=mask, allowed=ids, guidance=guidance, sampling=sampling,
            seed=seed, grid=TokenGrid(8, 8),
        )  # fmt: skip
        made.append(picture)
    answer = Request(
        prompts=(prompts[1],), num_tokens=50, mask_id=mask, allowed=IdSet(start=0, stop=vocab.image_offset),
        stop_ids=frozenset((vocab.special.eos,)),
    )  # fmt: skip
    return [*made, answer]


def written(sampler: CapturedSampler, requests: list[Request]) -> dict[int, tuple[int, ...]]:
    return {e.row: e.output_ids for e in sampler.generate(requests) if isinstance(e, Finished)}


def test_the_captured_engine_makes_a_picture_and_reads_it() -> None:
    model = LladaUni.from_pretrained("nano", device="cuda", engine="captured")
    result = model.generate_image(["a blue fish", "a red ball"], seed=1)[0]
    assert len(result.codes) == 64
    assert model.understand_image(result.image, "what is this?", max_new_tokens=16).finish_reason in ("stop", "length")
