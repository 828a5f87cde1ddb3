"""What the pixel decoder's options cost and save: every route on the same true codes, with the same noise.

Scenes of the world are rendered and encoded to their true codes. Each route decodes them, one picture after another in
turn, so that a busy machine slows all routes alike. "plain" calls the decoder directly, which refines the condition in
every evaluation; "refined once" does that once per picture, both guidance branches together, and nothing else ahead;
"exact" is what the pipeline does unless told otherwise. The other routes are compared with the exact one of their
group: difference of pixels, pictures that the verifier reads as a scene that satisfies the caption.

python benchmarks/decoder_options.py --count 10 --out benchmarks/results/decoder_options_nano.json
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _record import paired_difference, record, write
from decoders import cases, outcomes

PLAIN, ONCE, EXACT = "plain", "refined once", "exact"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way to draw: ``group`` and ``name``; ``options`` as for ``decode_image``; ``tile_px`` of the autoencoder."""

    group: str
    name: str
    options: dict[str, Any]
    tile_px: int | None = None


@dataclass(kw_only=True)
class Found:
    """What a route gave, one entry per picture; evaluations count rows."""

    pictures: list[Any] = field(default_factory=list)
    decoder_s: list[float] = field(default_factory=list)
    vae_s: list[float] = field(default_factory=list)
    evaluations: int = 0
    reused: int = 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--count", type=int, default=10, help="number of pictures")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--guidance", type=float, default=2.0, help="decoder_guidance of the guided group")
    options.add_argument("--interval", type=float, nargs=2, action="append", metavar=("LOW", "HIGH"))
    options.add_argument("--step-cache", type=float, nargs="+", default=[0.07, 0.1, 0.15])
    options.add_argument("--turbo-step-cache", type=float, nargs="+", default=[0.3])
    options.add_argument("--vae-tile", type=int, default=64, help="tiles of the tiled route, pixels")
    options.add_argument("--device", default="auto")
    options.add_argument("--out", type=Path, help="result file")
    return options


def routes(options: argparse.Namespace) -> list[Route]:
    """All routes, the exact one of a group before those that are compared with it."""
    guided = {"decoder": "normal", "decoder_guidance": options.guidance}
    intervals = options.interval or [[0.0, 0.5], [0.25, 1.0]]
    groups = {
        "turbo": ({"decoder": "turbo"}, options.turbo_step_cache, []),
        "normal": ({"decoder": "normal"}, options.step_cache, []),
        "guided": (guided, options.step_cache[1:2], intervals),
    }
    found = []
    for group, (base, thresholds, limits) in groups.items():
        found += [Route(group=group, name=name, options=base) for name in (PLAIN, ONCE, EXACT)]
        found += [Route(group=group, name=f"step cache {r:g}", options=base | {"step_cache": r}) for r in thresholds]
        for low, high in limits:
            limited = base | {"guidance_interval": (low, high)}
            found.append(Route(group=group, name=f"interval {low:g} to {high:g}", options=limited))
    both = guided | {"guidance_interval": tuple(intervals[0]), "step_cache": options.step_cache[0]}
    found.append(Route(group="guided", name="first interval, first step cache", options=both))
    found.append(
        Route(
            group="turbo", name=f"tiles of {options.vae_tile}", options={"decoder": "turbo"}, tile_px=options.vae_tile
        )
    )
    return found


def draw(model: Any, route: Route, encoded: Any, seed: int, found: Found) -> None:
    """One picture by one route."""
    import torch

    from llada_uni.pipeline.pixels import to_images
    from llada_uni.pipeline.settings import decode_settings
    from llada_uni.pipeline.velocity import OneContext
    from llada_uni.protocols import LatentsDone
    from llada_uni.sampling.flow_sampler import sample_latents

    networks = model.networks
    given = {"decoder": None, "num_steps": None} | route.options
    settings = decode_settings(networks.package.presets, **given)
    decoder, grid = networks.decoder(settings.decoder), encoded.grid
    cells, shared = networks.geometry.condition_grid(grid), networks.shared_work(decoder)
    velocity: Any = decoder
    if route.name == ONCE:
        velocity = _RefinedOnce(decoder, cells)
    elif route.name != PLAIN:
        velocity = OneContext(decoder, cells, shared=shared, step_cache=settings.step_cache)
    rows = _Rows(velocity)
    with torch.inference_mode():
        began = _now(networks.device)
        codes = torch.tensor([encoded.codes]).unflatten(1, (grid.grid_h, grid.grid_w))
        features = networks.semantic_embedder(codes.to(networks.device))
        shape = (decoder.config.in_channels, *networks.geometry.latent_hw(grid))
        events = sample_latents(rows, features, latent_shape=shape, seeds=[seed], settings=settings.flow())
        (latents,) = [event.latents for event in events if isinstance(event, LatentsDone)]
        middle = _now(networks.device)
        found.pictures += to_images(networks.vae, latents[None], tile_px=route.tile_px)
    found.decoder_s.append(middle - began)
    found.vae_s.append(_now(networks.device) - middle)
    found.evaluations += rows.count
    found.reused += getattr(getattr(velocity, "steps", None), "reused", 0)


