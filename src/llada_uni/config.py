"""Strict configuration: frozen dataclasses to and from plain mappings, and typed overrides.

Our own files and recipes are strict: an unknown key raises and names the nearest known one. Foreign checkpoint files
carry keys nobody here has seen, so there an unknown key only warns, unless it looks like a misspelt known key that is
absent.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llada_uni.errors import ConfigError

__all__ = ["from_mapping", "override", "read_json", "to_mapping"]

ConfigT = TypeVar("ConfigT")


def from_mapping(
    cls: type[ConfigT],
    mapping: Mapping[str, Any],
    *,
    source: str,
    foreign: bool = False,
    ignored: Sequence[str] = (),
) -> ConfigT:
    """Build the frozen dataclass ``cls`` from ``mapping``.

    Absent keys take the dataclass defaults. ``source`` names the file in messages. With ``foreign`` unknown keys warn
    instead of raising, except those that resemble a known key that is absent; keys starting with ``_`` and keys in
    ``ignored`` are metadata and skipped silently.

    Raises:
        ConfigError: an unknown key, a missing required key, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls)) if f.init}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key in fields:
            values[key] = _coerce(value, hints[key], f"{source}: {key}", foreign=foreign)
        elif not (foreign and (key.startswith("_") or key in ignored)):
            _unknown_key(
                key,
                absent=[k for k in fields if k not in mapping],
                known=list(fields),
                source=source,
                foreign=foreign,
            )
    missing = [k for k, f in fields.items() if k not in values and _required(f)]
    if missing:
        raise ConfigError(f"{source}: missing {', '.join(missing)}; expected the keys {', '.join(fields)}")
    return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """Plain JSON-ready mapping of a configuration dataclass (tuples become lists, paths become strings)."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def override(config: ConfigT, assignment: str) -> ConfigT:
    """Copy of ``config`` with one field changed, written ``"optim.lr=2e-5"`` and parsed against the field's type.

    Raises:
        ConfigError: no ``=``, an unknown field (the nearest known one is named) or a value of the wrong type.
    """
    path, separator, text = assignment.partition("=")
    if not separator:
        raise ConfigError(f"expected an override such as optim.lr=2e-5, got {assignment!r}")
    return _override(config, path.strip().split("."), text.strip(), path.strip())


def read_json(path: Path) -> dict[str, Any]:
    """Mapping held by a JSON file.

    Raises:
        ConfigError: the file is unreadable, not JSON, or not an object.
    """
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON (line {error.lineno}: {error.msg})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return typing.cast(dict[str, Any], value)


def _override(config: Any, path: list[str], text: str, full: str) -> Any:
    names = [f.name for f in dataclasses.fields(config)]
    if path[0] not in names:
        raise ConfigError(f"--set {full}: no field {path[0]!r}{_nearest(path[0], names)}")
    current = getattr(config, path[0])
    if len(path) > 1:
        if current is None:
            current = _absent(typing.get_type_hints(_class_of(config))[path[0]])
        if not dataclasses.is_dataclass(current):
            raise ConfigError(f"--set {full}: {path[0]!r} has no fields inside it")
        return dataclasses.replace(config, **{path[0]: _override(current, path[1:], text, full)})
    hint = typing.get_type_hints(_class_of(config))[path[0]]
    return dataclasses.replace(config, **{path[0]: _parse(text, hint, full)})


def _absent(hint: Any) -> Any:
    """What stands in for an optional part that is not there: its defaults, if it has them."""
    kinds = [kind for kind in typing.get_args(hint) if dataclasses.is_dataclass(kind)]
    complete = len(kinds) == 1 and not any(_required(item) for item in dataclasses.fields(kinds[0]))
    return typing.cast(Any, kinds[0])() if complete else None


def _class_of(config: object) -> type:
    return type(config)


def _parse(text: str, hint: Any, full: str) -> Any:
    where = f"--set {full}"
    if hint is str or (_allows_text(hint) and text not in ("null", "None")):
        return _coerce(text, hint, where)
    if text in _literals(hint):
        return text
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except json.JSONDecodeError:
        value = text
    return _coerce(value, hint, where)


def _allows_text(hint: Any) -> bool:
    return bool({str, Path} & {hint, *typing.get_args(hint)}) and typing.get_origin(hint) in _SCALAR_ORIGINS


_SCALAR_ORIGINS = (None, typing.Union, types.UnionType)


def _literals(hint: Any) -> list[Any]:
    """Values a ``Literal`` allows, also one inside a union."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [value for option in typing.get_args(hint) for value in _literals(option)]
    return []


def _coerce(value: Any, hint: Any, where: str, *, foreign: bool = False) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(value, hint, where, foreign=foreign)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        known = any(type(value) is type(choice) and value == choice for choice in allowed)
        return _expect(known, value, f"one of {', '.join(map(repr, allowed))}", where)
    if origin is tuple:
        return _coerce_tuple(value, typing.get_args(hint), where)
    if origin in (dict, Mapping):
        return dict(_expect(isinstance(value, Mapping), value, "an object", where))
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        mapping = _expect(isinstance(value, Mapping), value, "an object", where)
        return from_mapping(typing.cast(type[Any], hint), mapping, source=where, foreign=foreign)
    return _coerce_scalar(value, hint, where)


def _coerce_union(value: Any, hint: Any, where: str, *, foreign: bool) -> Any:
    options = typing.get_args(hint)
    if value is None and type(None) in options:
        return None
    problem: ConfigError | None = None
    for option in (o for o in options if o is not type(None)):
        try:
            return _coerce(value, option, where, foreign=foreign)
        except ConfigError as error:
            problem = error
    assert problem is not None
    raise problem


def _coerce_tuple(value: Any, items: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    entries: Sequence[Any] = _expect(isinstance(value, (list, tuple)), value, "a list", where)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_coerce(entry, items[0], where) for entry in entries)
    _expect(len(entries) == len(items), value, f"{len(items)} entries", where)
    return tuple(_coerce(entry, item, where) for entry, item in zip(entries, items, strict=True))


def _coerce_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    right = isinstance(value, hint) and not (hint is not bool and isinstance(value, bool))
    return _expect(right, value, hint.__name__, where)


def _expect(condition: bool, value: Any, expected: str, where: str) -> Any:
    if not condition:
        raise ConfigError(f"{where}: expected {expected}, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _unknown_key(key: str, *, absent: list[str], known: list[str], source: str, foreign: bool) -> None:
    if not foreign:
        raise ConfigError(f"{source}: unknown key {key!r}{_nearest(key, known)}")
    lookalike = difflib.get_close_matches(key, absent, n=1, cutoff=0.85)
    if lookalike:
        raise ConfigError(
            f"{source}: unknown key {key!r} resembles {lookalike[0]!r}, which is absent; rename one of them"
        )
    warnings.warn(f"{source}: unknown key {key!r} is ignored", stacklevel=4)


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in typing.cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in typing.cast(Sequence[Any], value)]
    return str(value) if isinstance(value, Path) else value
