"""Building blocks shared by the backbone and the decoder: attention, rotary embedding, norms, feed-forward, experts."""

__all__ = []
