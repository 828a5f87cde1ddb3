"""``llada-uni data``: from what people have to files that training reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import ConfigError

__all__ = ["emoji", "extract", "import_", "register", "show"]

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")]
_FILTERS = "Filters"


def register(app: typer.Typer) -> None:
    """Add the command group to ``app``."""
    group = typer.Typer(help="Prepare training data of your own.", no_args_is_help=True)
    group.callback()(_group)
    group.command("import")(import_)
    group.command("emoji")(emoji)
    group.command("extract")(extract)
    group.command("show")(show)
    app.add_typer(group, name="data")


def _group() -> None:
    """Prepare training data of your own."""


def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, a file, or the id of a data set.")],
    out_folder: Out,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="auto, folder, jsonl, tar, parquet, saved or hub.")
    ] = "auto",
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="TASK", help="For captions: t2i, cap; may be repeated.")
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", metavar="TEXT", help="Asked where the caption is the answer.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Stop after that many records.")] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Of a data set.")] = "train",
    config_name: Annotated[
        str | None, typer.Option("--config-name", metavar="NAME", help="Of a data set with several.")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option("--image-column", metavar="NAME", help="Of a table; found when not given.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option("--text-column", metavar="NAME", help="Of a table; found when not given.")
    ] = None,
    min_side: Annotated[
        int | None,
        typer.Option("--min-side", metavar="PIXELS", help="Of the shorter side.", rich_help_panel=_FILTERS),
    ] = None,
    min_bytes_per_pixel: Annotated[
        float | None,
        typer.Option("--min-bytes-per-pixel", metavar="X", help="Size of the file.", rich_help_panel=_FILTERS),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", metavar="N", help="Of a picture.", rich_help_panel=_FILTERS)
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            metavar="MODULE:FUNCTION>=X",
            help="A scorer of yours; may be repeated.",
            rich_help_panel=_FILTERS,
        ),
    ] = None,
    paper_filters: Annotated[
        bool,
        typer.Option("--paper-filters", help="The paper's rules where nothing is given.", rich_help_panel=_FILTERS),
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Turn captioned pictures, conversations or tables into records; tell what was left out and why."""
    from llada_uni.data.drafts import QUESTION
    from llada_uni.data.filters import PAPER_CLIPS, PAPER_PICTURES, ClipFilter, PictureFilter, load_score
    from llada_uni.data.import_files import SourceOptions
    from llada_uni.data.importing import SOURCE_KINDS, ImportRules, import_records, open_source
    from llada_uni.image_tokenizer.images import MAX_PIXELS

    if kind not in SOURCE_KINDS:
        raise ConfigError(f"--kind: expected one of {', '.join(SOURCE_KINDS)}, got {kind!r}")
    options = SourceOptions(
        tasks=_tasks(task), question=question or QUESTION, image_column=image_column, text_column=text_column,
        split=split, config_name=config_name,
    )  # fmt: skip
    base = PAPER_PICTURES if paper_filters else PictureFilter()
    pictures = PictureFilter(
        min_side_px=base.min_side_px if min_side is None else min_side,
        min_bytes_per_pixel=base.min_bytes_per_pixel if min_bytes_per_pixel is None else min_bytes_per_pixel,
        scores=tuple(load_score(text) for text in score or ()),
    )
    clips, most = PAPER_CLIPS if paper_filters else ClipFilter(), MAX_PIXELS if max_pixels is None else max_pixels
    rules = ImportRules(pictures=pictures, clips=clips, max_pixels=most, limit=limit)
    drafts = open_source(source, cast(Any, kind), options)
    result = import_records(drafts, out_folder, rules, name=Path(source).name, report=_progress("records, skipped"))
    _end_line()
    if as_json:
        told = {"records": str(result.records_file), "skipped": str(result.skipped_file)}
        out.emit_json({"num_records": result.records, "num_skipped": result.skipped, **told})
        return
    out.emit(f"{result.records_file}  {result.records:,} records")
    _note_skipped(result.skipped, result.skipped_file)


