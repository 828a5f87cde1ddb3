"""Block-scaled float8 weights as checkpoints store them; the computation is in ``layers.float8``."""

from __future__ import annotations

from llada_uni.layers.float8 import BLOCK, FP8, dequantize_blocks, quantize_blocks, scale_shape

__all__ = ["BLOCK", "FP8", "dequantize_blocks", "quantize_blocks", "scale_shape"]
