"""Backbone stage on extracted records: an existing checkpoint goes on learning from somebody's own samples.

The same rows and the same loss as ``backbone``; the data are shards of ``data.preextract`` instead of scenes. Mask
ratios are drawn per sample, from (seed, epoch, id), so that packing and batching change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from llada_uni.backbone.model import Backbone
from llada_uni.data.block_rows import Document, Layout, collate, lay_out, pack
from llada_uni.data.preextract import checkpoint_mark
from llada_uni.data.token_loader import PoseRules, TokenData, TokenLoader, is_held_out_id, sample_generator
from llada_uni.diffusion.losses import mtrs_token_weights
from llada_uni.diffusion.masking import IMAGE_LAW, MaskRatioLaw
from llada_uni.errors import ConfigError
from llada_uni.training.export import warm_start
from llada_uni.training.group import fewest
from llada_uni.training.objective import Batch, Draw, Metrics, Resources
from llada_uni.training.objectives.backbone import (
    MaskedTokens,
    balanced,
    masked_losses,
    noised,
)
from llada_uni.training.objectives.confidence import check_confidence, confidence_term
from llada_uni.vocab import SpecialIds
from llada_uni.weights.catalog import resolve
from llada_uni.weights.load import load_backbone_config, load_vocab
from llada_uni.weights.save import Components, save_backbone, save_checkpoint

__all__ = ["RecordRows", "RecordsObjective", "RecordsObjectiveConfig", "noised_rows"]

_ROWS = ("ids", "noisy_ids", "masked", "position", "branch", "block", "stream", "sample", "image", "fill", "tag")
_EVALUATED = (("half", 0.5), ("full", 1.0))


@dataclass(frozen=True, kw_only=True)
class RecordsObjectiveConfig:
    """What is learnt from, from where, and the noise.

    ``data`` is a folder written by ``llada-uni data extract``; ``warm`` the checkpoint to start from, a name or a
    directory, whose other components go into the exported checkpoint. ``held_out_share`` of the samples, by their ids,
    are only evaluated on. ``verify`` compares the checksums of all shards at the start. The other fields are those of
    the backbone's objective.
    """

    data: str | None = None
    warm: str = "nano"
    pose: PoseRules = field(default_factory=PoseRules)
    image_law: MaskRatioLaw = IMAGE_LAW
    text_law: MaskRatioLaw = field(default_factory=lambda: MaskRatioLaw(full_share=0.4))
    capacity: int = 1024
    num_buckets: int = 1
    fill_weight: float = 0.1
    mtrs: bool = True
    balance_rate: float = 0.0
    balance_stop: float = 0.95
    held_out_share: float = 0.0
    eval_samples: int = 64
    verify: bool = True
    max_shard_bytes: int = 5 * 2**30
    logit_chunk: int = 0
    confidence_weight: float = 0.0

    def __post_init__(self) -> None:
        check_confidence(self.confidence_weight, self.logit_chunk)

    def build(self, resources: Resources, seed: int) -> RecordsObjective:
        """The backbone of ``warm`` and the extracted samples.

        Raises:
            ConfigError: no data named, or data of another checkpoint's tokenizers; ``out`` holds something else.
            CheckpointError: the data or the checkpoint cannot be read.
        """
        if self.data is None:
            raise ConfigError(
                "objective.data: name the folder that llada-uni data extract wrote (--set objective.data=DIR)"
            )
        data = TokenData(Path(self.data), verify=self.verify)
        source = resolve(self.warm)
        self._check_marks(data, source, resources.out)
        model = Backbone(load_backbone_config(source))
        warm_start(model, str(source), "backbone", resources)
        return RecordsObjective(self, model, data, load_vocab(source).special, seed)

    def _check_marks(self, data: TokenData, source: Path, out: Path) -> None:
        if data.manifest.checkpoint_mark != checkpoint_mark(source):
            raise ConfigError(
                f"{self.data} was extracted with other tokenizers than those of {self.warm!r}; extract it with these, "
                "or name the right checkpoint (--set objective.warm=DIR)"
            )
        if not out.is_dir() or not any(out.iterdir()):
            return
        complete = (out / "config.json").is_file() and (out / "image_tokenizer").is_dir()
        if not complete or checkpoint_mark(out) != data.manifest.checkpoint_mark:
            raise ConfigError(
                f"{out} holds something else than a checkpoint with these tokenizers; choose another --out"
            )


class RecordRows:
    """Packed training rows of extracted samples, without a model: batch n is a function of the seed and n."""

    def __init__(self, config: RecordsObjectiveConfig, data: TokenData, special: SpecialIds, seed: int) -> None:
        """Raises ConfigError: every sample is held out."""
        self.config, self.data = config, data
        self._special, self._seed = special, seed
        names = [facts["id"] for facts in data.facts()]
        held_out = [is_held_out_id(name, config.held_out_share) for name in names]
        self.trained = [index for index, out in enumerate(held_out) if not out]
        self.held_out = [index for index, out in enumerate(held_out) if out]
        if not self.trained:
            raise ConfigError(f"no sample to train on: all {len(names)} are held out; lower objective.held_out_share")
        self._loaders: dict[int, TokenLoader] = {}

    def batch(self, number: int, size: int) -> dict[str, Tensor]:
        """The ``size`` samples whose turn it is, packed, with noise; each sample once per epoch."""
        documents, generators, weights = list[Document](), list[torch.Generator](), list[float]()
        for one in self.loader(size).at(number):
            address = (self._seed, one.epoch, one.sample.id)
            document = self.config.pose.document(one.sample, sample_generator(*address, "pose"))
            documents.append(document)
            generators.append(sample_generator(*address, "noise"))
            weights.append(one.sample.weight)
        return self.packed(documents, generators, weights, self.config.image_law, self.config.text_law)

    def loader(self, size: int) -> TokenLoader:
        """The order of samples in batches of ``size``."""
        if size not in self._loaders:
            self._loaders[size] = TokenLoader(self.data, batch_size=size, seed=self._seed, indices=self.trained)
        return self._loaders[size]

    def packed(
        self,
        documents: Sequence[Document],
        generators: Sequence[torch.Generator],
        weights: Sequence[float],
        image_law: MaskRatioLaw,
        text_law: MaskRatioLaw,
    ) -> dict[str, Tensor]:
        """Rows of given documents; see :func:`noised_rows`."""
        layouts = [lay_out(document, self._special.eos) for document in documents]
        rows = noised_rows(layouts, self.config.capacity, image_law, text_law, self._special, generators)
        return {**rows, "weight": _branch_weights(layouts, self.config.capacity, weights)}


class RecordsObjective:
    """Masked tokens from visible ones, block by block, in one's own samples."""

    def __init__(
        self, config: RecordsObjectiveConfig, model: Backbone, data: TokenData, special: SpecialIds, seed: int
    ) -> None:
        self.config, self.model, self.data = config, model, data
        self.rows = RecordRows(config, data, special, seed)
        self.trained, self.held_out = self.rows.trained, self.rows.held_out
        self._loads: Tensor | None = None

    def batch(self, draw: Draw) -> Batch:
        """See :meth:`RecordRows.batch`."""
        return self.rows.batch(draw.step * draw.accumulation + draw.micro, draw.size)

    def blocks(self) -> Sequence[nn.Module]:
        """The layers of the transformer."""
        return list(self.model.model.layers)

    def weight(self, batch: Batch) -> float:
        """Normaliser of the loss: weighted sum of sqrt(n) over branches with n masked tokens (or of n)."""
        counts = torch.bincount(batch["sample"][batch["masked"]], minlength=len(batch["weight"])).float()
        return float(((counts.sqrt() if self.config.mtrs else counts) * batch["weight"]).sum().clamp_min(1e-12))

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Reweighted mean cross-entropy of masked tokens; beside it means per modality and how full the rows are."""
        found = self._found(batch, fewest(min(self.config.num_buckets, len(batch["ids"]))))
        self._loads = found.loads if self._loads is None else self._loads + found.loads
        weights = torch.where(found.fill, self.config.fill_weight, 1.0) * batch["weight"][found.sample]
        if self.config.mtrs:
            weights = weights * mtrs_token_weights(found.sample, len(batch["weight"]))
        real = batch["document"] >= 0
        told = {"fill_ratio": float(real.float().mean()), "tokens": float(real.sum())}
        sharp, about = confidence_term(found, self.config.confidence_weight)
        return (found.losses * weights).sum() / self.weight(batch) + sharp, {**_means(found), **about, **told}

    def _found(self, batch: Batch, num_buckets: int | None = None) -> MaskedTokens:
        rows = {name: batch[name] for name in (*_ROWS, "document")}
        count = self.config.num_buckets if num_buckets is None else num_buckets
        config = self.config
        return masked_losses(
            self.model, rows, count, logit_chunk=config.logit_chunk, entropies=config.confidence_weight > 0
        )

    def after_step(self, step: int, horizon: int) -> Metrics:
        """Moves the selection bias of every router against its load, where ``balance_rate`` is not 0."""
        on = step <= self.config.balance_stop * horizon
        return balanced(self.model, self.take_loads(), self.config.balance_rate if on else 0.0)

    def take_loads(self) -> Tensor:
        """The routers' counts since they were last taken."""
        assert self._loads is not None
        loads, self._loads = self._loads, None
        return loads

    def conclude(self, seed: int) -> Metrics:
        """Nothing."""
        return {}

    @torch.no_grad()
    def evaluate(self, seed: int) -> Metrics:
        """Losses with half and with all of the targets masked, of samples trained on and of held-out ones."""
        self.model.eval()
        numbers: Metrics = {}
        for name, indices in (("trained", self.trained), ("held_out", self.held_out)):
            for told, ratio in _EVALUATED:
                losses = self._losses(indices[: self.config.eval_samples], ratio, seed)
                numbers |= {f"{name}_{key}_{told}": value for key, value in losses.items()}
        return numbers | {"samples": float(len(self.trained)), "held_out_samples": float(len(self.held_out))}

    def _losses(self, indices: Sequence[int], ratio: float, seed: int) -> Metrics:
        if not indices:
            return {}
        law = MaskRatioLaw(low=ratio, high=ratio, full_share=0.0)
        samples = [self.data[index] for index in indices]
        length = max(self.config.pose.block_lengths, key=lambda pair: pair[1])[0]
        documents = [Document(branches=sample.variants[0].branches, block_length=length) for sample in samples]
        generators = [sample_generator(seed, 0, sample.id, "evaluation") for sample in samples]
        device = next(self.model.parameters()).device
        rows = self.rows.packed(documents, generators, [1.0] * len(samples), law, law)
        means = _means(self._found({key: value.to(device) for key, value in rows.items()}))
        return {key: value for key, tensor in means.items() if (value := float(tensor)) == value and key[:3] == "nll"}

    def export(self, directory: Path) -> None:
        """Writes a whole checkpoint: this backbone, and everything else as it is in ``warm``."""
        size = self.config.max_shard_bytes
        if (directory / "config.json").is_file():
            save_backbone(directory, self.model, max_shard_bytes=size)
            return
        base = resolve(self.config.warm)
        save_checkpoint(directory, Components(backbone=self.model), base=base, max_shard_bytes=size)


