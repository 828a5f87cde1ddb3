"""The stages of training."""

from __future__ import annotations

__all__ = []
