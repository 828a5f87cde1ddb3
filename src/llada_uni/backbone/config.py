"""Configuration of the backbone under the field names of the released ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llada_uni import config as strict
from llada_uni.diffusion.positions import aligned_positions
from llada_uni.errors import ConfigError

__all__ = ["BackboneConfig"]

_METADATA = (
    *("architectures", "auto_map", "bos_token_id", "dtype", "embedding_dropout", "id2label", "is_decoder", "label2id"),
    *("llada_fp8_experts", "max_window_layers", "model_type", "mtp_loss_scaling_factor", "name_or_path"),
    *("num_nextn_predict_layers", "output_attentions", "output_dropout", "output_hidden_states"),
    *("output_router_logits", "quantization_config", "return_dict", "sliding_window", "torch_dtype"),
    *("transformers_version", "use_cache", "use_fp8_experts", "use_sliding_window"),
)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Sizes and switches of the backbone; the defaults are those of LLaDA2.0-Uni (16.3 B parameters).

    ``vocab_size`` counts text entries, control tokens and image codes together; ids from ``image_token_offset`` on are
    image codes (None = a model without images). ``rope_theta`` and ``partial_rotary_factor`` describe the rotary
    embedding of the first ``head_dim * partial_rotary_factor`` coordinates of each head. The first
    ``first_k_dense_replace`` layers have a dense feed-forward of ``intermediate_size`` instead of experts.

    ``picture_alignment`` and ``picture_start_id`` are ours; 0 and None are the released model. Otherwise the first code
    of every picture stands at a multiple of ``picture_alignment`` positions (``diffusion.positions``), behind
    ``picture_start_id``, the last id of its header (``<boi>``).

    Raises:
        ConfigError: sizes that do not fit together, or a variant that does not exist here (for example softmax
            routing), on construction.
    """

    vocab_size: int = 173568
    image_token_offset: int | None = 157184
    hidden_size: int = 2048
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    intermediate_size: int = 5120
    first_k_dense_replace: int = 1
    num_experts: int = 256
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    num_shared_experts: int = 1
    moe_intermediate_size: int = 512
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    score_function: str = "sigmoid"
    router_dtype: str = "fp32"
    moe_router_enable_expert_bias: bool = True
    use_qk_norm: bool = True
    use_qkv_bias: bool = False
    use_bias: bool = False
    hidden_act: str = "silu"
    attention_dropout: float = 0.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 600000.0
    partial_rotary_factor: float = 0.5
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    picture_alignment: int = 0
    picture_start_id: int | None = None
    pad_token_id: int | None = 156892
    eos_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_attention()
        if self.num_hidden_layers > self.first_k_dense_replace:
            self._check_experts()
        self._check_ids()
        self._check_variants()

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], *, source: str = "config.json", foreign: bool = False
    ) -> BackboneConfig:
        """Configuration held by a parsed ``config.json``; absent keys take the released defaults.

        The rotary embedding may be given as ``rope_parameters``, as top-level ``rope_theta`` and
        ``partial_rotary_factor``, or as ``rotary_dim``; what is given twice must agree. ``head_dim`` null means
        ``hidden_size / num_attention_heads``. Without ``image_token_offset`` a vocabulary no larger than the released
        text vocabulary has no image codes. With ``foreign`` metadata keys are ignored and other unknown keys warn;
        otherwise only ``architectures`` and ``model_type`` are accepted as metadata.

        Raises:
            ConfigError: an unknown key, a wrong type, a contradiction, or sizes that do not fit together.
        """
        values = {k: v for k, v in mapping.items() if foreign or k not in ("architectures", "model_type")}
        if values.get("sliding_window") is not None and values.get("use_sliding_window", True):
            raise ConfigError(f"{source}: sliding_window {values['sliding_window']!r} is not supported, expected null")
        if values.get("head_dim", 0) is None:
            heads = values.get("num_attention_heads", cls.num_attention_heads)
            values["head_dim"] = values.get("hidden_size", cls.hidden_size) // heads
        if "image_token_offset" not in values and values.get("vocab_size", cls.vocab_size) <= 157184:
            values["image_token_offset"] = None
        _fold_rotary(values, source)
        return strict.from_mapping(cls, values, source=source, foreign=foreign, ignored=_METADATA)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready mapping with the released names, readable by ``from_mapping`` and by the released code."""
        rotary = {
            "rope_type": "default",
            "rope_theta": self.rope_theta,
            "partial_rotary_factor": self.partial_rotary_factor,
        }
        head = {"architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe"}
        return head | strict.to_mapping(self) | {"rope_parameters": rotary}

    @property
    def rotary_dim(self) -> int:
        """Number of leading coordinates of each head that are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    def positions(self, ids: Tensor, first: int = 0) -> Tensor:
        """Rotary positions int64 [T] of consecutive ``ids`` [T], the first of which would plainly be ``first``."""
        start = -1 if self.picture_start_id is None else self.picture_start_id
        return aligned_positions(ids, start, self.picture_alignment, first=first)

    @property
    def num_moe_layers(self) -> int:
        """Number of layers with routed experts."""
        return max(0, self.num_hidden_layers - self.first_k_dense_replace)

    def _check_sizes(self) -> None:
        names = (
            "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
            "intermediate_size moe_intermediate_size max_position_embeddings rms_norm_eps rope_theta"
        )
        for name in names.split():
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("first_k_dense_replace", "num_shared_experts", "initializer_range"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")

    def _check_attention(self) -> None:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        _require(heads % kv_heads == 0, f"num_attention_heads {heads} must be a multiple of kv heads {kv_heads}")
        width = self.head_dim * self.partial_rotary_factor
        _require(
            0 <= width <= self.head_dim and width == int(width) and int(width) % 2 == 0,
            f"head_dim {self.head_dim} * partial_rotary_factor {self.partial_rotary_factor} must be an even number "
            f"from 0 to head_dim, got {width}",
        )

    def _check_experts(self) -> None:
        experts, groups = self.num_experts, self.n_group
        _require(experts > 0 and groups > 0, f"num_experts and n_group must be positive, got {experts} and {groups}")
        _require(experts % groups == 0, f"num_experts {experts} must be a multiple of n_group {groups}")
        _require(1 <= self.topk_group <= groups, f"topk_group must be 1..{groups}, got {self.topk_group}")
        _require(groups == 1 or experts // groups >= 2, f"a group needs 2 experts, got {experts} in {groups} groups")
        reachable = experts // groups * self.topk_group
        _require(
            1 <= self.num_experts_per_tok <= reachable,
            f"num_experts_per_tok must be 1..{reachable} (topk_group * experts per group), "
            f"got {self.num_experts_per_tok}",
        )

    def _check_ids(self) -> None:
        for name in ("pad_token_id", "eos_token_id", "picture_start_id"):
            value = getattr(self, name)
            _require(
                value is None or 0 <= value < self.vocab_size,
                f"{name} must be below vocab_size {self.vocab_size}, got {value}",
            )
        _require(self.picture_alignment >= 0, f"picture_alignment must not be negative, got {self.picture_alignment}")
        _require(
            self.picture_alignment == 0 or self.picture_start_id is not None,
            f"picture_alignment {self.picture_alignment} needs picture_start_id, the id of <boi>",
        )
        offset = self.image_token_offset
        _require(
            offset is None or 0 < offset < self.vocab_size,
            f"image_token_offset must be 1..{self.vocab_size - 1} (vocab_size - 1) or null, got {offset}",
        )

    def _check_variants(self) -> None:
        supported = {
            "score_function": "sigmoid",
            "router_dtype": "fp32",
            "norm_topk_prob": True,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
        }
        for name, value in supported.items():
            _require(getattr(self, name) == value, f"{name}: only {value!r} is supported, got {getattr(self, name)!r}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"backbone configuration: {message}")


def _fold_rotary(values: dict[str, Any], source: str) -> None:
    """Replace ``rope_parameters``, ``rope_scaling`` and ``rotary_dim`` by the two top-level rotary fields."""
    for name in ("rope_parameters", "rope_scaling"):
        rotary = dict(values.pop(name, None) or {})
        kind = rotary.pop("rope_type", rotary.pop("type", "default"))
        rotary.pop("type", None)
        unknown = sorted(set(rotary) - {"rope_theta", "partial_rotary_factor"})
        if kind != "default" or unknown:
            raise ConfigError(f"{source}: {name} of type {kind!r} with {unknown} is not supported, expected 'default'")
        for key, value in rotary.items():
            _agree(values, key, value, f"{source}: {name}")
    if (rotary_dim := values.pop("rotary_dim", None)) is not None:
        head_dim = values.get("head_dim", BackboneConfig.head_dim)
        _agree(values, "partial_rotary_factor", rotary_dim / head_dim, f"{source}: rotary_dim {rotary_dim}")


def _agree(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    if values.setdefault(key, value) != value:
        raise ConfigError(f"{where} says {key} = {value!r}, elsewhere it is {values[key]!r}; make them agree")
