"""Memory plans: which one is picked, that networks keep to it, and that pictures come out of every kind of plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llada_uni import prompts
from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.denoiser import CachedDenoiser
from llada_uni.errors import ConfigError, ResourceError
from llada_uni.grid import TokenGrid
from llada_uni.pipeline import LladaUni, memory
from llada_uni.pipeline import story as stories
from llada_uni.pipeline.memory import STAGES, MemoryPlan, parse_memory, plan_memory
from llada_uni.serving.engine import Engine
from llada_uni.weights.convert import convert_checkpoint
from llada_uni.weights.large import blocks_of_decoder, experts_of_backbone, network_bytes
from llada_uni.weights.sizes import network_sizes, stored_kind
from story_helpers import TOKENIZER, Director, script

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WORDS = "two red apples"


@pytest.fixture(scope="module")
def integers(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_checkpoint(checkpoint, tmp_path_factory.mktemp("int4") / "model", quantize="int4")


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only networks count, so that budgets can be as small as a tiny model."""
    monkeypatch.setattr(memory, "process_memory", lambda: 1)
    monkeypatch.setattr(memory, "_working_memory", lambda *_, **__: 0)


def planned(root: Path, budget: int, device: torch.device = CPU, **wishes: Any) -> MemoryPlan:
    return plan_memory(root, budget, device=device, dtype=wishes.pop("dtype", torch.float32), **wishes)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("24GB", 24 * 10**9), ("16 GiB", 16 * 2**30), ("1.5g", 15 * 10**8), (12345, 12345), ("300mb", 3 * 10**8)],
)
def test_amounts(text: int | str, wanted: int) -> None:
    assert parse_memory(text) == wanted


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0GB", "3 parsecs", "GB", 0, "nan"])
def test_amounts_that_are_none(text: int | str) -> None:
    with pytest.raises(ConfigError, match="memory: expected an amount such as 24GB"):
        parse_memory(text)


@pytest.mark.parametrize("wishes", [{}, {"quantize": "int8"}, {"quantize": "int4"}, {"quantize": "fp8"}])
def test_sizes_told_in_advance_are_those_of_loaded_networks(checkpoint: Path, wishes: dict[str, Any]) -> None:
    model = LladaUni.from_pretrained(checkpoint, device="cpu", **wishes)
    sizes = network_sizes(checkpoint, ("normal", "turbo"))
    kind = wishes.get("quantize")
    assert sizes["backbone"].bytes(torch.float32, CPU, kind) == network_bytes(model.networks.backbone)
    assert sizes["decoder"].bytes(torch.float32, CPU) == network_bytes(model.networks.decoder("normal"))
    assert sizes["vae"].bytes(torch.float32, CPU) == network_bytes(model.networks.vae)
    assert sizes["image_tokenizer"].bytes(torch.float32, CPU) == network_bytes(model.networks.image_tokenizer)


def test_the_order_of_plans(checkpoint: Path) -> None:
    """Everything in memory first, the smallest rounding first; then turns; then weights that visit."""
    seen: list[tuple[Any, ...]] = []
    budget = 10**9
    while True:
        try:
            plan = planned(checkpoint, budget)
        except ResourceError:
            break
        keep = plan.keeping
        assert plan.total <= budget
        seen.append((keep.staged, keep.offload_experts, str(plan.dtype)[6:], keep.experts, keep.decoder))
        budget = plan.total - 1
    assert seen[:2] == [(False, None, "float32", None, None), (False, None, "bfloat16", None, None)]
    placed = [(bool(staged), bool(where)) for staged, where, *_ in seen]
    assert placed == sorted(placed, key=lambda one: (one[1], one[0]))
    assert {(True, False), (True, True)} <= set(placed)
    assert any(experts == "int4" for *_, experts, _ in seen)


def test_what_the_caller_fixes_stays(checkpoint: Path, integers: Path) -> None:
    whole = planned(checkpoint, 10**9, quantize="int8", fixed_dtype=True).total
    plan = planned(checkpoint, whole - 1, quantize="int8", fixed_dtype=True)
    assert (plan.keeping.experts, plan.dtype) == ("int8", torch.float32)
    assert stored_kind(integers) == "int4"
    assert planned(integers, 10**9).networks["backbone"] < planned(checkpoint, 10**9).networks["backbone"]
    assert not planned(checkpoint, 10**9, together=True).keeping.staged
    assert {"decoder", "decoder_turbo"} <= planned(checkpoint, 10**9, together=True).networks.keys()


