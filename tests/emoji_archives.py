"""Archives such as npm makes, with a handful of one-coloured emoji, and a stand-in for the library that draws SVG."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

LABELS = ("rocket", "red heart", "cat face", "1st place medal", "ice cream", "fox", "drum", "hot pepper", "ship", "sun")
GROUPS = (5, 0, 3, 6, 4, 3, 7, 4, 5, 5)


def write_archives(folder: Path) -> Path:
    """Four archives; "sun" is missing in the flat style, "red heart" has a variation selector."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = [f"1F6{number:02d}" + ("-FE0F" if number == 1 else "") for number in range(len(LABELS))]
    names = [
        {"label": label, "hexcode": code, "group": group, "skins": []}
        for label, code, group in zip(LABELS, codes, GROUPS, strict=True)
    ]
    names.append({"label": "regional indicator A", "hexcode": "1F1E6"})
    slugs = [label.replace(" ", "-") for label in LABELS]
    _archive(folder / "emojibase-data-17.0.0.tgz", {"en/data.json": json.dumps(names).encode()})
    webp = {f"assets/{code.lower()}.webp": _disc(number) for number, code in enumerate(codes)}
    _archive(folder / "lobehub-fluent-emoji-3d-1.1.0.tgz", webp)
    flat = {f"icons/flat/{slug}{'-default' if slug == 'fox' else ''}.svg": _svg(n) for n, slug in enumerate(slugs[:-1])}
    _archive(folder / "fluentui-emoji-1.3.0.tgz", flat)
    icons = {"icons": {slug: {"body": _svg(n + 60).decode()} for n, slug in enumerate(slugs)}, "width": 128}
    noto = {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps({codes[0].lower(): "rocket"}).encode()}
    _archive(folder / "iconify-json-noto-1.2.9.tgz", noto)
    return folder


def svg_stand_in() -> SimpleNamespace:
    """A module whose pictures have one colour, told by the number in the drawing."""

    def svg_to_bytes(*, svg_string: str, width: int, height: int) -> bytes:
        if "fill" not in svg_string:
            raise ValueError("nothing to draw")
        shade = int(svg_string.split("fill:")[1].split(";")[0])
        return _stored(Image.new("RGBA", (width, height), (shade, 255 - shade, 90, 255)), "PNG")

    return SimpleNamespace(svg_to_bytes=svg_to_bytes)


def _svg(number: int) -> bytes:
    return f'<path style="fill:{40 + number};" d="M0 0"/>'.encode()


def _disc(number: int) -> bytes:
    """Half transparent: the left half has a colour, the right half nothing."""
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((20 * number, 200 - 15 * number, 120, 255), (0, 0, 16, 32))
    return _stored(image, "WEBP", lossless=True)


def _stored(image: Image.Image, kind: str, **options: bool) -> bytes:
    stored = io.BytesIO()
    image.save(stored, format=kind, **options)
    return stored.getvalue()


def _archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
