"""Flow-matching transformer: noisy latents, time and semantic features -> velocity.

A single-stream network in the style of Z-Image: image tokens and condition tokens are refined apart, then pass through
the same layers as one sequence. Source: LLaDA2.0-Uni paper (arXiv 2604.20796), diffusion decoder, and released
``decoder/decoder_model.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from llada_uni.decoder.blocks import Block, FinalLayer, TimeEmbedding
from llada_uni.decoder.config import DecoderConfig
from llada_uni.decoder.positions import PlaceTables, condition_positions, image_positions, padded, rotation
from llada_uni.errors import SizeError
from llada_uni.layers.norm import RMSNorm

__all__ = ["Decoder", "JointTokens", "TokenBatch", "TrunkOutput", "patch_tokens"]


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Embedded tokens of several pictures, pads included.

    ``tokens`` [B, S, dim]; ``positions`` int64 [B or 1, S, 3]; ``lengths`` the number of tokens of every item that may
    be attended to, smaller than S only where items of different size share a batch. ``rotation``: cosines and sines of
    image and condition tokens together, where they were made ahead for images of ``grid`` (``Decoder.prepare``).
    """

    tokens: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    rotation: tuple[Tensor, Tensor] | None = None
    grid: tuple[int, int] | None = None

    def mask(self) -> Tensor:
        """Bool [B, 1, 1, S], True for the tokens that belong to an item."""
        lengths = torch.tensor(self.lengths, device=self.tokens.device)
        return (torch.arange(self.tokens.shape[1], device=self.tokens.device) < lengths[:, None])[:, None, None]


@dataclass(frozen=True, kw_only=True)
class JointTokens:
    """Image and condition tokens as one sequence, at some depth of the shared layers.

    ``tokens`` [B, S, dim], the ``length`` image tokens (pads included) first, of which the first rows x columns of
    ``grid`` are cells; ``modulation`` [B, modulation_dim]; ``rotation`` and ``mask`` as for the blocks.
    """

    tokens: Tensor
    modulation: Tensor
    rotation: tuple[Tensor, Tensor]
    mask: Tensor | None
    length: int
    grid: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TrunkOutput:
    """What an output head reads: image tokens [B, n, dim], time embedding [B, modulation_dim], (rows, columns) of n."""

    tokens: Tensor
    modulation: Tensor
    grid: tuple[int, int]


