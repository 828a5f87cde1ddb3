"""What a prompt asks for, and whether a scene gives exactly that.

The parser knows the closed vocabulary and a small grammar, independent of the caption templates::

    prompt   = [lead] [setting [","]] clause { ("," | "and" | ", and") clause } { [","] setting } ["."]
    clause   = thing [relation thing]
    thing    = [count | article] { size | colour } noun [sign words] [place]
    setting  = background phrase | style phrase

A scene satisfies a prompt when its objects can be assigned one to one to the things mentioned: every count is exact,
**nothing unmentioned is in the picture**, every mentioned attribute, word and place holds, every relation holds for
every member of both groups (lenient tests of :mod:`llada_uni.scenes.geometry`), and the background and the style
agree where they are mentioned. Attributes that are not mentioned are free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

from llada_uni.errors import PromptError
from llada_uni.scenes import words
from llada_uni.scenes.geometry import box_of, place_holds, relation_holds
from llada_uni.scenes.graph import COLOURS, KINDS, MAX_OBJECTS, SIGN_WORDS, SceneGraph, SceneObject
from llada_uni.scenes.split import is_held_out_count, is_held_out_pair

__all__ = ["ObjectSpec", "RelationSpec", "Requirement", "parse", "requires_held_out", "satisfies"]

_TOKEN = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
_DROPPED = frozenset("\"'.!?`\u201c\u201d\u2018\u2019")
_Phrase = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """One thing a prompt mentions: ``count`` objects that share the attributes; ``None`` means free."""

    count: int
    kind: str
    colour: str | None = None
    size: str | None = None
    word: str | None = None
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class RelationSpec:
    """``objects[subject]`` stands in ``relation`` to ``objects[target]``, for every pair of members."""

    subject: int
    relation: str
    target: int


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """Everything a prompt asks for. ``background`` and ``style`` are ``None`` when not mentioned."""

    objects: tuple[ObjectSpec, ...]
    relations: tuple[RelationSpec, ...] = ()
    background: str | None = None
    style: str | None = None

    @property
    def num_objects(self) -> int:
        """Number of objects in any picture that satisfies this."""
        return sum(spec.count for spec in self.objects)


def _table(kind: str, phrases: dict[str, _Phrase]) -> Iterable[tuple[_Phrase, tuple[str, str]]]:
    return ((tuple(phrase.split()), (kind, value)) for value, texts in phrases.items() for phrase in texts)


_LEADS: dict[_Phrase, tuple[str, str]] = {
    **{tuple(phrase.split()): ("lead", "") for phrase in words.LEADS},
    **dict(_table("style", words.STYLE_LEADS)),
    **dict(_table("background", words.SCENE_LEADS)),
}
_SETTINGS: dict[_Phrase, tuple[str, str]] = {
    **dict(_table("background", words.BACKGROUND_PHRASES)),
    **dict(_table("style", words.STYLE_PHRASES)),
}
_AFTER_THING: dict[_Phrase, tuple[str, str]] = {
    **_SETTINGS,
    **dict(_table("relation", words.RELATION_PHRASES)),
    **dict(_table("place", words.PLACE_PHRASES)),
}
_SIGN_PHRASES = {tuple(phrase.split()): ("sign", "") for phrase in words.SIGN_PHRASES}
_COUNTS = {"a": 1, "an": 1} | {word: count for count, word in enumerate(words.COUNT_WORDS) if count}
_COUNTS |= {str(count): count for count in range(1, MAX_OBJECTS + 1)}
_SIZES = {word: size for size, texts in words.SIZE_WORDS.items() for word in texts}
_SINGULAR = {kind: kind for kind in (*KINDS, "sign")}
_PLURAL = {plural: kind for kind, plural in words.PLURALS.items()}


class _Reader:
    """Tokens of a prompt and a position in them."""

    def __init__(self, prompt: str) -> None:
        self.tokens = [token for token in _TOKEN.findall(prompt.lower()) if token not in _DROPPED]
        self.position = 0

    @property
    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, *options: str) -> str:
        """The next token when it is one of ``options``, else ``""``."""
        token = self.next
        if token not in options:
            return ""
        self.position += bool(token)
        return token

    def peek_phrase(self, table: dict[_Phrase, tuple[str, str]]) -> tuple[str, str, int]:
        """Kind, value and length of the longest phrase of ``table`` that comes next; length 0 for none."""
        for length in range(min(5, len(self.tokens) - self.position), 0, -1):
            found = table.get(tuple(self.tokens[self.position : self.position + length]))
            if found is not None:
                return *found, length
        return "", "", 0

    def take_phrase(self, table: dict[_Phrase, tuple[str, str]], *kinds: str) -> tuple[str, str]:
        kind, value, length = self.peek_phrase(table)
        if not length or (kinds and kind not in kinds):
            return "", ""
        self.position += length
        return kind, value

    def refuse(self, expected: str) -> PromptError:
        got = f"{self.next!r} (word {self.position + 1})" if self.next else "the end of the prompt"
        return PromptError(f"expected {expected}, got {got}; use the words of the micro-world")


def _read_sign_word(reader: _Reader) -> str | None:
    if not reader.take_phrase(_SIGN_PHRASES)[0]:
        return None
    word = reader.next.upper()
    if word not in SIGN_WORDS:
        raise reader.refuse("a word that signs can show, such as OPEN,")
    reader.position += 1
    return word


def _read_thing(reader: _Reader) -> ObjectSpec:
    counted = reader.take(*_COUNTS)
    colour = size = None
    while reader.next in COLOURS or reader.next in _SIZES:
        token = reader.take(reader.next)
        if (colour if token in COLOURS else size) is not None:
            reader.position -= 1
            raise reader.refuse("one colour and one size at most")
        colour, size = (token, size) if token in COLOURS else (colour, _SIZES[token])
    count = _COUNTS.get(counted, 1)
    names = _SINGULAR if count == 1 else _PLURAL
    kind = names.get(reader.next)
    if kind is None:
        plural = reader.next in (_PLURAL if count == 1 else _SINGULAR)
        raise reader.refuse(f"a {'plural' if count > 1 else 'singular'} noun" if plural else "an object")
    if kind == "sign" and (colour or size == "large"):
        raise reader.refuse("no colour and no size before a sign, which has neither,")
    reader.position += 1
    word = _read_sign_word(reader) if kind == "sign" else None
    place = reader.take_phrase(_AFTER_THING, "place")[1] or None
    return ObjectSpec(count=count, kind=kind, colour=colour, size=size, word=word, place=place)


class _Builder:
    """Collects the parts of a requirement and refuses contradictions."""

    def __init__(self) -> None:
        self.objects: list[ObjectSpec] = []
        self.relations: list[RelationSpec] = []
        self.settings: dict[str, str] = {}

    def clause(self, reader: _Reader) -> None:
        self.objects.append(_read_thing(reader))
        relation = reader.take_phrase(_AFTER_THING, "relation")[1]
        if relation:
            self.objects.append(_read_thing(reader))
            last = len(self.objects) - 1
            self.relations.append(RelationSpec(subject=last - 1, relation=relation, target=last))

    def setting(self, kind: str, value: str) -> None:
        if self.settings.setdefault(kind, value) != value:
            raise PromptError(f"expected one {kind}, got both {self.settings[kind]!r} and {value!r}; keep one")

    def take_settings(self, reader: _Reader) -> None:
        while True:
            start = reader.position
            reader.take(",")
            kind, value = reader.take_phrase(_AFTER_THING, "background", "style")
            if not kind:
                reader.position = start
                return
            self.setting(kind, value)


def _read_lead(reader: _Reader, builder: _Builder) -> None:
    while True:
        kind, value = reader.take_phrase(_LEADS)
        if kind in ("background", "style"):
            builder.setting(kind, value)
        if not kind:
            break
    builder.take_settings(reader)
    reader.take(",")


@lru_cache(maxsize=4096)
def parse(prompt: str) -> Requirement:
    """Read ``prompt`` (any case, quotes and final punctuation optional).

    Raises ``PromptError`` naming the first word outside the grammar, and when more than ``MAX_OBJECTS`` objects are
    asked for.
    """
    reader, builder = _Reader(prompt), _Builder()
    if not reader.tokens:
        raise PromptError("expected a prompt such as 'two red apples left of a house', got an empty one")
    _read_lead(reader, builder)
    builder.clause(reader)
    builder.take_settings(reader)
    while reader.next:
        comma, joined = reader.take(","), reader.take("and", "with")
        if not (comma or joined):
            raise reader.refuse("'and', a comma, a place, a background or the end")
        builder.clause(reader)
        builder.take_settings(reader)
    requirement = Requirement(
        objects=tuple(builder.objects),
        relations=tuple(builder.relations),
        background=builder.settings.get("background"),
        style=builder.settings.get("style"),
    )
    if requirement.num_objects > MAX_OBJECTS:
        raise PromptError(f"expected at most {MAX_OBJECTS} objects, got {requirement.num_objects}; ask for fewer")
    return requirement


def _fits(item: SceneObject, spec: ObjectSpec, graph: SceneGraph) -> bool:
    attributes = (("colour", item.colour), ("size", item.size), ("word", item.word))
    if item.kind != spec.kind:
        return False
    if any(getattr(spec, name) not in (None, value) for name, value in attributes):
        return False
    return spec.place is None or place_holds(box_of(item), graph.grid_h, graph.grid_w, spec.place)


def _assigned(order: tuple[int, ...], slots: list[int], graph: SceneGraph, requirement: Requirement) -> bool:
    """Whether object ``order[k]`` in the role of thing ``slots[k]`` meets every relation."""
    for rule in requirement.relations:
        subjects = [item for item, slot in zip(order, slots, strict=True) if slot == rule.subject]
        targets = [item for item, slot in zip(order, slots, strict=True) if slot == rule.target]
        for a in subjects:
            for b in targets:
                if not relation_holds(box_of(graph.objects[a]), box_of(graph.objects[b]), rule.relation):
                    return False
    return True


def satisfies(graph: SceneGraph, prompt: str | Requirement) -> bool:
    """Whether ``graph`` shows exactly what ``prompt`` asks for (rules in the module's first lines)."""
    requirement = parse(prompt) if isinstance(prompt, str) else prompt
    if len(graph.objects) != requirement.num_objects:
        return False
    if requirement.background not in (None, graph.background) or requirement.style not in (None, graph.style):
        return False
    slots = [index for index, spec in enumerate(requirement.objects) for _ in range(spec.count)]
    fits = [[_fits(item, spec, graph) for item in graph.objects] for spec in requirement.objects]
    return any(
        all(fits[slot][item] for item, slot in zip(order, slots, strict=True))
        and _assigned(order, slots, graph, requirement)
        for order in permutations(range(len(graph.objects)))
    )


def requires_held_out(requirement: Requirement) -> bool:
    """Whether every scene that satisfies ``requirement`` holds a combination that training never sees."""
    if any(is_held_out_pair(spec.kind, spec.colour) for spec in requirement.objects):
        return True
    kinds = {spec.kind for spec in requirement.objects}
    totals = {kind: sum(spec.count for spec in requirement.objects if spec.kind == kind) for kind in kinds}
    return any(is_held_out_count(kind, total) for kind, total in totals.items())
