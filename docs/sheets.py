"""Sheets of pictures with captions, for the guides: cells side by side, rows below each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

__all__ = ["Cell", "joined", "picture_cell", "save", "sheet", "text_cell", "wrapped"]

GAP_PX, MARGIN_PX, INSIDE_PX = 8, 8, 8
TEXT_SIDE_PX = 128
PAPER, TILE, EDGE, INK = "white", (240, 242, 245), (214, 218, 224), (40, 42, 46)
LARGEST = 40_000
_FONT = ImageFont.load_default(12)
_LINE_PX = 15
_COLOURS = (256, 192, 128, 96, 64, 48, 32, 24)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A picture and the words below it, wrapped to its width."""

    picture: Image.Image
    caption: str = ""

    @property
    def lines(self) -> list[str]:
        """The caption as it is set."""
        return wrapped(self.caption, self.picture.width)


def text_cell(text: str, caption: str = "", *, width: int = TEXT_SIDE_PX, height: int = TEXT_SIDE_PX) -> Cell:
    """Words instead of a picture, in the middle of a grey tile that grows with them."""
    lines = wrapped(text, width - 2 * INSIDE_PX)
    height = max(height, len(lines) * _LINE_PX + 2 * INSIDE_PX)
    tile = Image.new("RGB", (width, height), TILE)
    _write(tile, lines, INSIDE_PX, (height - len(lines) * _LINE_PX) // 2)
    return Cell(picture=_framed(tile), caption=caption)


def picture_cell(picture: Image.Image, caption: str = "") -> Cell:
    """A picture with a thin edge, so that a white one ends somewhere."""
    return Cell(picture=_framed(picture), caption=caption)


def joined(pictures: Sequence[Image.Image], caption: str = "") -> Cell:
    """Pictures close together with one caption below all of them."""
    pictures = [_framed(picture) for picture in pictures]
    width = sum(picture.width for picture in pictures) + (len(pictures) - 1) * (GAP_PX // 2)
    strip, left = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER), 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + GAP_PX // 2
    return Cell(picture=strip, caption=caption)


def sheet(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Rows of cells on white, pictures aligned at the top of their row and captions below."""
    strips = [_row(cells) for cells in rows]
    width = max(strip.width for strip in strips) + 2 * MARGIN_PX
    height = sum(strip.height for strip in strips) + (len(strips) - 1) * GAP_PX + 2 * MARGIN_PX
    page, top = Image.new("RGB", (width, height), PAPER), MARGIN_PX
    for strip in strips:
        page.paste(strip, (MARGIN_PX, top))
        top += strip.height + GAP_PX
    return page


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words and at line ends; a longer word has a line of its own."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _FONT.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def save(page: Image.Image, path: Path, *, largest: int = LARGEST) -> int:
    """Write a PNG with as many colours as ``largest`` bytes allow; returns its size.

    Raises:
        ValueError: it does not fit with 24 colours.
    """
    for colours in _COLOURS:
        buffer = io.BytesIO()
        page.quantize(colours, kmeans=2, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= largest:
            path.write_bytes(buffer.getvalue())
            return buffer.tell()
    raise ValueError(f"{path.name}: {buffer.tell()} bytes with {_COLOURS[-1]} colours, at most {largest}; show less")


def _framed(picture: Image.Image) -> Image.Image:
    return ImageOps.expand(picture.convert("RGB"), 1, EDGE)


def _row(cells: Sequence[Cell]) -> Image.Image:
    pictures = max(cell.picture.height for cell in cells)
    words = max(len(cell.lines) for cell in cells)
    width = sum(cell.picture.width for cell in cells) + (len(cells) - 1) * GAP_PX
    strip, left = Image.new("RGB", (width, pictures + words * _LINE_PX + (4 if words else 0)), PAPER), 0
    for cell in cells:
        strip.paste(cell.picture, (left, 0))
        _write(strip, cell.lines, left, pictures + 2)
        left += cell.picture.width + GAP_PX
    return strip


def _write(image: Image.Image, lines: Sequence[str], left: int, top: int) -> None:
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((left, top + number * _LINE_PX), line, fill=INK, font=_FONT)
