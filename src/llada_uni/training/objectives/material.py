"""Jobs that prepare what a chain works on: the checkpoint to go on from, records of pictures, their tokens."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any

from llada_uni.data.emoji import EmojiOptions, import_emoji
from llada_uni.data.extractor import ExtractOptions
from llada_uni.data.preextract import extract_tokens
from llada_uni.errors import ConfigError, ResourceError
from llada_uni.training.objective import Resources
from llada_uni.weights.catalog import resolve

__all__ = ["EmojiJob", "StartJob", "TokensJob"]


@dataclass(frozen=True, kw_only=True)
class StartJob:
    """Copies the checkpoint ``base`` into the directory being built, whose parts later stages replace one by one."""

    name: str
    base: str = "nano"

    def run(self, resources: Resources) -> dict[str, Any]:
        """Copies what is not there yet.

        Raises:
            ConfigError: the directory is the checkpoint itself. ResourceError: the disk is full or not writable.
        """
        source = resolve(self.base)
        if resources.out.resolve() == source.resolve():
            raise ConfigError(f"--out {resources.out} is the checkpoint {self.base!r} itself; choose another folder")
        try:
            shutil.copytree(source, resources.out, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise ResourceError(f"cannot copy {self.base} to {resources.out}: {error}") from error
        return {"name": self.name, "base": self.base}


@dataclass(frozen=True, kw_only=True)
class EmojiJob:
    """Fetches the emoji packages and imports them as records, those of held-out concepts apart."""

    name: str
    options: EmojiOptions = field(default_factory=EmojiOptions)
    folder: str = "cache:emoji"

    def run(self, resources: Resources) -> dict[str, Any]:
        """Writes ``train`` and ``held_out`` into the folder. Errors as for :func:`import_emoji`."""
        folder = resources.find(self.folder)
        train, held_out = import_emoji(folder / "packages", folder, self.options)
        return {"name": self.name, "records": train.records, "held_out_records": held_out.records}


@dataclass(frozen=True, kw_only=True)
class TokensJob:
    """Extracts folders of records with the tokenizers in the directory being built: pairs (records, tokens)."""

    name: str
    folders: tuple[tuple[str, str], ...]
    options: ExtractOptions = field(default_factory=ExtractOptions)

    def run(self, resources: Resources) -> dict[str, Any]:
        """Writes the shards that are missing; can be stopped and run again. Errors as for ``extract_tokens``."""
        samples = 0
        for records, tokens in self.folders:
            result = extract_tokens(resources.find(records), resources.out, resources.find(tokens), self.options)
            samples += 0 if result.manifest is None else result.manifest.samples
        return {"name": self.name, "samples": samples}
