"""The file that says what the released files do not: grids, presets, and the version of the world trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from llada_uni.scenes.graph import WORLD_VERSION
from llada_uni.training.objective import Resources
from llada_uni.weights.catalog import PackageConfig
from llada_uni.weights.save import save_package_config

__all__ = ["PackageJob"]


@dataclass(frozen=True, kw_only=True)
class PackageJob:
    """Writes ``llada_uni.json`` into the checkpoint directory."""

    name: str
    package: PackageConfig = field(default_factory=PackageConfig)

    def run(self, resources: Resources) -> dict[str, Any]:
        """Writes the file with the world's version filled in."""
        resources.out.mkdir(parents=True, exist_ok=True)
        save_package_config(resources.out, replace(self.package, world_version=WORLD_VERSION))
        return {"name": self.name, "world_version": WORLD_VERSION}
