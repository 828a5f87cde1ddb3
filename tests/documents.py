"""What the tests of documentation share: markdown files, their code blocks, links and command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUNCTUATION = frozenset({"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"})
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Block:
    """One fenced code block."""

    path: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """README and everything in docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[Block]:
    """Fenced code blocks of a markdown file."""
    text = path.read_text(encoding="utf-8")
    return [Block(path, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _FENCE.finditer(text)]


def all_blocks(*languages: str) -> list[Block]:
    """Blocks of these languages in all documents."""
    return [block for path in documents() for block in blocks(path) if block.language in languages]


def links(path: Path) -> list[str]:
    """Targets of links and pictures outside code blocks."""
    return _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8")))


def inline_flags(path: Path) -> set[str]:
    """Long options named in `inline code`."""
    spans = re.findall(r"`([^`\n]+)`", _FENCE.sub("", path.read_text(encoding="utf-8")))
    return {flag for span in spans if span.startswith(("--", "llada-uni")) for flag in _FLAG.findall(span)}


def command_lines(block: Block, program: str = "llada-uni") -> Iterator[list[str]]:
    """Arguments of every call of ``program`` in a shell block, without redirections and neighbours in a pipe."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in PUNCTUATION:
                words.append(word)
                continue
            if words[:1] == [program]:
                yield words[1:]
            words = [] if word not in (">", ">>", "<", "2>") else ["redirected"]
