"""What quantised experts cost in accuracy: on the numeric fixtures of the released code, and on a model.

Fixtures: error of the logits against the stored ones. Model: scenes with their true codes, a share of them masked; the
error of the logits at the masked positions, the agreement of the likeliest ids, the probability that moved and that of
the true code, against the model as it is stored; beside them what happens without any routed expert. SceneBench with
few items on top (``--limit 0``: none).

python benchmarks/quantisation.py --out benchmarks/results/quantisation.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from _record import ROOT, record, write

FORMS = ("none", "int8", "int4", "fp8")
GOLDEN = ("backbone_a", "backbone_b")
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options.add_argument("--scenes", type=int, default=24, help="pictures with masked codes")
    options.add_argument("--mask-ratio", type=float, default=0.9)
    options.add_argument("--limit", type=int, default=14, help="prompts and questions of SceneBench; 0 is none")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="result file")
    return options


def compared(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """Errors of logits [N, V]: relative (root mean square), largest; how often the likeliest id is the same; the
    probability that lies elsewhere (total variation)."""
    difference = (found - wanted).double()
    return {
        "relative_error": float(difference.norm() / wanted.double().norm()),
        "largest_error": float(difference.abs().max()),
        "same_likeliest_id": float((found.argmax(-1) == wanted.argmax(-1)).double().mean()),
        "moved_probability": float((found.softmax(-1) - wanted.softmax(-1)).abs().sum(-1).mean() / 2),
        "positions": wanted.shape[0],
    }


def golden(name: str, form: str) -> dict[str, float]:
    """One fixture: the released code's own logits."""
    from llada_uni.backbone.config import BackboneConfig
    from llada_uni.weights.load import backbone_from_store
    from llada_uni.weights.materialise import Target
    from llada_uni.weights.store import StoredTensor, TensorStore

    folder = ROOT / "tests" / "golden"
    tensors = load_file(folder / f"{name}.safetensors")
    told = json.loads((folder / f"{name}.json").read_text())["config"]
    weights = {key.removeprefix("weights."): t for key, t in tensors.items() if key.startswith("weights.")}
    entries = {
        key: StoredTensor(path=folder, key=key, shape=tuple(t.shape), dtype=_NAMES[t.dtype])
        for key, t in weights.items()
    }
    store = TensorStore(where=folder, entries=entries, fetch=lambda entry: weights[entry.key])
    target = Target(dtype=torch.float32, device=torch.device("cpu"), quantize=form)  # type: ignore[arg-type]
    model = backbone_from_store(BackboneConfig.from_mapping(told.get("model", told), foreign=True), store, target)
    ids = tensors["in.full.input_ids"]
    with torch.inference_mode():
        logits = model(ids, torch.arange(ids.shape[1]).expand_as(ids))
    return compared(logits.flatten(0, 1), tensors["out.full.logits"].flatten(0, 1))


def masked_scenes(model: Any, count: int, mask_ratio: float, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(ids with masks, masked positions, true ids there) of pictures behind their captions."""
    from llada_uni import prompts
    from llada_uni.scenes import render, sample_captioned

    networks, found = model.networks, []
    for index in range(count):
        rng = random.Random(f"quantisation/{seed}/{index}")
        graph, caption = sample_captioned(rng)
        encoded = model.encode_image(render(graph))
        rows = prompts.t2i(networks.vocab, networks.tokenizer, caption, encoded.grid)
        ids = torch.tensor([*rows.cond, *networks.vocab.to_ids(encoded.codes)])
        start = len(rows.cond)
        number = max(1, int(mask_ratio * len(encoded.codes)))
        places = torch.tensor(sorted(rng.sample(range(start, len(ids)), number)))
        true = ids[places]
        ids[places] = networks.vocab.special.mask
        found.append((ids, places, true))
    return found


@torch.inference_mode()
def masked_logits(model: Any, scenes: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
    """Logits over the codes [masked, K] of every scene."""
    backbone, vocab = model.networks.backbone, model.networks.vocab
    codes, logits = (vocab.image_offset, vocab.image_offset + vocab.num_codes), []
    for ids, places, _ in scenes:
        block = torch.arange(len(ids)) // model.networks.package.presets.block_length
        allowed = (block[None] <= block[:, None])[None, None]
        hidden = backbone.hidden(ids[None], backbone.config.positions(ids)[None], allowed)
        logits.append(backbone.logits(hidden[0, places], codes))
    return logits


def of_model(
    options: argparse.Namespace, form: str, reference: list[Tensor] | None
) -> tuple[dict[str, Any], list[Tensor]]:
    """One form of the model's experts; ``reference``: logits of the stored form, None where this is it."""
    from llada_uni import LladaUni
    from llada_uni.evaluation.scenebench import run_scenebench
    from llada_uni.weights.large import network_bytes

    model = LladaUni.from_pretrained(options.model, device="cpu", quantize=None if form == "none" else form)
    scenes = masked_scenes(model, options.scenes, options.mask_ratio, options.seed)
    logits = masked_logits(model, scenes)
    true = torch.cat([ids for *_, ids in scenes]) - model.networks.vocab.image_offset
    sure = torch.cat(logits).log_softmax(-1).gather(-1, true[:, None])
    numbers: dict[str, Any] = {
        "backbone_bytes": network_bytes(model.networks.backbone),
        "masked_codes": compared(torch.cat(logits), torch.cat(reference or logits)),
        "nats_of_the_true_code": -float(sure.mean()),
    }
    if options.limit:
        tell = lambda part, done, total, right: sys.stderr.write(f"{form} {part} {done}/{total}\n")  # noqa: E731
        bench = run_scenebench(model, limit=options.limit, seed=options.seed, progress=tell)
        for part in ("generation", "understanding"):
            numbers[part] = _counted(bench[part])
    return numbers, logits


def without_experts(options: argparse.Namespace, reference: list[Tensor]) -> dict[str, float]:
    """A yardstick: the same errors when the routed experts answer nothing at all."""
    from llada_uni import LladaUni
    from llada_uni.layers.moe import Experts

    model = LladaUni.from_pretrained(options.model, device="cpu")
    for part in model.networks.backbone.modules():
        if isinstance(part, Experts):
            part.down_proj.data.zero_()
    scenes = masked_scenes(model, options.scenes, options.mask_ratio, options.seed)
    return compared(torch.cat(masked_logits(model, scenes)), torch.cat(reference))


def _counted(part: dict[str, Any]) -> dict[str, int]:
    cells = [*part["categories"].values(), *part["held_out"].values()]
    return {key: sum(cell[key] for cell in cells) for key in ("correct", "total")}


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)
    forms = list(dict.fromkeys(("none", *options.forms)))
    numbers: dict[str, Any] = {"model": options.model, "forms": {}}
    reference: list[Tensor] | None = None
    for form in forms:
        found, logits = of_model(options, form, reference)
        reference = reference or logits
        numbers["forms"][form] = {"golden": {name: golden(name, form) for name in GOLDEN}} | found
    assert reference is not None
    numbers["without_experts"] = without_experts(options, reference)
    write(record(numbers, device="cpu", arguments=arguments), options.out)


if __name__ == "__main__":
    main()