class Decoder(nn.Module):
    """The diffusion transformer; parameter names are those of the released file.

    Time runs from 0 (noise) to 1 (data) and the output is the velocity data - noise. Freshly built it predicts zero.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        name = f"{config.patch_size}-1"
        self.x_pad_token = nn.Parameter(torch.empty(1, config.dim).normal_(std=0.02))
        self.cap_pad_token = nn.Parameter(torch.empty(1, config.dim).normal_(std=0.02))
        self.all_x_embedder = nn.ModuleDict({name: nn.Linear(config.patch_features, config.dim)})
        self.all_final_layer = nn.ModuleDict({name: FinalLayer(config)})
        self.t_embedder = TimeEmbedding(config)
        self.semantic_embedder = nn.Sequential(
            RMSNorm(config.cap_feat_dim, eps=config.norm_eps), nn.Linear(config.cap_feat_dim, config.dim)
        )
        self.places = PlaceTables(config.absolute_positions, config.dim) if config.absolute_positions else None
        self.noise_refiner = _blocks(config, config.n_refiner_layers, modulated=True)
        self.context_refiner = _blocks(config, config.n_refiner_layers, modulated=False)
        self.layers = _blocks(config, config.n_layers, modulated=True)

    @property
    def final_layer(self) -> FinalLayer:
        """The output head (copy it to start an auxiliary head from the trained one)."""
        return next(iter(self.all_final_layer.values()))  # type: ignore[return-value]

    def forward(
        self, latents: Tensor, time: Tensor, semantic_features: Tensor | TokenBatch, *, origin: Tensor | None = None
    ) -> Tensor:
        """Predict the velocity of pictures of one size.

        Args:
            latents: [B, in_channels, H, W], H and W multiples of the patch size.
            time: [B] in [0, 1]; keep it float32 or wider.
            semantic_features: [B, L, cap_feat_dim], or what ``context`` made of it.
            origin: int64 [B, 2], for crops the row and column of their first token in the whole picture; a context
                that is passed in must have been computed with the same.

        Returns:
            [B, in_channels, H, W] in the dtype of ``latents``. No item depends on the others.

        Raises:
            SizeError: sides off the patch grid, beyond the position tables, or a condition that does not fit them.
        """
        return self.head(self.trunk(latents, time, semantic_features, origin=origin)).to(latents.dtype)

    def forward_list(
        self, latents: Sequence[Tensor], time: Tensor, semantic_features: Sequence[Tensor]
    ) -> list[Tensor]:
        """``forward`` for pictures of different sizes: [C, Hi, Wi] and [Li, F] per item, each as if it were alone."""
        grids = [self._grid(item) for item in latents]
        conditions = zip(semantic_features, grids, strict=True)
        context = self._refine(_stack([self._condition(item[None], grid) for item, grid in conditions]))
        images = zip(latents, grids, context.lengths, strict=True)
        image = _stack([self._image(item[None], grid, length) for item, grid, length in images])
        modulation = self.t_embedder(time)
        tokens = self._through(self._joined(image, context, modulation, grids[0]), 0).tokens
        outputs = (
            TrunkOutput(tokens=tokens[i : i + 1, : grid[0] * grid[1]], modulation=modulation[i : i + 1], grid=grid)
            for i, grid in enumerate(grids)
        )
        return [self.head(output)[0].to(item.dtype) for output, item in zip(outputs, latents, strict=True)]

    def context(
        self, semantic_features: Tensor, grid: tuple[int, int] | None = None, *, origin: Tensor | None = None
    ) -> TokenBatch:
        """Embed and refine the condition, which depends on neither time nor latents: once per picture is enough.

        Args:
            semantic_features: [B, L, cap_feat_dim].
            grid: (rows, columns) of image tokens, needed where ``condition_positions`` is ``"grid"``.
            origin: as for ``forward``.
        """
        return self._refine(self._condition(semantic_features, grid, origin))

    def prepare(self, semantic_features: Tensor, grid: tuple[int, int]) -> TokenBatch:
        """``context`` of whole pictures with the rotation of all tokens: everything that no time or latent changes.

        ``grid``: (rows, columns) of image tokens. Passed to ``forward`` it gives the numbers that the features give.
        """
        context = self.context(semantic_features, grid)
        image = image_positions(grid, self.config.condition_positions, context.lengths[0], context.tokens.device)
        joint = self._rotation(torch.cat((image[None], context.positions), dim=1))
        return replace(context, rotation=joint, grid=grid)

    def trunk(
        self, latents: Tensor, time: Tensor, semantic_features: Tensor | TokenBatch, *, origin: Tensor | None = None
    ) -> TrunkOutput:
        """Everything before the output head; arguments and errors as for ``forward``."""
        return self.finish(self.begin(latents, time, semantic_features, origin=origin))

    def begin(
        self, latents: Tensor, time: Tensor, semantic_features: Tensor | TokenBatch, *, origin: Tensor | None = None
    ) -> JointTokens:
        """What enters the shared layers; arguments and errors as for ``forward``."""
        grid = self._grid(latents)
        given = isinstance(semantic_features, TokenBatch)
        context = semantic_features if given else self.context(semantic_features, grid, origin=origin)
        if context.tokens.shape[0] != latents.shape[0]:
            raise SizeError(f"got {latents.shape[0]} latents but conditions for {context.tokens.shape[0]}")
        if context.grid not in (None, grid):
            raise SizeError(f"got latents of {grid} tokens but a condition prepared for {context.grid} (rows, columns)")
        return self._joined(
            self._image(latents, grid, context.lengths[0], origin), context, self.t_embedder(time), grid
        )

    def first_layer(self, joint: JointTokens) -> JointTokens:
        """What ``begin`` gave after the first shared layer; the rest is ``finish(..., start=1)``."""
        return self._through(joint, 0, 1)

    def finish(self, joint: JointTokens, *, start: int = 0) -> TrunkOutput:
        """The shared layers from number ``start`` on."""
        tokens = self._through(joint, start).tokens
        rows, columns = joint.grid
        return TrunkOutput(tokens=tokens[:, : rows * columns], modulation=joint.modulation, grid=joint.grid)

    def head(self, output: TrunkOutput) -> Tensor:
        """Velocity [B, in_channels, H, W] from the trunk's output."""
        return self.final_layer(output.tokens, output.modulation, output.grid)

    def _condition(self, features: Tensor, grid: tuple[int, int] | None, origin: Tensor | None = None) -> TokenBatch:
        config = self.config
        if padded(features.shape[1]) + 1 >= config.axes_lens[0]:
            raise SizeError(f"{features.shape[1]} condition tokens exceed the decoder's {config.axes_lens[0] - 2}")
        positions = condition_positions(features.shape[1], config.condition_positions, grid, features.device)
        tokens = self._placed(self.semantic_embedder(features.to(self.cap_pad_token.dtype)), grid, origin)
        return _padded_batch(tokens, self.cap_pad_token, positions)

    def _image(
        self, latents: Tensor, grid: tuple[int, int], condition_length: int, origin: Tensor | None = None
    ) -> TokenBatch:
        config = self.config
        positions = image_positions(grid, config.condition_positions, condition_length, latents.device)
        (embedder,) = self.all_x_embedder.values()
        tokens = embedder(patch_tokens(latents, config.patch_size).to(self.x_pad_token.dtype))
        return _padded_batch(self._placed(tokens, grid, origin), self.x_pad_token, positions)

    def _placed(self, tokens: Tensor, grid: tuple[int, int] | None, origin: Tensor | None) -> Tensor:
        return tokens if self.places is None or grid is None else tokens + self.places(grid, origin)

    def _refine(self, context: TokenBatch) -> TokenBatch:
        x, turn = context.tokens, self._rotation(context.positions)
        mask = None if _full(context) else context.mask()
        for block in self.context_refiner:
            x = block(x, None, turn, mask)
        return TokenBatch(tokens=x, positions=context.positions, lengths=context.lengths)

    def _joined(self, image: TokenBatch, context: TokenBatch, modulation: Tensor, grid: tuple[int, int]) -> JointTokens:
        """Image tokens after the noise refiner, then the condition."""
        x, length = image.tokens, image.tokens.shape[1]
        cos, sin = context.rotation or self._rotation(torch.cat((image.positions, context.positions), dim=1))
        image_mask = joint_mask = None
        if not (_full(image) and _full(context)):
            image_mask = image.mask()
            joint_mask = torch.cat((image_mask, context.mask()), dim=-1)
        for block in self.noise_refiner:
            x = block(x, modulation, (cos[:, :, :length], sin[:, :, :length]), image_mask)
        x = torch.cat((x, context.tokens), dim=1)
        return JointTokens(
            tokens=x, modulation=modulation, rotation=(cos, sin), mask=joint_mask, length=length, grid=grid
        )

    def _through(self, joint: JointTokens, start: int, stop: int | None = None) -> JointTokens:
        """Shared layers ``start`` to ``stop``; the last of all gives the image tokens alone."""
        x, last = joint.tokens, len(self.layers) - 1
        for index in range(len(self.layers))[start:stop]:
            queries = joint.length if index == last else None
            x = self.layers[index](x, joint.modulation, joint.rotation, joint.mask, queries)
        return replace(joint, tokens=x)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(self.x_pad_token.dtype, torch.float32)
        return rotation(positions, self.config.axes_dims, self.config.rope_theta, dtype)

    def _grid(self, latents: Tensor) -> tuple[int, int]:
        """(rows, columns) of image tokens of [..., H, W] latents."""
        config = self.config
        (height, width), patch = latents.shape[-2:], config.patch_size
        if height % patch or width % patch or not (height and width):
            raise SizeError(f"latent sides must be positive multiples of {patch}, got {height} x {width}")
        if height // patch > config.axes_lens[1] or width // patch > config.axes_lens[2]:
            raise SizeError(
                f"latents of {height} x {width} exceed the decoder's "
                f"{config.axes_lens[1] * patch} x {config.axes_lens[2] * patch}"
            )
        return height // patch, width // patch