def emoji(
    out_folder: Out,
    packages: Annotated[
        Path | None, typer.Option("--packages", metavar="DIR", help="Where the npm archives are or go.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="smileys, people, animals, food, ...; may be repeated."),
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option("--style", metavar="NAME", help="3d, flat or noto; may be repeated.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="TASK", help="t2i, cap or edit; may be repeated.")
    ] = None,
    side: Annotated[int, typer.Option("--side", metavar="PIXELS", help="Size of the pictures.")] = 128,
    held_out_share: Annotated[
        float, typer.Option("--held-out-share", metavar="X", help="Share of concepts in held_out instead of train.")
    ] = 0.1,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Concepts of each part, at most.")] = None,
    min_bytes_per_pixel: Annotated[
        float, typer.Option("--min-bytes-per-pixel", metavar="X", help="Size of the file.", rich_help_panel=_FILTERS)
    ] = 0.0,
    as_json: opt.Json = False,
) -> None:
    """Fetch emoji in three styles with their names; write records to train on, and of held-out concepts."""
    from llada_uni.data.emoji import EmojiOptions, import_emoji
    from llada_uni.data.filters import PictureFilter

    chosen: dict[str, Any] = {"groups": group, "styles": style, "tasks": task}
    given = {name: tuple(values) for name, values in chosen.items() if values}
    options = EmojiOptions(side_px=side, held_out_share=held_out_share, limit=limit, **given)
    pictures = PictureFilter(min_bytes_per_pixel=min_bytes_per_pixel)
    report = _progress("records, skipped")
    results = import_emoji(packages or out_folder / "packages", out_folder, options, pictures, report=report)
    _end_line()
    if as_json:
        out.emit_json(
            {
                name: {"records": str(one.records_file), "num_records": one.records, "num_skipped": one.skipped}
                for name, one in zip(("train", "held_out"), results, strict=True)
            }
        )
        return
    for one in results:
        out.emit(f"{one.records_file}  {one.records:,} records")
        _note_skipped(one.skipped, one.skipped_file)


def extract(
    records: Annotated[
        Path, typer.Argument(metavar="RECORDS", help="A folder that import wrote, or a JSON lines file.")
    ],
    out_folder: Out,
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    shard_size: Annotated[int, typer.Option("--shard-size", metavar="N", help="Records per file.")] = 512,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Records tokenised together.")] = 32,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Threads that read pictures.")] = 1,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", help="Longest sample; the model's context if not given.")
    ] = None,
    part: Annotated[
        str, typer.Option("--part", metavar="I/N", help="Make only every N-th file, beginning with the I-th.")
    ] = "1/1",
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where the tokenizer runs.")] = "cpu",
    restart: Annotated[bool, typer.Option("--restart", help="Make again what is there.")] = False,
    ray_workers: Annotated[
        int | None,
        typer.Option("--ray", metavar="N", help="Workers of a Ray cluster, or of this machine, share the work."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="ADDRESS", help="Of a running cluster, such as auto.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Turn records into tokens with a checkpoint's tokenizers; run again after an interruption, it goes on."""
    from llada_uni.data.extractor import ExtractOptions
    from llada_uni.data.preextract import extract_tokens
    from llada_uni.weights.catalog import resolve

    options = ExtractOptions(
        shard_size=shard_size, batch_size=batch_size, workers=workers, max_tokens=max_tokens, part=_part(part),
        device=device, restart=restart,
    )  # fmt: skip
    report = _progress("shard, samples")
    if ray_workers is not None:
        from llada_uni.data.preextract_ray import extract_with_ray

        result = extract_with_ray(
            records, resolve(model, revision), out_folder, options, workers=ray_workers, address=ray_address,
            report=report,
        )  # fmt: skip
    elif ray_address is not None:
        raise ConfigError("--ray-address needs --ray N, the number of workers")
    else:
        result = extract_tokens(records, resolve(model, revision), out_folder, options, report=report)
    _end_line()
    manifest = result.manifest
    told = {"written": result.written, "kept": result.kept, "complete": manifest is not None}
    skipped = 0 if manifest is None else sum(shard.skipped for shard in manifest.shards)
    if as_json:
        counts = {} if manifest is None else {"num_samples": manifest.samples, "num_skipped": skipped}
        out.emit_json({"output": str(out_folder), **told, **counts})
    elif manifest is None:
        out.emit(f"{out_folder}  {result.written} shards written; other parts are still missing")
    else:
        out.emit(f"{out_folder}  {manifest.samples:,} samples in {len(manifest.shards)} shards")
        _note_skipped(skipped, out_folder / "skipped.jsonl")


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that extract wrote.")],
    capacity: Annotated[int, typer.Option("--capacity", metavar="N", help="Tokens of a packed row.")] = 8192,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and compare checksums.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Say what extracted tokens hold, and how full rows of packed samples are."""
    from dataclasses import asdict

    from llada_uni.data.packing import pack_report
    from llada_uni.data.token_loader import TokenData

    if capacity < 1:
        raise ConfigError(f"--capacity: expected at least 1, got {capacity}")
    data = TokenData(folder, verify=verify)
    facts = data.facts()
    packed = pack_report([one["n_tokens"] for one in facts], capacity)
    report = {
        "samples": len(data),
        "tokens": sum(one["n_tokens"] for one in facts),
        "target_tokens": sum(one["n_target"] for one in facts),
        "tasks": data.manifest.tasks,
        "shards": len(data.manifest.shards),
        "skipped": sum(shard.skipped for shard in data.manifest.shards),
        "packed": asdict(packed),
    }
    if as_json:
        out.emit_json(report)
        return
    tasks = ", ".join(f"{name} {count:,}" for name, count in data.manifest.tasks.items())
    out.emit(f"{report['samples']:,} samples ({tasks}), {report['skipped']:,} skipped, {report['shards']} shards")
    out.emit(f"{report['tokens']:,} tokens, {report['target_tokens']:,} of them learnt")
    out.emit(
        f"rows of {capacity:,}: {packed.rows:,}, {packed.fill_ratio:.1%} full, at most {packed.most} samples in one"
    )


def _tasks(names: list[str] | None) -> tuple[Any, ...]:
    from llada_uni.data.records import Task

    known = [name for name in get_args(Task) if name in ("t2i", "cap", "ocr")]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(f"--task: a caption makes one of {', '.join(known)}, got {unknown[0]!r}")
    return tuple(dict.fromkeys(names or ("t2i",)))


def _part(text: str) -> tuple[int, int]:
    first, separator, number = text.partition("/")
    if not (separator and first.isdecimal() and number.isdecimal()):
        raise ConfigError(f"--part: expected I/N such as 2/8, got {text!r}")
    return int(first) - 1, int(number)


def _note_skipped(count: int, path: Path) -> None:
    if count:
        out.note(f"{count:,} skipped; {path} says which and why")


def _progress(what: str) -> Any:
    """Counts on a terminal, on one line that is written over."""

    def tell(first: int, second: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{what}: {first:,}, {second:,} ")
            sys.stderr.flush()

    return tell


def _end_line() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
