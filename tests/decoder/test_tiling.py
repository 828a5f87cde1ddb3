"""The autoencoder in tiles: the arithmetic of tiles is exact, the networks' own result close and without seams."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import llada_uni
from llada_uni.decoder import VAE, VAEConfig
from llada_uni.decoder.tiling import AUTO_PIXELS, Tiling, blend_tiles, decode, encode, spans, tiling_for
from llada_uni.errors import ConfigError, SizeError
from llada_uni.scenes import SceneGraph, SceneObject, render
from llada_uni.weights.load import load_vae

NANO = Path(str(llada_uni.__file__)).parent / "nano"
SMALL = VAEConfig(
    block_out_channels=(8, 16),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=4,
    mid_block_add_attention=True,
    scaling_factor=0.7,
    shift_factor=0.2,
)


def random_vae(*, local: bool = False) -> VAE:
    """``local``: without what looks at the whole picture, normalisation and attention."""
    torch.manual_seed(4)
    model = VAE(SMALL).double().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    if local:
        for module in list(model.modules()):
            for child, part in module.named_children():
                if isinstance(part, nn.GroupNorm):
                    setattr(module, child, nn.Identity())
        model.encoder.mid_block.attentions = model.decoder.mid_block.attentions = nn.ModuleList()
    return model


@pytest.mark.parametrize(("side", "overlap"), [(8, 2), (12, 4), (3, 1), (7, 2)])
def test_spans_cover_everything_with_enough_overlap(side: int, overlap: int) -> None:
    for size in range(1, 60):
        found = spans(size, side, overlap)
        assert (found[0][0], found[-1][1]) == (0, size)
        assert len({stop - start for start, stop in found}) == 1
        assert all(stop - start <= side for start, stop in found)
        assert all(before[1] - after[0] >= overlap for before, after in pairwise(found))
        assert all(before[1] <= after[0] for before, after in zip(found, found[2:], strict=False))
    assert spans(side, side, overlap) == [(0, side)]


@pytest.mark.parametrize("size", [(20, 20), (9, 31), (8, 8), (5, 40)])
@pytest.mark.parametrize(("scale_in", "scale_out"), [(1, 1), (1, 3), (2, 1)])
def test_what_treats_cells_alone_is_exact(size: tuple[int, int], scale_in: int, scale_out: int) -> None:
    x = torch.randn(2, 3, size[0] * scale_in, size[1] * scale_in, dtype=torch.float64)

    def function(part: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(part, scale_in) if scale_in > 1 else part
        return torch.nn.functional.interpolate(small.sin(), scale_factor=float(scale_out), mode="nearest")

    found = blend_tiles(function, x, 8, 2, scale_in=scale_in, scale_out=scale_out)
    torch.testing.assert_close(found, function(x), rtol=0, atol=1e-12)


def test_one_tile_is_the_whole_computation() -> None:
    vae = random_vae()
    latents, tiling = torch.randn(1, 4, 16, 12, dtype=torch.float64), Tiling(tile_px=32)
    assert torch.equal(decode(vae, latents, tiling), vae.decode(latents))
    assert torch.equal(decode(vae, latents, None), vae.decode(latents))
    pictures = torch.rand(1, 3, 32, 24, dtype=torch.float64)
    for whole, tiled in zip(vae.encode(pictures), encode(vae, pictures, tiling), strict=True):
        assert torch.equal(whole, tiled)


def test_without_what_looks_at_the_whole_picture_only_the_neighbourhood_of_seams_differs() -> None:
    """Convolutions see zeros beyond a tile; a cell further from every tile's border than they reach is exact."""
    vae = random_vae(local=True)
    latents = torch.randn(1, 4, 64, 32, dtype=torch.float64)
    whole, tiled = vae.decode(latents), decode(vae, latents, Tiling(tile_px=80))
    (_, first_stop), (second_start, _) = spans(64, 40, 10)
    reach = 10
    difference = (whole - tiled).abs().amax((0, 1, 3))
    inside = [slice(0, 2 * (second_start - reach)), slice(2 * (first_stop + reach), 128)]
    assert all(difference[part].max() < 1e-9 for part in inside if part.stop > part.start)
    assert difference.max() > 1e-6