def patch_tokens(latents: Tensor, patch_size: int) -> Tensor:
    """[B, C, H, W] -> [B, (H/p)*(W/p), p*p*C]: raster order of patches, channel last inside a patch."""
    patches = latents.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _blocks(config: DecoderConfig, count: int, *, modulated: bool) -> nn.ModuleList:
    return nn.ModuleList(Block(config, modulated=modulated) for _ in range(count))


def _padded_batch(tokens: Tensor, pad: Tensor, positions: Tensor) -> TokenBatch:
    """Append the learned pad token until there are as many tokens [B, S, dim] as positions [S', 3]."""
    batch, length, width = tokens.shape
    pads = pad.expand(batch, positions.shape[0] - length, width)
    return TokenBatch(
        tokens=torch.cat((tokens, pads), dim=1), positions=positions[None], lengths=(positions.shape[0],) * batch
    )


def _stack(items: Sequence[TokenBatch]) -> TokenBatch:
    """One batch of single items, filled up with zero tokens that no item attends to."""
    longest = max(item.tokens.shape[1] for item in items)
    missing = [longest - item.tokens.shape[1] for item in items]
    tokens = [nn.functional.pad(item.tokens, (0, 0, 0, m)) for item, m in zip(items, missing, strict=True)]
    positions = [nn.functional.pad(item.positions, (0, 0, 0, m)) for item, m in zip(items, missing, strict=True)]
    return TokenBatch(
        tokens=torch.cat(tokens), positions=torch.cat(positions), lengths=tuple(item.lengths[0] for item in items)
    )


def _full(batch: TokenBatch) -> bool:
    return all(length == batch.tokens.shape[1] for length in batch.lengths)