def test_on_a_gpu_weights_wait_in_main_memory(checkpoint: Path) -> None:
    plan = planned(checkpoint, 10**9, CUDA, dtype=torch.bfloat16, offload="cpu")
    assert plan.keeping.offload_experts == "cpu"
    assert plan.waiting > 0
    assert plan.process == 0
    assert any("visit from main memory" in line for line in plan.lines())


@pytest.mark.parametrize("share", [1.0, 0.6, 0.4, 0.33])
def test_pictures_and_answers_within_a_tiny_budget(checkpoint: Path, integers: Path, photo: Any, share: float) -> None:
    for root in (checkpoint, integers):
        everything = planned(root, 10**9).total
        model = LladaUni.from_pretrained(root, device="cpu", memory=int(everything * share))
        plan, networks = model.memory_plan, model.networks
        assert plan is not None
        picture = model.generate_image(WORDS, seed=3)
        model.understand_image(photo, "how many stars are there?", seed=1, max_new_tokens=16)
        again = model.generate_image(WORDS, seed=3)
        assert again.codes == picture.codes
        assert again.png_bytes() == picture.png_bytes()
        assert 0 < networks.peak_bytes <= plan.weights <= plan.budget
        if plan.dtype == torch.float32 and plan.keeping.experts is None:
            usual = LladaUni.from_pretrained(root, device="cpu").generate_image(WORDS, seed=3)
            assert usual.codes == picture.codes
            assert usual.png_bytes() == picture.png_bytes()


def test_networks_that_take_turns_change_no_bit_and_one_station_is_in_memory(checkpoint: Path, photo: Any) -> None:
    wishes: dict[str, Any] = {"dtype": "float32", "quantize": "none"}
    whole = planned(checkpoint, 10**9, quantize="none", fixed_dtype=True)
    turns = LladaUni.from_pretrained(checkpoint, device="cpu", memory=whole.total - 1, **wishes)
    assert turns.memory_plan is not None
    assert turns.memory_plan.keeping.staged
    usual = LladaUni.from_pretrained(checkpoint, device="cpu")
    backbone = turns.networks.backbone
    for variant in ("turbo", "normal"):
        one = turns.edit_image(photo, "make it blue", seed=5, decoder=variant)
        two = usual.edit_image(photo, "make it blue", seed=5, decoder=variant)
        assert one.codes == two.codes
    assert turns.networks.backbone is backbone
    awake = [name for name in STAGES if name in turns.networks.modules()]
    assert awake == ["backbone"]