def test_there_is_no_seam() -> None:
    """From one row to the next the edges of tiles step no more than the whole computation does anywhere."""
    vae = random_vae()
    latents = torch.randn(1, 4, 48, 48, dtype=torch.float64)
    whole, tiled = vae.decode(latents), decode(vae, latents, Tiling(tile_px=48))
    steps = (tiled[..., 1:, :] - tiled[..., :-1, :]).abs().mean((0, 1, 3))
    usual = (whole[..., 1:, :] - whole[..., :-1, :]).abs().mean((0, 1, 3))
    edges = {2 * edge for span in spans(48, 24, 6) for edge in span} - {0, 96}
    assert edges
    assert max(float(steps[edge - 1]) for edge in edges) <= float(usual.max()) * 1.05
    butted = torch.cat([vae.decode(latents[..., :24, :]), vae.decode(latents[..., 24:, :])], dim=-2)
    assert (tiled - whole).abs().mean() < (butted - whole).abs().mean() * 2


@pytest.mark.parametrize("way", ["decode", "encode"])
def test_tiles_are_normalised_like_the_whole_picture(way: str) -> None:
    """A picture whose halves differ: tiles normalised by themselves would level them out."""
    vae = random_vae()
    generator = torch.Generator().manual_seed(1)
    fine = torch.randn(1, 4, 48, 48, dtype=torch.float64, generator=generator)
    fine[..., 24:] = 0.2 * fine[..., 24:] + 2.0
    if way == "encode":
        fine = torch.nn.functional.interpolate(fine[:, :3], scale_factor=2.0)
    tiling = Tiling(tile_px=48)

    def run(how: Tiling | None) -> Tensor:
        return decode(vae, fine, how) if way == "decode" else encode(vae, fine, how)[0]

    alone = (
        blend_tiles(vae.decode, fine, 24, 6, scale_out=2)
        if way == "decode"
        else blend_tiles(lambda part: vae.encode(part)[0], fine, 24, 6, scale_in=2)
    )
    whole = run(None)
    assert (run(tiling) - whole).abs().mean() < 0.5 * (alone - whole).abs().mean()
    assert torch.equal(run(None), whole), "the networks are as they were"


def test_nanos_pictures_in_tiles_look_the_same() -> None:
    """Of 255: tiles of 16 x 16 cells of a picture of 32 x 32, far smaller than tiles that are used."""
    scene = SceneGraph(objects=(SceneObject(kind="fish", colour="blue", size="large", row=2, column=2),))
    vae = load_vae(NANO)
    pixels = torch.from_numpy(np.array(render(scene))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        latents, _ = vae.encode(pixels)
        whole, tiled = vae.decode(latents), decode(vae, latents, Tiling(tile_px=64))
    assert float((whole - tiled).clamp(-2, 2).abs().mean()) * 127.5 < 4


def test_a_flat_picture_stays_flat_across_tiles() -> None:
    """Away from the picture's own border all tiles agree, so that blending leaves no pattern."""
    vae = random_vae(local=True)
    latents = torch.ones(1, 4, 64, 64, dtype=torch.float64)
    whole = vae.decode(latents)
    tiled = decode(vae, latents, Tiling(tile_px=64))
    middle = whole[0, :, 64, 64]
    spread = (tiled[0, :, 30:-30, 30:-30] - middle[:, None, None]).abs().amax()
    border = (whole[0] - middle[:, None, None]).abs().amax()
    assert spread < border


def test_encoding_in_tiles_is_close() -> None:
    vae = random_vae()
    pictures = torch.rand(1, 3, 96, 64, dtype=torch.float64) * 2 - 1
    mean, logvar = encode(vae, pictures, Tiling(tile_px=48))
    whole, _ = vae.encode(pictures)
    assert mean.shape == logvar.shape == whole.shape
    assert (mean - whole).abs().mean() < 0.35 * (whole - whole.mean()).abs().mean()
    with pytest.raises(SizeError, match="multiples of 2"):
        encode(vae, torch.rand(1, 3, 97, 64, dtype=torch.float64), Tiling(tile_px=48))


def test_when_tiles_are_used() -> None:
    assert tiling_for(1600, 1600, None) is None
    assert AUTO_PIXELS == 1600 * 1600
    assert tiling_for(2048, 2048, None) == Tiling()
    assert tiling_for(2048, 2048, 0) is None
    assert tiling_for(512, 512, 512) is None
    assert tiling_for(512, 544, 512) == Tiling(tile_px=512)


def test_impossible_tiles_are_refused() -> None:
    for bad in ({"tile_px": 0}, {"overlap_ratio": 0.0}, {"overlap_ratio": 0.5}):
        with pytest.raises(ConfigError, match="tile_px >= 1"):
            Tiling(**bad)
    with pytest.raises(SizeError, match="at least 24 for this autoencoder, got 16"):
        Tiling(tile_px=16).cells(8)
