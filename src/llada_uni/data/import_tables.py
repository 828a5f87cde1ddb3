"""Drafts from tables: parquet files, saved and hub data sets, through the library ``datasets`` (extra ``[train]``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llada_uni.data.drafts import CAPTION_KEYS, Draft, Picture, captioned, conversation, find_in
from llada_uni.data.import_files import Drafts, SourceOptions
from llada_uni.data.records import Skipped
from llada_uni.errors import ConfigError, OfflineError

__all__ = ["read_hub", "read_parquet", "read_saved"]

_IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "img", "picture", "image_bytes")
_CAPTION_COLUMNS = (*CAPTION_KEYS, "txt")
_TURN_COLUMNS = ("messages", "conversations")


def read_parquet(paths: Sequence[Path], options: SourceOptions) -> Drafts:
    """Rows of parquet files, read one group at a time.

    Raises:
        ConfigError: ``datasets`` is not installed, the files cannot be read, or no column fits.
    """
    library = _library()
    names = [str(path) for path in paths]
    yield from _rows(_opened(lambda: library.load_dataset("parquet", data_files=names, split="train", streaming=True),
                             names[0]), paths[0].stem, options)  # fmt: skip


def read_saved(folder: Path, options: SourceOptions) -> Drafts:
    """Rows of a data set that ``save_to_disk`` wrote. Errors as for :func:`read_parquet`."""
    library = _library()
    table = _opened(lambda: library.load_from_disk(str(folder)), str(folder))
    if isinstance(table, Mapping):
        if options.split not in table:
            raise ConfigError(f"{folder} has no split {options.split!r}; it has {', '.join(table)}")
        table = table[options.split]
    yield from _rows(table, folder.name, options)


def read_hub(name: str, options: SourceOptions) -> Drafts:
    """Rows of a data set on the hub, streamed.

    Raises:
        OfflineError: the hub cannot be reached. ConfigError: as for :func:`read_parquet`.
    """
    library = _library()
    arguments = {"split": options.split, "streaming": True}
    table = _opened(lambda: library.load_dataset(name, options.config_name, **arguments), name)
    yield from _rows(table, name.rpartition("/")[2], options)


def _library() -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"parquet files and hub data sets need the library datasets ({error}); pip install 'llada-uni[train]'"
        ) from error
    return datasets


def _opened(load: Any, name: str) -> Any:
    try:
        return load()
    except ConnectionError as error:
        raise OfflineError(f"cannot reach the hub for {name!r}: {error}") from error
    except Exception as error:  # the library and the formats below it raise their own kinds
        raise ConfigError(f"cannot open {name!r} as a data set: {type(error).__name__}: {error}") from error


def _rows(table: Any, name: str, options: SourceOptions) -> Drafts:
    library = _library()
    columns = list(table.column_names or next(iter(table.take(1)), {}))
    for column in columns:
        if isinstance((table.features or {}).get(column), library.Image):
            table = table.cast_column(column, library.Image(decode=False))
    image, text = _columns(columns, options)
    rows, number = iter(table), 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # a damaged file in the middle
            yield Skipped(id=f"{name}/{number}", reason=f"cannot be read on: {type(error).__name__}: {error}")
            return
        yield from _drafts(f"{name}/{number}", row, image, text, options)
        number += 1


def _columns(columns: Sequence[str], options: SourceOptions) -> tuple[str | None, str]:
    """The columns of pictures and of captions or turns.

    Raises:
        ConfigError: they cannot be told.
    """
    text = options.text_column or next((c for c in (*_TURN_COLUMNS, *_CAPTION_COLUMNS) if c in columns), None)
    known = (*_IMAGE_COLUMNS, "images")
    image = options.image_column or next((c for c in known if c in columns), None)
    missing = [c for c in (options.text_column, options.image_column) if c is not None and c not in columns]
    if text is None or missing or (image is None and text not in _TURN_COLUMNS):
        raise ConfigError(
            f"no column for pictures or captions among {', '.join(columns)}; name them with --image-column and "
            "--text-column"
        )
    return image, text


def _drafts(
    name: str, row: Mapping[str, Any], image: str | None, text: str, options: SourceOptions
) -> Iterator[Draft | Skipped]:
    name = str(row["id"]) if isinstance(row.get("id"), str | int) else name
    find = _find
    try:
        if text in _TURN_COLUMNS:
            pictures = row.get(image) if image else None
            listed = pictures if isinstance(pictures, list) else [] if pictures is None else [pictures]
            task = {"task": row["task"]} if "task" in row else {}
            yield conversation(name, {text: _plain(row[text]), "images": listed, **task}, find)
        else:
            yield from captioned(name, find(row[image or ""]), row[text], options.tasks, options.question)
    except ConfigError as error:
        yield Skipped(id=name, reason=str(error))


def _find(value: Any) -> Picture:
    return find_in(None)({"bytes": value} if isinstance(value, bytes) else value)


def _plain(value: Any) -> Any:
    """Arrow gives structs with all fields, absent ones as None; those are left out."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value
