"""Which checkpoint a name means, and what a checkpoint says about itself beyond the released files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

from llada_uni import config as configs
from llada_uni.diffusion.sprint import Sprint
from llada_uni.errors import CheckpointError, ConfigError, OfflineError, ResourceError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.protocols import CommitOrder

__all__ = [
    "KNOWN_MODELS",
    "PACKAGE_FILE",
    "SPRINT_PRESETS",
    "PackageConfig",
    "Presets",
    "SprintPreset",
    "load_package_config",
    "resolve",
    "sprint_preset",
]

PACKAGE_FILE = "llada_uni.json"
KNOWN_MODELS = {
    "nano": "the small model inside the package",
    "inclusionAI/LLaDA2.0-Uni": "the released model, bfloat16",
    "inclusionAI/LLaDA2.0-Uni-FP8": "the released model, experts in float8",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.pt"]


@dataclass(frozen=True, kw_only=True)
class Presets:
    """Sampling values a checkpoint recommends; the defaults are those of the released scripts.

    ``decoder``: which of the two is used unless told otherwise. ``steps_per_block``: upper bound for pictures,
    ``edit_steps_per_block`` for edits, ``text_steps_per_block`` for text. ``guidance_scale`` for text to image;
    ``guidance_text`` and ``guidance_image`` for editing; ``guidance_rescale`` for both. ``image_temperature``: of the
    tokens of pictures; ``image_threshold``: their confidence threshold where it is not that of text. ``image_order``
    and ``text_order``: which positions are committed first, "confidence", "random" or "sequential".
    ``image_tail``: what follows the last code in its block is known (``<|/image|>``, then end of text), as this
    checkpoint was trained; otherwise it is denoised like codes and dropped, as released.
    ``region_block_length``: block length where part of a picture is predicted again between codes that are kept.
    ``num_steps``: velocity evaluations of the normal decoder (the released "50 steps" are 49), with ``time_shift`` and
    ``decoder_guidance`` (the released scale 1.0 is 2 here); ``turbo_steps``: of the distilled one.
    ``thinking_tokens``: at most this many before the picture in thinking mode.
    ``story_steps_per_block``, ``story_guidance_text``, ``story_guidance_image``: of the pictures of a story (defaults
    of the serving implementation; a story's first picture takes the scale of the text), at most ``max_frames`` of them
    in one call, each of at most ``max_image_tokens`` codes.
    """

    decoder: Literal["normal", "turbo"] = "normal"
    block_length: int = 32
    region_block_length: int = 32
    steps_per_block: int = 16
    edit_steps_per_block: int = 8
    text_steps_per_block: int = 32
    confidence_threshold: float = 0.95
    guidance_scale: float = 4.0
    guidance_text: float = 4.0
    guidance_image: float = 0.0
    guidance_rescale: float = 0.7
    image_temperature: float = 0.0
    image_threshold: float | None = None
    image_order: CommitOrder = "confidence"
    text_order: CommitOrder = "confidence"
    image_tail: bool = False
    num_steps: int = 49
    time_shift: float = 6.0
    decoder_guidance: float = 2.0
    turbo_steps: int = 8
    max_new_tokens: int = 2048
    thinking_tokens: int = 4096
    story_steps_per_block: int = 32
    story_guidance_text: float = 7.5
    story_guidance_image: float = 1.5
    max_frames: int = 10
    max_image_tokens: int = 4096


@dataclass(frozen=True, kw_only=True)
class PackageConfig:
    """``llada_uni.json`` at the root of a checkpoint: what the released files do not say.

    Without the file these defaults, the released constants, apply. Pixel budgets count pixels of the picture the image
    tokenizer reads; ``trained_grids`` are ``[grid_h, grid_w]`` pairs, absent when every grid is usable.
    """

    resize_factor: int = 2
    min_pixels_single: int = 128 * 128
    max_pixels_single: int = 800 * 800
    min_pixels_multi: int = 128 * 128
    max_pixels_multi: int = 448 * 448
    trained_grids: tuple[tuple[int, int], ...] | None = None
    presets: Presets = field(default_factory=Presets)
    world_version: str | None = None
    notes: str = ""

    def geometry(self, *, patch_size: int, vae_factor: int, dit_patch: int) -> Geometry:
        """Sizes of the checkpoint, given what its networks say about themselves.

        Raises:
            ConfigError: numbers that contradict each other.
        """
        grids = None if self.trained_grids is None else tuple(TokenGrid(*sides) for sides in self.trained_grids)
        return Geometry(
            patch_size=patch_size,
            resize_factor=self.resize_factor,
            vae_factor=vae_factor,
            dit_patch=dit_patch,
            trained_grids=grids,
            min_pixels_single=self.min_pixels_single,
            max_pixels_single=self.max_pixels_single,
            min_pixels_multi=self.min_pixels_multi,
            max_pixels_multi=self.max_pixels_multi,
        )


@dataclass(frozen=True, kw_only=True)
class SprintPreset:
    """SPRINT's rules with the values that go with them; None leaves a value to the checkpoint."""

    sprint: Sprint
    confidence_threshold: float | None = None
    steps_per_block: int | None = None


SPRINT_PRESETS: dict[str, dict[str, SprintPreset]] = {
    "paper": dict.fromkeys(
        ("picture", "text"),
        SprintPreset(
            sprint=Sprint(keep_ratio=0.8, image_keep_ratio=0.8, text_keep_ratio=1.0, schedule="adaptive"),
            confidence_threshold=0.95,
        ),
    ),
    "readme": {
        "picture": SprintPreset(
            sprint=Sprint(keep_ratio=0.5, text_keep_ratio=1.0, schedule="adaptive"), steps_per_block=8
        ),
        "text": SprintPreset(
            sprint=Sprint(keep_ratio=0.5, image_keep_ratio=1.0, text_keep_ratio=1.0, schedule="adaptive"),
            confidence_threshold=0.93,
        ),
    },
    "released": dict.fromkeys(
        ("picture", "text"),
        SprintPreset(
            sprint=Sprint(
                keep_ratio=0.7, warmup_steps=2, schedule="adaptive", ranking="low_confidence", variant="released"
            ),
            confidence_threshold=0.95,
        ),
    ),
}
"""By name and by what is written. "paper": words whole, 0.8 of the codes (§5.5.1; its text also speaks of 0.5 and of a
threshold of 0.93). "readme": the calls shown with the released model; for answers they keep the whole prefix.
"released": the defaults and the rules of the released code."""


def sprint_preset(name: str, task: Literal["picture", "text"]) -> SprintPreset:
    """The preset of that name for pictures or for text.

    Raises:
        ConfigError: no such preset.
    """
    if name not in SPRINT_PRESETS:
        raise ConfigError(f"sprint: expected one of {', '.join(SPRINT_PRESETS)} or a Sprint, got {name!r}")
    return SPRINT_PRESETS[name][task]


def load_package_config(directory: Path | str) -> PackageConfig:
    """``llada_uni.json`` of a checkpoint, or the released constants when there is none.

    Raises:
        ConfigError: the file is not valid.
        CheckpointError: the directory does not exist.
    """
    path = resolve(directory) / PACKAGE_FILE
    if not path.is_file():
        return PackageConfig()
    return configs.from_mapping(PackageConfig, configs.read_json(path), source=str(path))


def resolve(name: Path | str, revision: str | None = None) -> Path:
    """Directory of a checkpoint: ``"nano"``, a local directory, or ``organisation/name`` on the model hub.

    Hub checkpoints are downloaded on first use (or taken from the local cache); nothing else touches the network.

    Raises:
        CheckpointError: no such model, directory or revision.
        OfflineError: the files would have to be downloaded and the hub cannot be reached.
        ResourceError: the disk is full or the cache is not writable.
        ConfigError: ``revision`` with something that is not on the hub.
    """
    text = os.fspath(name)
    if not text:
        raise CheckpointError(f"expected the name of a model, got nothing; available: {', '.join(KNOWN_MODELS)}")
    if isinstance(name, str) and text == "nano":
        _no_revision(text, revision)
        return _packaged(text)
    path = Path(text).expanduser()
    if path.is_dir():
        _no_revision(text, revision)
        return path
    if path.exists():
        raise CheckpointError(f"{text} is a file; expected the directory of a checkpoint")
    if isinstance(name, str) and _HUB_NAME.fullmatch(text) and not text.startswith((".", "~")):
        return _download(text, revision)
    looks_local = isinstance(name, Path) or text.startswith((".", "~", "/")) or os.sep in text
    kind = "no directory" if looks_local else "unknown model"
    raise CheckpointError(
        f"{kind} {text!r}; available: {', '.join(KNOWN_MODELS)}, any organisation/name on the hub, or a local directory"
    )


def _no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ConfigError(f"revision {revision!r} makes sense only for a model on the hub, not for {name!r}")


def _packaged(name: str) -> Path:
    path = Path(str(resources.files("llada_uni"))) / name
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"this installation has no {name!r} weights (expected in {path}); install a release of llada-uni, "
            "or name another checkpoint"
        )
    return path


def _download(name: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated; accept its terms on the hub and log in with 'hf auth login'"
        ) from error
    except errors.RepositoryNotFoundError as error:
        known = ", ".join(KNOWN_MODELS)
        raise CheckpointError(f"no model {name!r} on the hub and no such directory; known models: {known}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{name!r} is not a model name: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise _offline(name, at) from error
    except OSError as error:
        if isinstance(error, errors.HfHubHTTPError) or error.errno is None:
            raise OfflineError(f"cannot download {name}{at}: {error}; try again later") from error
        raise ResourceError(f"cannot store {name}{at}: {error}; free disk space or set HF_HOME") from error
    except Exception as error:  # the transport layers below raise their own kinds
        raise OfflineError(f"cannot download {name}{at}: {type(error).__name__}: {error}; try again later") from error


def _offline(name: str, at: str) -> OfflineError:
    return OfflineError(
        f"{name}{at} is neither a local directory nor in the download cache, and the hub cannot be reached; "
        "connect to the network once, or use --model nano"
    )
