"""Training: one loop, a stage is an objective, a run is a frozen configuration."""

from __future__ import annotations

__all__ = []
