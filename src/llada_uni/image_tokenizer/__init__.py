"""Pixels -> codes: the SigLIP-style encoder with its vector quantiser.

``llada_uni.image_tokenizer.images`` reads picture files; it needs Pillow and is therefore not imported here.
"""

from llada_uni.image_tokenizer.config import ImageTokenizerConfig, PreprocessorConfig, VisionConfig, VQConfig
from llada_uni.image_tokenizer.model import ImageTokenizer
from llada_uni.image_tokenizer.patches import patchify

__all__ = ["ImageTokenizer", "ImageTokenizerConfig", "PreprocessorConfig", "VQConfig", "VisionConfig", "patchify"]