def test_stories_alternate_between_networks_that_take_turns(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outline = script(5, TokenGrid(4, 4), 3, TokenGrid(4, 6), start=len(prompts.interleaved(TOKENIZER, WORDS).cond))
    monkeypatch.setattr(stories, "CachedDenoiser", lambda net: Director(CachedDenoiser(net), {0: outline}))
    whole = planned(checkpoint, 10**9, fixed_dtype=True, quantize="none")
    least = max(size for name, size in whole.networks.items() if name == "backbone")
    budget = max(least, whole.total - least) + 1
    turns = LladaUni.from_pretrained(checkpoint, device="cpu", memory=budget, dtype="float32", quantize="none")
    assert turns.memory_plan is not None
    assert turns.memory_plan.keeping.staged
    found = turns.generate_interleaved(WORDS, seed=7, max_frames=2)
    usual = LladaUni.from_pretrained(checkpoint, device="cpu").generate_interleaved(WORDS, seed=7, max_frames=2)
    assert len(found.images) == 2
    assert [one.codes for one in found.images] == [one.codes for one in usual.images]
    assert turns.networks.peak_bytes <= turns.memory_plan.weights


def test_saving_a_quantised_model_copies_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    model = LladaUni.from_pretrained(checkpoint, device="cpu", quantize="int4")
    _ = model.networks.backbone, model.networks.vae
    saved = model.save_pretrained(tmp_path / "saved")
    assert (saved / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_bad_wishes_are_one_clear_line(checkpoint: Path) -> None:
    with pytest.raises(ResourceError, match=r"is too little for model: the smallest plan needs \d+ kB \(dtype"):
        LladaUni.from_pretrained(checkpoint, device="cpu", memory=1000)
    with pytest.raises(ConfigError, match="quantize: expected"):
        LladaUni.from_pretrained(checkpoint, device="cpu", quantize="int2")
    with pytest.raises(ConfigError, match="use 'disk'"):
        LladaUni.from_pretrained(checkpoint, device="cpu", offload="cpu")
    turns = LladaUni.from_pretrained(checkpoint, device="cpu", memory=planned(checkpoint, 10**9).total // 3)
    assert turns.networks.keeping.staged
    with pytest.raises(ConfigError, match="together=True"):
        Engine(turns.networks)


def test_more_than_planned_is_refused(checkpoint: Path) -> None:
    model = LladaUni.from_pretrained(checkpoint, device="cpu", memory=10**8)
    object.__setattr__(model.networks.plan, "budget", 1000)
    with pytest.raises(ResourceError, match="more than the plan"):
        _ = model.networks.backbone


CHILD = """
import json, pathlib, sys
from llada_uni.pipeline import LladaUni
model = LladaUni.from_pretrained(sys.argv[1], device="cpu", memory=int(sys.argv[2]))
model.generate_image("two red apples", seed=3)
lines = pathlib.Path("/proc/self/status").read_text().splitlines()  # rusage would count the parent's peak too
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
print(json.dumps({"peak": peak, "plan": model.memory_plan.as_dict()}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the process file system of Linux")
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_the_process_stays_within_its_budget(tmp_path: Path, share: float) -> None:
    """Peak resident memory of a whole process, libraries included, on a model whose weights outweigh them."""
    from dataclasses import replace

    from llada_uni.backbone.model import Backbone
    from llada_uni.testing.checkpoint import tiny_components
    from llada_uni.weights.save import save_checkpoint

    parts = tiny_components()
    assert parts.backbone is not None
    config = replace(parts.backbone.config, hidden_size=256, moe_intermediate_size=256, num_experts=512, n_group=8)
    large = Backbone(replace(config, num_hidden_layers=4))
    large.reset_parameters(torch.Generator().manual_seed(0))
    root = save_checkpoint(tmp_path / "model", replace(parts, backbone=large), dtype=None)
    weights = sum(p.nbytes for p in large.parameters())
    budget = int(400e6 + share * weights)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(budget)], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["peak"] <= budget
    assert told["peak"] > 0.5 * told["plan"]["total"]


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The released sizes, without a checkpoint: networks of the default configurations on the meta device."""
    from llada_uni.backbone.model import Backbone
    from llada_uni.decoder.config import DecoderConfig, SemanticEmbedderConfig, VAEConfig
    from llada_uni.decoder.dit import Decoder
    from llada_uni.decoder.semantic import SemanticEmbedder
    from llada_uni.decoder.vae import VAE
    from llada_uni.image_tokenizer.config import ImageTokenizerConfig
    from llada_uni.image_tokenizer.model import ImageTokenizer
    from llada_uni.weights.sizes import measure

    sizes = {
        "backbone": measure("backbone", lambda: Backbone(BackboneConfig()), experts_of_backbone),
        "image_tokenizer": measure("image_tokenizer", lambda: ImageTokenizer(ImageTokenizerConfig())),
        "semantic_embedder": measure("semantic_embedder", lambda: SemanticEmbedder(SemanticEmbedderConfig())),
        "vae": measure("vae", lambda: VAE(VAEConfig())),
        "decoder": measure("decoder", lambda: Decoder(DecoderConfig()), blocks_of_decoder),
    }
    monkeypatch.setattr(memory, "network_sizes", lambda *_: sizes)
    monkeypatch.setattr(memory, "stored_kind", lambda *_: None)
    monkeypatch.setattr(memory, "_variants", lambda *_: ("normal",))
    monkeypatch.setattr(memory, "_working_memory", lambda *_, **__: 3 * 10**9)
    return Path("uni")


def test_the_released_model_on_cards_and_machines_of_several_sizes(released: Path) -> None:
    def on(device: torch.device, gigabytes: int) -> MemoryPlan:
        usual = torch.float32 if device.type == "cpu" else torch.bfloat16
        return planned(released, gigabytes * 10**9, device, dtype=usual)

    card = on(CUDA, 80)
    assert (card.keeping.plain, card.total < 55e9) == (True, True)
    card = on(CUDA, 24)
    assert (card.keeping.staged, card.keeping.offload_experts) == (False, None)
    assert (card.keeping.experts, card.keeping.decoder) == ("int4", "int8")
    assert on(CUDA, 16).keeping.staged
    small = on(CUDA, 12)
    assert small.keeping.offload_experts == "cpu"
    assert small.waiting > 7e9
    machine = on(CPU, 24)
    assert (machine.keeping.experts, str(machine.dtype)) == ("int4", "torch.bfloat16")
    assert machine.networks["backbone"] < 11e9
    with pytest.raises(ResourceError, match="needs"):
        on(CPU, 3)
