"""The language backbone: unified ids in, logits out."""

from llada_uni.backbone.cache import KeyValueCache
from llada_uni.backbone.config import BackboneConfig
from llada_uni.backbone.model import Backbone

__all__ = ["Backbone", "BackboneConfig", "KeyValueCache"]