class _RefinedOnce:
    """Refines the condition when it is a new one, the blank rows with the others."""

    def __init__(self, decoder: Any, cells: tuple[int, int]) -> None:
        self._decoder, self._cells, self._features = decoder, cells, None

    def __call__(self, latents: Any, time: Any, features: Any) -> Any:
        if self._features is not features:
            self._features, self._context = features, self._decoder.context(features, self._cells)
        return self._decoder(latents, time, self._context)


class _Rows:
    """Counts the rows that a velocity field is asked for."""

    def __init__(self, velocity: Any) -> None:
        self.count, self._velocity = 0, velocity

    def __call__(self, latents: Any, time: Any, features: Any) -> Any:
        self.count += latents.shape[0]
        return self._velocity(latents, time, features)


def _now(device: Any) -> float:
    """Seconds: processor time on a CPU, which others cannot lengthen, else wall time after what is under way."""
    if device.type == "cpu":
        return time.process_time()
    import torch

    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(model: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All routes over all pictures."""
    from llada_uni.scenes import render

    scenes = cases(options.count, options.seed, square=False)
    encoded = model.encode_image([render(graph) for graph, _ in scenes])
    ways = routes(options)
    for way in ways:  # nothing is loaded and nothing warmed up on anybody's time
        draw(model, replace(way, options=way.options | {"num_steps": 1}), encoded[0], 0, Found())
    found = [Found() for _ in ways]
    for index, one in enumerate(encoded):
        for offset in range(len(ways)):
            place = (index + offset) % len(ways)
            draw(model, ways[place], one, options.seed + index, found[place])
        sys.stderr.write(f"{index + 1}/{len(encoded)}\n")
    passed = [outcomes(scenes, one.pictures) for one in found]
    exact = {way.group: place for place, way in enumerate(ways) if way.name == EXACT}
    return [
        _row(way, found[place], passed[place], found[exact[way.group]], passed[exact[way.group]])
        for place, way in enumerate(ways)
    ]


def _row(way: Route, found: Found, passed: list[bool], exact: Found, exact_passed: list[bool]) -> dict[str, Any]:
    import numpy as np

    pairs = zip(found.pictures, exact.pictures, strict=True)
    differences = [np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)) for a, b in pairs]
    count = max(len(passed), 1)
    decoder_s, vae_s = sum(found.decoder_s) / count, sum(found.vae_s) / count
    return {
        "group": way.group,
        "route": way.name,
        "options": way.options | ({} if way.tile_px is None else {"vae_tile_px": way.tile_px}),
        "decoder_s_per_picture": round(decoder_s, 4),
        "vae_s_per_picture": round(vae_s, 4),
        "times_faster_than_exact": round(sum(exact.decoder_s) / max(sum(found.decoder_s), 1e-9), 3),
        "row_evaluations_per_picture": found.evaluations / count,
        "reused_per_picture": found.reused / count,
        "satisfied": sum(passed),
        "total": len(passed),
        "satisfied_minus_exact": paired_difference(exact_passed, passed),
        "pixel_difference_mean": round(float(np.mean([one.mean() for one in differences])), 4),
        "pixel_difference_largest_picture_mean": round(float(max(one.mean() for one in differences)), 4),
        "pixels_equal": all(not one.any() for one in differences),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)

    from llada_uni import LladaUni

    model = LladaUni.from_pretrained(options.model, device=options.device)
    presets = model.networks.package.presets
    numbers = {
        "model": options.model,
        "seed": options.seed,
        "num_steps": {"normal": presets.num_steps, "turbo": presets.turbo_steps},
        "seconds": "processor" if model.networks.device.type == "cpu" else "wall",
        "routes": measure(model, options),
    }
    write(record(numbers, device=str(model.networks.device), arguments=arguments), options.out)


if __name__ == "__main__":
    main()