def noised_rows(
    layouts: Sequence[Layout],
    capacity: int,
    image_law: MaskRatioLaw,
    text_law: MaskRatioLaw,
    special: SpecialIds,
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Packed rows as :func:`noised` makes them, but with the noise of each layout from a generator of its own.

    What of a layout is masked depends on it and its generator only.
    """
    rows = collate(layouts, capacity, special.eos)
    masked, noisy = torch.zeros_like(rows["maskable"]), rows["ids"].clone()
    for index, row in enumerate(pack([len(layout) for layout in layouts], capacity)):
        start = 0
        for number in row:
            single = collate([layouts[number]], 1, special.eos)
            end = start + len(layouts[number])
            drawn = noised(single, image_law, text_law, special.mask, generators[number])
            masked[index, start:end], noisy[index, start:end] = drawn["masked"][0], drawn["noisy_ids"][0]
            start = end
    return {**rows, "masked": masked, "noisy_ids": noisy}


def _branch_weights(layouts: Sequence[Layout], capacity: int, weights: Sequence[float]) -> Tensor:
    """Weight [S] of every sample number that ``collate`` gives, in its order."""
    order = [number for row in pack([len(layout) for layout in layouts], capacity) for number in row]
    counts = torch.tensor([int(layouts[number].sample.max()) + 1 for number in order])
    return torch.tensor([weights[number] for number in order], dtype=torch.float32).repeat_interleave(counts)


def _means(found: MaskedTokens) -> dict[str, Tensor]:
    """Mean loss and hit rate per modality, without fill; not a number where there is nothing."""
    told: dict[str, Tensor] = {}
    for name, chosen in (("image", found.image & ~found.fill), ("text", ~found.image & ~found.fill)):
        for key, values in (("nll", found.losses.detach()), ("acc", found.hits)):
            told[f"{key}_{name}"] = values[chosen].mean() if chosen.any() else values.new_tensor(float("nan"))
    return told
