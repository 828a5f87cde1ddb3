"""Scorers of answers about pictures that need no judge, each as its benchmark defines it.

Sources: relaxed accuracy, Masry et al. 2022 (ChartQA, 5 % tolerance); ANLS, Biten et al. 2019 (threshold 0.5);
OCRBench, Liu et al. 2023 (a reference contained in the reply). Letters, yes/no and counts are read from free text by
the rules written at each function; a reply that fits no rule is wrong, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = [
    "anls",
    "edit_distance",
    "exact_count",
    "exact_match",
    "multiple_choice",
    "ocrbench",
    "relaxed_accuracy",
    "word_scores",
    "yes_no",
]

_NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]


def relaxed_accuracy(reply: str, reference: str, *, tolerance: float = 0.05) -> float:
    """1 when both are numbers and differ by at most ``tolerance`` of the reference, or when the texts are equal.

    A percent sign divides by 100 on both sides. A reference of 0 must be met exactly. Texts are compared without case
    and outer white space.
    """
    said, meant = _number(reply), _number(reference)
    if said is not None and meant is not None:
        return float(said == meant if meant == 0 else abs(said - meant) / abs(meant) <= tolerance + 1e-12)
    return float(reply.strip().lower() == reference.strip().lower())


def anls(reply: str, references: Sequence[str], *, threshold: float = 0.5) -> float:
    """Best normalised Levenshtein similarity to a reference, in [0, 1]; below ``threshold`` it is 0.

    Case and repeated white space do not matter.
    """
    said = _plain(reply)
    best = 0.0
    for reference in references:
        meant = _plain(reference)
        longest = max(len(said), len(meant))
        best = max(best, 1.0 if longest == 0 else 1 - edit_distance(said, meant) / longest)
    return best if best >= threshold else 0.0


def ocrbench(reply: str, references: Sequence[str], *, formula: bool = False) -> float:
    """1 when a reference is contained in the reply, without case; for a formula with case, without white space."""
    if formula:
        said = "".join(reply.split())
        return float(any("".join(reference.split()) in said for reference in references))
    said = reply.lower().strip().replace("\n", " ")
    return float(any(reference.lower().strip().replace("\n", " ") in said for reference in references))


def multiple_choice(reply: str, options: Mapping[str, str]) -> str | None:
    """The letter that a reply chooses, or None.

    ``options`` maps letters to texts (texts may be empty). Rules, the first that fits: the reply is one letter, with
    brackets or a full stop or not; it begins with a letter followed by one of ``.):,`` or a line break; it says
    ``answer is X`` or ``answer: X`` (the last time counts); exactly one letter stands in it in brackets; it equals one
    option's text; exactly one option's text is contained in it.
    """
    text = reply.strip()
    letters = "".join(options)
    if not text or not letters:
        return None
    # "A cat sits" is no choice of A, so a bare letter counts only where nothing but punctuation follows it.
    for pattern in (
        rf"[(\[]?([{letters}])[)\]]?[.,:]?",
        rf"[(\[]?([{letters}])[)\].:,](?:\s.*)?",
        rf"([{letters}])\n.*",
    ):
        found = re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL)
        if found:
            return found[1].upper()
    said = re.findall(rf"answer(?:\s+is|\s*:)\s*:?\s*\**[(\[]?([{letters}])\b(?![’'])", text, re.IGNORECASE)
    if said and not (said[-1] == "a" and "A" in letters and re.search(r"answer(?:\s+is|\s*:)\s+a\s+[a-z]", text)):
        return said[-1].upper()
    bracketed = set(re.findall(rf"[(\[]([{letters}])[)\]]", text))
    if len(bracketed) == 1:
        return bracketed.pop()
    return _by_text(_plain(text).rstrip("."), options)


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    wanted = {letter: _plain(option).rstrip(".") for letter, option in options.items() if option.strip()}
    equal = [letter for letter, option in wanted.items() if option == text]
    if len(equal) == 1:
        return equal[0]
    inside = [letter for letter, option in wanted.items() if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text)]
    return inside[0] if len(inside) == 1 else None


def yes_no(reply: str) -> str | None:
    """``"yes"`` or ``"no"``: the reply's first word if it is one of them, else the only one in it; None otherwise."""
    words = re.findall(r"[a-z]+", reply.lower())
    if words and words[0] in ("yes", "no"):
        return words[0]
    found = {word for word in words if word in ("yes", "no")}
    return found.pop() if len(found) == 1 else None


def exact_count(reply: str) -> int | None:
    """The only whole number in a reply, in digits or as an English word up to twenty; None for none or several."""
    found = {int(digits) for digits in re.findall(r"(?<![\d.,])\d+(?![\d]|[.,]\d)", reply)}
    if re.search(r"\d[.,]\d", reply):
        return None
    found |= {_NUMBERS.index(word) for word in re.findall(r"[a-z]+", reply.lower()) if word in _NUMBERS}
    return found.pop() if len(found) == 1 else None


def exact_match(reply: str, references: Sequence[str]) -> float:
    """1 when the reply equals a reference without case, outer punctuation and repeated white space."""
    return float(_plain(reply).strip(" .!?") in {_plain(reference).strip(" .!?") for reference in references})


def word_scores(read: Sequence[str], wanted: Sequence[str]) -> tuple[list[float], float]:
    """Words of ``wanted`` found in what was ``read`` (each reading used once), and a similarity of the whole.

    The words are compared without case. The similarity is 1 - (edit distance) / (longer length) of the sorted words
    joined by spaces; 1 when both are empty.
    """
    left = [word.lower() for line in read for word in line.split()]
    spare, hits = list(left), []
    targets = [word.lower() for text in wanted for word in text.split()]
    for word in targets:
        hits.append(float(word in spare))
        if word in spare:
            spare.remove(word)
    one, other = " ".join(sorted(left)), " ".join(sorted(targets))
    longest = max(len(one), len(other))
    return hits, 1.0 if longest == 0 else 1 - edit_distance(one, other) / longest


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance: insertions, deletions and replacements cost 1."""
    if len(one) < len(other):
        one, other = other, one
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def _number(text: str) -> float | None:
    cleaned = text.strip().rstrip(".").replace(",", "").removeprefix("$")
    percent = cleaned.endswith("%")
    if not re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", cleaned.rstrip("%").strip(), re.IGNORECASE):
        return None
    value = float(cleaned.rstrip("%"))
    return value / 100 if percent else value


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
