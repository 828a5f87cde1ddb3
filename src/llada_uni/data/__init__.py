"""Training data: scenes, codes, latents, rows."""

from __future__ import annotations

__all__ = []
