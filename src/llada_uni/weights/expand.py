"""A text-only LLaDA2.0 checkpoint becomes a unified one: rows for image codes in the embedding and the head.

Source: LLaDA2.0-Uni paper section 2.2.2 (text rows kept, visual rows new). How new rows start is not disclosed: here
they are as long as text rows in the embedding, and zero or a tenth of that in the head.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llada_uni.backbone.model import Backbone
from llada_uni.errors import CheckpointError, ConfigError
from llada_uni.vocab import BOI, EOI, EOS, MASK, SOI, TextTokenizer
from llada_uni.weights.catalog import resolve
from llada_uni.weights.load import load_backbone, load_image_tokenizer
from llada_uni.weights.parts import load_backbone_config, load_text_tokenizer
from llada_uni.weights.save import Components, save_checkpoint
from llada_uni.weights.stored import stored_dtype

__all__ = ["NewRows", "expand_vocabulary", "expanded_backbone", "image_rows", "with_control_strings"]

_NEEDED = (EOS, MASK, SOI, EOI, BOI)
_SMALL_HEAD = 0.1
_RELEASED_CODES = 16384


@dataclass(frozen=True, kw_only=True)
class NewRows:
    """How rows of image codes start.

    ``embedding``: "random" is normal with the mean root mean square of the text rows; "codebook" gives every code the
    leading principal components of its codebook vector, rescaled to the same, so that similar codes start alike.
    ``head``: "zero", or "small", normal with a tenth of that of the head's text rows. ``seed`` of the random numbers.
    """

    embedding: Literal["random", "codebook"] = "random"
    head: Literal["zero", "small"] = "zero"
    seed: int = 0


def expand_vocabulary(
    source: Path | str,
    output: Path | str,
    *,
    num_codes: int | None = None,
    components: Path | str | None = None,
    rows: NewRows | None = None,
) -> Path:
    """Write the text-only checkpoint ``source`` with rows for image codes to ``output``; returns ``output``.

    Args:
        source: directory or hub id of a text-only model.
        output: directory to write, in the released layout; every text row keeps its bits.
        num_codes: size of the codebook; None = that of ``components``, else 16,384.
        components: a checkpoint from which image tokenizer, decoders and autoencoder are taken over.
        rows: how the new rows start.

    Control strings that the tokenizer lacks get ids that it does not use yet, below the end of the text vocabulary.

    Raises:
        CheckpointError: ``source`` is incomplete or has image codes already, or its tokenizer has no room.
        ConfigError: no codes, codes that disagree with ``components``, or "codebook" rows without ``components``.
        ResourceError: the disk is full or there is too little memory.
    """
    root, chosen = resolve(source), rows or NewRows()
    target = Path(output).expanduser()
    if target.resolve() == root.resolve():
        raise ConfigError(f"{target} is the text-only checkpoint itself; expand into another directory")
    other = None if components is None else resolve(components)
    codebook = None if other is None else load_image_tokenizer(other).codebook.detach().float()
    count = _number_of_codes(num_codes, codebook)
    if chosen.embedding == "codebook" and codebook is None:
        raise ConfigError('rows from the codebook need a checkpoint with an image tokenizer; give one as "components"')
    config = load_backbone_config(root)
    if config.image_token_offset is not None:
        raise CheckpointError(f"{root} has image codes from id {config.image_token_offset} on; nothing to expand")
    tokenizer = with_control_strings(load_text_tokenizer(root), config.vocab_size)
    backbone = load_backbone(root, dtype=stored_dtype(root))
    wide = expanded_backbone(backbone, count, chosen, codebook)
    parts = Components(backbone=wide, text_tokenizer=tokenizer)
    return save_checkpoint(target, parts, base=other, dtype=None)


@torch.no_grad()
def expanded_backbone(
    backbone: Backbone, num_codes: int, rows: NewRows | None = None, codebook: Tensor | None = None
) -> Backbone:
    """A backbone whose tables have ``num_codes`` more rows; it shares all other tensors with ``backbone``.

    ``codebook`` ``[num_codes, width]`` is needed for rows that start from it.
    """
    rows, old = rows or NewRows(), backbone.config
    generator = torch.Generator().manual_seed(rows.seed)
    config = dataclasses.replace(old, vocab_size=old.vocab_size + num_codes, image_token_offset=old.vocab_size)
    state = backbone.state_dict()
    text = state["model.word_embeddings.weight"]
    vectors = codebook if rows.embedding == "codebook" else None
    inside = torch.cat((text, image_rows(text, num_codes, generator, codebook=vectors)))
    if old.tie_word_embeddings:
        head = inside
    else:
        text = state["lm_head.weight"]
        scale = 0.0 if rows.head == "zero" else _SMALL_HEAD
        head = torch.cat((text, image_rows(text, num_codes, generator, scale=scale)))
    with torch.device("meta"):
        wide = Backbone(config)
    wide.load_state_dict(state | {"model.word_embeddings.weight": inside, "lm_head.weight": head}, assign=True)
    if old.tie_word_embeddings:
        wide.lm_head.weight = wide.model.word_embeddings.weight
    for name, buffer in backbone.named_buffers():  # router biases that no checkpoint stores
        owner, _, attribute = name.rpartition(".")
        setattr(wide.get_submodule(owner), attribute, buffer)
    return wide.requires_grad_(False).eval()


def image_rows(
    text: Tensor, count: int, generator: torch.Generator, *, scale: float = 1.0, codebook: Tensor | None = None
) -> Tensor:
    """``count`` rows ``[count, width]`` of ``scale`` times the mean root mean square of the rows of ``text``.

    Normal numbers, or the leading principal components of ``codebook`` ``[count, any]``, each row of that length; where
    it has fewer than ``width`` the rest is zero.

    Raises:
        ConfigError: ``codebook`` has another number of rows.
    """
    sigma = scale * float(text.float().square().mean(1).sqrt().mean())
    width = text.shape[1]
    if codebook is None:
        return (torch.randn(count, width, generator=generator) * sigma).to(text)
    if len(codebook) != count:
        raise ConfigError(f"expected a codebook of {count} vectors, got {len(codebook)}")
    centred = nn.functional.normalize(codebook.float(), dim=-1)
    centred = centred - centred.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    parts = nn.functional.pad((left * values)[:, :width], (0, max(width - left.shape[1], 0)))
    lengths = parts.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
    return (parts / lengths * sigma).to(text)


def with_control_strings(tokenizer: TextTokenizer, text_vocab_size: int) -> TextTokenizer:
    """``tokenizer`` with every control string that pictures need; missing ones follow its last id.

    Raises:
        CheckpointError: the text vocabulary of ``text_vocab_size`` ids has no room for them.
    """
    missing = [string for string in _NEEDED if string not in tokenizer.added]
    if not missing:
        return tokenizer
    first = tokenizer.num_ids
    if first + len(missing) > text_vocab_size:
        raise CheckpointError(
            f"{tokenizer.source} lacks {', '.join(missing)} and ends at id {first - 1}; the text vocabulary of "
            f"{text_vocab_size} ids has no room for them"
        )
    parsed: dict[str, Any] = json.loads(tokenizer.specification)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    more = [{"id": first + place, "content": string, **plain} for place, string in enumerate(missing)]
    parsed["added_tokens"] = [*(parsed.get("added_tokens") or []), *more]
    return TextTokenizer(json.dumps(parsed, ensure_ascii=False), source=tokenizer.source)


def _number_of_codes(asked: int | None, codebook: Tensor | None) -> int:
    found = None if codebook is None else len(codebook)
    if asked is not None and found is not None and asked != found:
        raise ConfigError(f"expected {found} codes, as the image tokenizer has, got {asked}")
    count = asked if asked is not None else found if found is not None else _RELEASED_CODES
    if count < 1:
        raise ConfigError(f"expected at least one code, got {count}")
    return count
