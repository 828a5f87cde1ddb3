"""The pixel decoder: one evaluation of the velocity by size and batch, whole pictures, and what reloading costs.

python benchmarks/decoder.py --out benchmarks/results/decoder_nano.json
python benchmarks/decoder.py --size uni --device cuda --grids 8 16 32 64 --out benchmarks/results/decoder_uni.json

An evaluation: "ours" refines the condition once per picture (before what is measured), "reference" in every evaluation
as released; "diffusers" is the library's Z-Image transformer with the very same weights. All three have the released
positions, which is what the library knows. Whole pictures are drawn by the pipeline's own station. 49 x 2 evaluations
are the released normal decoder with guidance, 8 the distilled one. Reloading reads decoder, semantic embedder and VAE
from files in the page cache.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from _floors import Machine, decoder_call, vae_call
from _record import record, write
from _sizes import Networks, Shapes, filled, random_ids, shapes
from _timing import arguments, clock, compared, run_options, seconds, spread, take_turns
from llada_uni.decoder.dit import Decoder
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.pixels import to_images
from llada_uni.pipeline.settings import DecodeSettings
from llada_uni.pipeline.stations import draw, returned
from llada_uni.pipeline.velocity import OneContext

TURBO = DecodeSettings(decoder="turbo", num_steps=8, time_shift=1.0, decoder_guidance=1.0)
NORMAL = DecodeSettings(decoder="normal", num_steps=49, time_shift=6.0, decoder_guidance=2.0)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__, against=("reference", "diffusers"))
    made.add_argument("--grids", type=int, nargs="*", default=[8, 12, 16], help="sides of pictures, one evaluation")
    made.add_argument(
        "--batches", type=int, nargs="*", default=[1, 2, 8], help="pictures in one evaluation, first grid"
    )
    made.add_argument("--grid", type=int, help="side of whole pictures (default: 8, and 32 for uni)")
    made.add_argument("--whole", choices=("turbo", "normal"), nargs="*", default=["turbo", "normal"])
    made.add_argument("--steps", type=int, help="evaluations of whole pictures instead of 8 and 49, to rehearse")
    made.add_argument("--reload", action=argparse.BooleanOptionalAction, default=True)
    return made


def evaluation(found: Shapes, model: Decoder, options: Any, side: int, batch: int) -> dict[str, Any]:
    """One evaluation of the velocity by every side, other latents and times in every round."""
    grid = TokenGrid(side, side)
    condition, latent = found.geometry.condition_grid(grid), found.geometry.latent_hw(grid)
    generator = torch.Generator().manual_seed(options.seed)
    shape = (options.rounds, batch, found.decoder.in_channels, *latent)
    latents = torch.randn(shape, generator=generator).to(options.device, options.dtype)
    features = torch.randn(batch, condition[0] * condition[1], found.decoder.cap_feat_dim, generator=generator)
    features = features.to(options.device, options.dtype)
    times = torch.rand(options.rounds, batch, generator=generator).to(options.device)
    velocity = OneContext(model, condition)
    sides: dict[str, Any] = {"ours": lambda n: velocity(latents[n], times[n], features)}
    if "reference" in options.against:
        sides["reference"] = lambda n: model(latents[n], times[n], features)
    if "diffusers" in options.against:
        from _diffusers_peers import pixel_peer, velocity_of_theirs

        theirs = pixel_peer(model)
        sides["diffusers"] = lambda n: velocity_of_theirs(theirs, latents[n], times[n], features)
    taken = take_turns(sides, options.rounds, options.device)
    told = compared(taken, "ours")
    cost = decoder_call(found, grid, batch=batch, element=options.dtype.itemsize)
    with torch.inference_mode():
        results = {name: run(0).float() for name, run in sides.items()}
    sys.stderr.write(f"{side} x {side}, batch {batch}: {told['times_faster']}\n")
    return {
        "grid": side,
        "batch": batch,
        **told,
        "difference": {
            name: float((value - results["ours"]).norm() / results["ours"].norm())
            for name, value in results.items()
            if name != "ours"
        },
        **cost.as_dict(options.machine),
    }


def whole(networks: Networks, options: Any) -> dict[str, Any]:
    """Seconds of whole pictures, of the VAE in them, and of reading all that draws from files."""
    grid, found = TokenGrid(options.grid, options.grid), networks.shapes
    codes = random_ids(options.rounds * grid.num_tokens, 0, found.embedder.num_codes, options.seed)
    codes = codes.view(options.rounds, 1, -1)
    wanted = {"turbo": TURBO, "normal": NORMAL}

    def picture(name: str) -> Any:
        settings = wanted[name]
        if options.steps:
            settings = DecodeSettings(**settings.as_dict() | {"num_steps": options.steps})
        return lambda turn: returned(draw(networks, codes[turn], grid, [turn], settings))  # type: ignore[arg-type]

    latents = torch.randn(1, found.vae.latent_channels, *found.geometry.latent_hw(grid)).to(options.device)
    sides = {name: picture(name) for name in options.whole}
    sides["VAE"] = lambda _: to_images(networks.vae, latents)
    taken = take_turns(sides, options.rounds, options.device)
    numbers: dict[str, Any] = {
        "grid": options.grid,
        "evaluations": {name: options.steps or wanted[name].num_steps for name in options.whole},
        "seconds": {name: spread(values) for name, values in taken.items()},
        "vae": vae_call(found, grid, element=options.dtype.itemsize).as_dict(options.machine),
    }
    if options.reload:
        numbers["reload"] = reloading(networks, options)
    return numbers


def reloading(networks: Networks, options: Any) -> dict[str, Any]:
    """Seconds to read decoder, semantic embedder and VAE from files that were just written."""
    modules = (networks.decoder("turbo"), networks.semantic_embedder, networks.vae)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{n}.safetensors" for n in range(len(modules))]
        for module, path in zip(modules, paths, strict=True):
            save_file(module.state_dict(), path)

        def read() -> None:
            for module, path in zip(modules, paths, strict=True):
                module.load_state_dict(load_file(path, device=str(options.device)), assign=True)

        taken = [seconds(read, options.device) for _ in range(options.rounds)]
        return {"gb": sum(path.stat().st_size for path in paths) / 1e9, "seconds": spread(taken)}


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = run_options(parser(), given)
    options.grid = options.grid or (32 if options.size == "uni" else 8)
    options.machine = Machine.measured(options.device, options.dtype)
    networks = Networks(shapes(options.size), device=options.device, dtype=options.dtype, seed=options.seed)
    numbers: dict[str, Any] = {
        "size": options.size, "dtype": str(options.dtype).removeprefix("torch."), "clock": clock(options.device),
        "machine": options.machine.as_dict(),
    }  # fmt: skip
    if options.grids:
        from _diffusers_peers import fields_they_know

        found = replace(networks.shapes, decoder=fields_they_know(networks.shapes.decoder))
        model = filled(lambda: Decoder(found.decoder), device=options.device, dtype=options.dtype, seed=options.seed)
        points = [(side, 1) for side in options.grids] + [(options.grids[0], n) for n in options.batches if n > 1]
        numbers["evaluations"] = [evaluation(found, model, options, *point) for point in points]
        del model
    if options.whole:
        numbers["whole"] = whole(networks, options)
    write(record(numbers, device=str(options.device), arguments=given), options.out)


if __name__ == "__main__":
    main()
