"""Emoji as the npm registry has them: archives are fetched once, read where they lie, and never unpacked.

Fluent emoji in 3-D (WebP) and flat (SVG), Noto emoji (SVG), and the English names and groups of all: 49 MB.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from llada_uni.errors import ConfigError, OfflineError

__all__ = ["GROUPS", "STYLES", "Concept", "EmojiPackages", "fetch_packages"]

STYLES = ("3d", "flat", "noto")
GROUPS: Mapping[str, int] = {
    "smileys": 0, "people": 1, "animals": 3, "food": 4, "travel": 5, "activities": 6, "objects": 7, "symbols": 8,
    "flags": 9,
}  # fmt: skip
_NAMES = "names"
_PACKAGES: Mapping[str, str] = {
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "flat": "fluentui-emoji@1.3.0",
    "noto": "@iconify-json/noto@1.2.9",
    _NAMES: "emojibase-data@17.0.0",
}
_VARIATION = re.compile(r"-?fe0f")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One meaning: its English ``label``, the code points ``key`` (lower case, variation selectors left out)."""

    label: str
    key: str
    group: str

    @property
    def slug(self) -> str:
        """The label as file names have it."""
        return _slug(self.label)


def fetch_packages(folder: Path, styles: Sequence[str] = STYLES) -> list[Path]:
    """Fetches the packages that ``folder`` lacks with ``npm pack``; the archives of the styles and of the names.

    Raises:
        ConfigError: npm is not installed. OfflineError: the registry cannot be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [_PACKAGES[part] for part in (*styles, _NAMES)]
    return [_archive(folder, spec) or _fetched(folder, spec) for spec in wanted]


def _fetched(folder: Path, spec: str) -> Path:
    command = ["npm", "pack", spec, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except FileNotFoundError as error:
        raise ConfigError(
            f"npm is needed to fetch {spec}; install Node.js, or put the archive into {folder}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OfflineError(f"fetching {spec} took longer than 600 s; try again later") from error
    path = _archive(folder, spec)
    if done.returncode or path is None:
        last = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise OfflineError(f"npm cannot fetch {spec} ({last}); connect to the network once")
    return path


def _archive(folder: Path, spec: str) -> Path | None:
    """Where ``npm pack`` puts a package: ``@a/b@1`` becomes ``a-b-1.tgz``."""
    name, _, version = spec.lstrip("@").rpartition("@")
    path = folder / f"{name.replace('/', '-')}-{version}.tgz"
    return path if path.is_file() else None


@dataclass(kw_only=True)
class EmojiPackages:
    """The packages in a folder: concepts by label, and their pictures as PNG."""

    folder: Path
    side_px: int = 128
    concepts: tuple[Concept, ...] = ()
    _sources: dict[str, Callable[[Concept], bytes | None]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: Path, styles: Sequence[str] = STYLES, groups: Sequence[str] = tuple(GROUPS), side_px: int = 128
    ) -> EmojiPackages:
        """Reads the archives of ``styles`` and the names of the concepts in ``groups``.

        Raises:
            ConfigError: an archive is missing or damaged, or the library that draws SVG pictures is.
        """
        if set(styles) - {"3d"}:
            _drawing_library()
        names = _members(folder, _NAMES, ("package/en/data.json",))
        concepts = _concepts(json.loads(names["package/en/data.json"]), groups)
        found = cls(folder=folder, side_px=side_px, concepts=tuple(concepts))
        openers = {"3d": found._open_3d, "flat": found._open_flat, "noto": found._open_noto}
        found._sources = {style: openers[style]() for style in styles}
        return found

    def picture(self, concept: Concept, style: str) -> bytes | None:
        """PNG of ``side_px`` pixels on white; None where the style lacks the concept.

        Raises:
            ConfigError: the picture cannot be drawn.
        """
        return self._sources[style](concept)

    def _open_3d(self) -> Callable[[Concept], bytes | None]:
        members = _members(self.folder, "3d", ("package/assets/",))
        keys = {_key(name.rpartition("/")[2].partition(".")[0]): data for name, data in members.items()}
        return lambda concept: _png(keys[concept.key], self.side_px) if concept.key in keys else None

    def _open_flat(self) -> Callable[[Concept], bytes | None]:
        members = _members(self.folder, "flat", ("package/icons/flat/",))
        drawings = {name.rpartition("/")[2].removesuffix(".svg"): data for name, data in members.items()}

        def draw(concept: Concept) -> bytes | None:
            drawing = drawings.get(concept.slug) or drawings.get(f"{concept.slug}-default")
            return None if drawing is None else _drawn(drawing.decode("utf-8"), self.side_px)

        return draw

    def _open_noto(self) -> Callable[[Concept], bytes | None]:
        members = _members(self.folder, "noto", ("package/icons.json", "package/chars.json"))
        icons, names = (json.loads(members[f"package/{name}.json"]) for name in ("icons", "chars"))
        by_key = {_key(code): name for code, name in names.items()}
        width, height = icons.get("width", 128), icons.get("height", 128)

        def draw(concept: Concept) -> bytes | None:
            name = by_key.get(concept.key, concept.slug)
            icon = icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent", name))
            if icon is None:
                return None
            box = f'viewBox="0 0 {icon.get("width", width)} {icon.get("height", height)}"'
            return _drawn(f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{icon["body"]}</svg>', self.side_px)

        return draw


def _concepts(rows: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> Iterator[Concept]:
    wanted = {GROUPS[name]: name for name in groups}
    seen: set[str] = set()
    for row in rows:
        group = wanted.get(row.get("group", -1))
        label = unicodedata.normalize("NFKC", row["label"]).replace("’", "'")
        if group is not None and _slug(label) not in seen:
            seen.add(_slug(label))
            yield Concept(label=label, key=_key(row["hexcode"]), group=group)


def _members(folder: Path, part: str, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Files of a package whose names start so."""
    path = _archive(folder, _PACKAGES[part])
    if path is None:
        raise ConfigError(f"{folder} lacks the package {_PACKAGES[part]}; fetch it (llada-uni data emoji does)")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() and member.name.startswith(wanted) else None
                if content is not None:
                    found[member.name] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(f"{path} is damaged ({error}); delete it and fetch it again") from error
    if not found:
        raise ConfigError(f"{path} holds nothing named {wanted[0]}; delete it and fetch it again")
    return found


def _drawing_library() -> Any:
    try:
        import resvg_py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "drawing SVG pictures needs resvg_py: pip install 'llada-uni[emoji]', or use the style 3d"
        ) from error
    return resvg_py


def _drawn(svg: str, side_px: int) -> bytes:
    try:
        return _png(bytes(_drawing_library().svg_to_bytes(svg_string=svg, width=side_px, height=side_px)), side_px)
    except ValueError as error:
        raise ConfigError(f"the drawing cannot be rendered ({error})") from error


def _png(content: bytes, side_px: int) -> bytes:
    """Any picture as PNG of ``side_px`` pixels, transparent parts on white."""
    try:
        image = Image.open(io.BytesIO(content)).convert("RGBA")
    except OSError as error:
        raise ConfigError(f"the picture cannot be read ({error})") from error
    image = image.resize((side_px, side_px), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    stored = io.BytesIO()
    Image.alpha_composite(white, image).convert("RGB").save(stored, format="PNG")
    return stored.getvalue()


def _key(code_points: str) -> str:
    return _VARIATION.sub("", code_points.lower())


def _slug(label: str) -> str:
    """ "1st place medal" -> "1st-place-medal"; accents and signs go."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("'", "")).strip("-")
