"""Image tokenizer stage: encoder and codebook, trained on understanding tasks only, never on pixels.

A small language model reads the quantised cells through an adapter and answers questions; beside it linear heads on the
adapter's output say what each cell shows (grounding asked at every cell at once). The language model, the adapter and
the heads are discarded. Features stay continuous for the first part of the run, then the codebook is placed on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada_uni.data.dense_labels import HEADS, IGNORED, cell_labels
from llada_uni.data.question_rows import question_rows
from llada_uni.data.scene_stream import GRID_SHARES, GridShares, draw_grid, draw_scenes, pictures, python_random
from llada_uni.data.tokenizer_pixels import jittered, to_patches
from llada_uni.grid import TokenGrid
from llada_uni.image_tokenizer.config import ImageTokenizerConfig, PreprocessorConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.scenes.graph import KINDS
from llada_uni.training.export import load_text_tokenizer, warm_start
from llada_uni.training.group import gathered
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.codebook import CodebookTrainer, kmeans_plus_plus, merge_codes
from llada_uni.training.objectives.reader import Adapter, Reader, ReaderConfig
from llada_uni.vocab import TextTokenizer, Vocab
from llada_uni.weights.save import save_image_tokenizer

__all__ = ["TokenizerObjective", "TokenizerObjectiveConfig", "within_group_variance"]

_HEAD_WEIGHTS = {
    "kind": 1.0,
    "colour": 1.0,
    "row": 0.5,
    "column": 0.5,
    "style": 0.5,
    "letter": 1.0,
    "size": 0.25,
    "background": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class TokenizerObjectiveConfig:
    """Shapes and weights of the stage."""

    tokenizer: ImageTokenizerConfig
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    continuous_share: float = 0.25
    unquantised_share: float = 0.1
    feature_noise: float = 0.1
    commitment_weight: float = 0.25
    gathering_weight: float = 1.0
    merge_share: float = 0.8
    reader_weight: float = 0.3
    reader_share: float = 0.25
    questions: int = 4
    codebook_decay: float = 0.99
    idle_limit: int = 300
    init_batches: int = 60
    grids: GridShares = GRID_SHARES
    eval_pictures: int = 256
    warm: str | None = None

    def build(self, resources: Resources, seed: int) -> TokenizerObjective:
        """A freshly initialised tokenizer and reader (or the tokenizer of checkpoint ``warm``)."""
        torch.manual_seed(seed)
        tokenizer = ImageTokenizer(self.tokenizer)
        initialise_encoder(tokenizer)
        warm_start(tokenizer, self.warm, "image_tokenizer", resources)
        return TokenizerObjective(self, tokenizer, load_text_tokenizer(resources.out))


class _Model(nn.Module):
    def __init__(self, config: TokenizerObjectiveConfig, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        shape, width = config.tokenizer.vq_config, config.reader.width
        self.tokenizer = tokenizer
        self.adapter = Adapter(shape.latent_channels, width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in HEADS.items()})
        self.reader = Reader(config.reader)
        self.trainer = CodebookTrainer(
            shape.num_embeddings, shape.embed_dim, decay=config.codebook_decay, idle_limit=config.idle_limit
        )
        tokenizer.codebook.requires_grad_(False)


class TokenizerObjective:
    """Codes that answer questions."""

    def __init__(self, config: TokenizerObjectiveConfig, tokenizer: ImageTokenizer, text: TextTokenizer) -> None:
        self.config = config
        self.model = _Model(config, tokenizer)
        self._text = text
        self._vocab: Vocab = text.vocab(
            text_vocab_size=config.reader.text_vocab_size, num_codes=config.tokenizer.vq_config.num_embeddings
        )
        self._seen: list[tuple[Tensor, Tensor]] = []

    def batch(self, draw: Draw) -> Batch:
        """Patches, cell labels and packed questions about the first ``reader_share`` of the pictures."""
        rng = draw.numpy("scenes")
        grid = draw_grid(rng, self.config.grids)
        count = max(round(draw.size * 64 / (grid[0] * grid[1])), 1)
        graphs = draw_scenes(rng, count, grid)
        images = jittered(rng, pictures(graphs))
        read = max(round(count * self.config.reader_share), 1)
        text = question_rows(graphs[:read], python_random(rng), self._text, self._vocab, self.config.questions)
        labels = {name: torch.from_numpy(values) for name, values in cell_labels(graphs).items()}
        patch = self.config.tokenizer.vision_config.patch_size
        return {"patches": to_patches(images, patch), "grid": grid, "labels": labels, "text": text.mapping()}

    def weight(self, batch: Batch) -> float:
        """Number of cells."""
        return float(len(batch["patches"]))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Weighted sum of the heads' mean cross-entropies, the reader's and the commitment term."""
        unit = self._unit_features(batch)
        cells, commitment, metrics = self._quantised(unit, batch, generator)
        tokens = self._tokens(cells)
        dense, accuracies = self._dense(tokens, batch["labels"])
        reading, right = self._reading(tokens, batch)
        config = self.config
        spread = within_group_variance(unit, _meaning(batch["labels"]))
        total = dense + config.reader_weight * reading + config.commitment_weight * commitment
        total = total + config.gathering_weight * spread
        parts = {"dense": dense.detach(), "reading": reading.detach(), "spread": spread.detach()}
        shown = {**parts, "answers": right, **accuracies, **metrics}
        return total, shown

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Places the codebook when the continuous part ends; afterwards moves it after every step."""
        trainer, codebook = self.model.trainer, self.model.tokenizer.codebook
        if not int(trainer.active):
            if step >= round(self.config.continuous_share * horizon):
                trainer.start(codebook, self._initial_centres(step))
            return {}
        seen, self._seen = gathered(self._seen), []
        unit, codes = (torch.cat(parts).to(codebook.device) for parts in zip(*seen, strict=True))
        restarts = trainer.update(codebook, unit, codes)
        if not int(trainer.merged) and step >= round(self.config.merge_share * horizon):
            return self.merge(step)
        used = trainer.size.clamp_min(0) / trainer.size.sum()
        entropy = -(used * used.clamp_min(1e-12).log()).sum()
        return {"restarts": float(restarts), "perplexity": float(entropy.exp())}

    def conclude(self, seed: int) -> Metrics:
        """Merges codes of one meaning if training has not done it."""
        return {} if int(self.model.trainer.merged) else self.merge(seed)

    @torch.no_grad()
    def merge(self, seed: int) -> Metrics:
        """Merges codes of one meaning: those that get the same answer from every head.

        The merged code is the mean direction of its cells; the others are turned away from all features and never
        come out again. What a code cannot express the backbone need not guess.
        """
        was_training = self.model.training
        self.model.eval()
        device = self.model.tokenizer.codebook.device
        points = [
            self._unit_features(_on(self.batch(Draw(seed=seed, step=index, size=64)), device))
            for index in range(self.config.init_batches)
        ]
        before, after = merge_codes(self.model.tokenizer.codebook, torch.cat(points), self._answers())
        self.model.trainer.adopt(self.model.tokenizer.codebook)
        self.model.train(was_training)
        return {"codes_before_merging": float(before), "codes_after_merging": float(after)}

    def _answers(self) -> Tensor:
        """[K] number of the combination of attributes that the heads read from each code alone."""
        tokens = self._tokens(F.normalize(self.model.tokenizer.codebook, dim=-1))
        said = {name: head(tokens).argmax(-1) for name, head in self.model.heads.items()}
        free, sign = said["kind"] == 0, said["kind"] == len(KINDS) + 1
        asked = {
            "background": free,
            "letter": sign & (said["row"] == 0),
            "colour": ~free & ~sign,
            "size": ~free & ~sign,
            **dict.fromkeys(("row", "column", "style"), ~free),
        }
        return _meaning({name: torch.where(asked[name], v, -1) if name in asked else v for name, v in said.items()})

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """Accuracy of every attribute and of the reader's answers on fresh scenes, from codes; use of the codebook."""
        self.model.eval()
        totals: dict[str, list[float]] = {}
        codes, meanings = [], []
        for index in range(max(self.config.eval_pictures // 32, 1)):
            batch = self.batch(Draw(seed=seed, step=index, size=32))
            found, numbers = self._evaluate_batch(_on(batch, self.model.tokenizer.codebook.device))
            codes.append(found)
            meanings.append(_meaning(batch["labels"]))
            for name, value in numbers.items():
                totals.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in totals.items()}
        return {**means, **_code_use(torch.cat(codes), torch.cat(meanings))}

    def export(self, directory: Path) -> None:
        """Writes ``image_tokenizer/``."""
        patch = self.config.tokenizer.vision_config.patch_size
        save_image_tokenizer(directory, self.model.tokenizer, PreprocessorConfig(patch_size=patch))

    def _unit_features(self, batch: Batch) -> Tensor:
        height, width = batch["grid"]
        pictures_in_batch = len(batch["patches"]) // (height * width)
        grids = [TokenGrid(height, width)] * pictures_in_batch
        tokenizer = self.model.tokenizer
        return F.normalize(tokenizer.latents(tokenizer.features(batch["patches"], grids)), dim=-1)

    def _quantised(
        self, unit: Tensor, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, dict[str, Tensor | float]]:
        if not int(self.model.trainer.active):
            noise = torch.randn(unit.shape, generator=generator).to(unit) * self.config.feature_noise
            return unit + noise, unit.new_zeros(()), {}
        tokenizer = self.model.tokenizer
        codes = tokenizer.quantise(unit)
        nearest = F.normalize(tokenizer.codebook[codes], dim=-1)
        if self.model.training:
            self._seen.append((unit.detach(), codes))
        commitment = (unit - nearest.detach()).square().sum(-1).mean()
        cells = batch["grid"][0] * batch["grid"][1]
        free = torch.rand(len(unit) // cells, generator=generator) < self.config.unquantised_share
        free = free.to(unit.device).repeat_interleave(cells)[:, None]
        straight = unit + (nearest - unit).detach()
        return torch.where(free, unit, straight), commitment, {"commitment": commitment.detach()}

    def _tokens(self, cells: Tensor) -> Tensor:
        return self.model.adapter(self.model.tokenizer.quantizer.restore(cells))

    def _dense(self, tokens: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        total, accuracies = tokens.new_zeros(()), {}
        for name, head in self.model.heads.items():
            target = labels[name].flatten()
            known = target != IGNORED
            if not known.any():
                continue
            logits = head(tokens[known])
            losses = F.cross_entropy(logits, target[known], reduction="none")
            weight = self._object_weight(target[known]) if name == "kind" else torch.ones_like(losses)
            total = total + _HEAD_WEIGHTS[name] * (losses * weight).sum() / weight.sum()
            accuracies[f"acc_{name}"] = (logits.detach().argmax(-1) == target[known]).float().mean()
        return total, accuracies

    @staticmethod
    def _object_weight(kinds: Tensor) -> Tensor:
        """Free cells outnumber covered ones; they count a quarter."""
        return torch.where(kinds > 0, 1.0, 0.25)

    def _reading(self, tokens: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        text, grid = batch["text"], batch["grid"]
        read = text["ids"].shape[0]
        picture = tokens.view(-1, grid[0] * grid[1], tokens.shape[-1])[:read]
        answered = text["answered"]
        logits = self.model.reader(picture, grid, text)[answered]
        losses = F.cross_entropy(logits, text["targets"][answered])
        return losses, (logits.detach().argmax(-1) == text["targets"][answered]).float().mean()

    def _evaluate_batch(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        unit = self._unit_features(batch)
        codes = self.model.tokenizer.quantise(unit)
        tokens = self._tokens(F.normalize(self.model.tokenizer.codebook[codes], dim=-1))
        _, accuracies = self._dense(tokens, batch["labels"])
        loss, right = self._reading(tokens, batch)
        return codes.cpu(), {
            **{k: float(v) for k, v in accuracies.items()},
            "answers": float(right),
            "nll": float(loss),
        }

    @torch.no_grad()
    def _initial_centres(self, step: int) -> Tensor:
        device = self.model.tokenizer.codebook.device
        points = []
        for index in range(self.config.init_batches):
            batch = self.batch(Draw(seed=step, step=index, size=64))
            points.append(self._unit_features(_on(batch, device)).cpu())
        generator = Draw(seed=step, step=0, size=1).torch("centres")
        return kmeans_plus_plus(torch.cat(points), len(self.model.tokenizer.codebook), generator).to(device)


def initialise_encoder(tokenizer: ImageTokenizer) -> None:
    """Small random weights for every matrix of the encoder."""
    for name, parameter in tokenizer.named_parameters():
        if "norm" in name:
            continue
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02 if "position" in name else (1 / parameter[0].numel()) ** 0.5)
        else:
            nn.init.zeros_(parameter)


def within_group_variance(features: Tensor, groups: Tensor) -> Tensor:
    """Mean squared distance of features [N, D] to the mean of their group; ``groups`` int64 [N] are any labels.

    Cells that show the same thing are pulled together, so that a code says what a cell shows and nothing else:
    without it features of empty cells spread over hundreds of codes that nothing in a caption could predict.
    """
    _, index, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add(0, index, features)
    means = sums / counts[:, None]
    return (features - means[index]).square().sum(-1).mean()


def _on(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    return {k: _on(v, device) for k, v in batch.items()} if isinstance(batch, Mapping) else batch


def _meaning(labels: Mapping[str, Tensor]) -> Tensor:
    """One number per cell for the combination of all its attributes."""
    number = torch.zeros_like(labels["kind"])
    for name, classes in HEADS.items():
        number = number * (classes + 1) + labels[name].clamp_min(-1) + 1
    return number.flatten()


def _code_use(codes: Tensor, meanings: Tensor) -> Metrics:
    """Number of codes in use; entropy in bits of codes, and of codes given what the cell shows (0 = determined)."""
    _, joint = torch.unique(torch.stack([codes, meanings]), dim=1, return_counts=True)
    _, marginal = torch.unique(meanings, return_counts=True)
    _, use = torch.unique(codes, return_counts=True)
    spread = _bits(joint) - _bits(marginal)
    return {"codes_used": float(len(use)), "code_bits": _bits(use), "code_bits_given_cell": spread}


def _bits(counts: Tensor) -> float:
    share = counts.double() / counts.sum()
    return float(-(share * share.log2()).sum())
