"""``llada-uni eval SUITE --out DIR``: one command for every suite, and ``suites``, ``merge``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import ConfigError

__all__ = ["merge", "register", "run_into", "suites", "tell_progress"]

_JUDGING = "Judging options"
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="Directory of the run; named again, it goes on.")]
Data = Annotated[str | None, typer.Option("--data", metavar="PATH", help="Your copy of the suite's data.")]
Shard = Annotated[str, typer.Option("--shard", metavar="I/N", help="Only every N-th item, from the I-th (from 0).")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="That many items, drawn with the seed.")]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="S", help="Seconds for one item of the model.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Do failed items again.")]
EvalSeed = Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.", rich_help_panel=opt.COMMON)]
JudgeUrl = Annotated[
    str | None,
    typer.Option("--judge-url", metavar="URL", help="OpenAI-compatible endpoint.", rich_help_panel=_JUDGING),
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        "--judge-model", metavar="NAME", help="Model there; or 'own': judge itself.", rich_help_panel=_JUDGING
    ),
]
JudgeTimeout = Annotated[
    float, typer.Option("--judge-timeout", metavar="S", help="Seconds for one reply.", rich_help_panel=_JUDGING)
]
DetectorName = Annotated[
    str | None,
    typer.Option("--detector", metavar="FILE|MODULE:FN", help="Detections, or a detector.", rich_help_panel=_JUDGING),
]
Ocr = Annotated[bool, typer.Option("--ocr", help="Read pictures with rapidocr.", rich_help_panel=_JUDGING)]


def register(group: typer.Typer) -> None:
    """Add a command for every suite, ``suites`` and ``merge`` to the group ``eval``."""
    from llada_uni.evaluation.names import SUITE_TITLES

    group.command("suites")(suites)
    group.command("merge")(merge)
    for name, title in SUITE_TITLES.items():
        group.command(name, help=f"{title}, from your copy of its data.")(_command(name))


def suites(as_json: opt.Json = False) -> None:
    """The suites, what data each needs and who judges it."""
    from llada_uni.evaluation.suites import SUITES

    if as_json:
        found = {
            name: {"title": s.title, "data": s.data_help, "judge": s.judge_kind, "format": s.format_note,
                   "official": s.official, "caution": s.caution}
            for name, s in SUITES.items()
        }  # fmt: skip
        out.emit_json(found)
    else:
        out.emit("\n".join(f"{name}  {s.title}; judge: {s.judge_kind}" for name, s in SUITES.items()))


def merge(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Directory of a run.")],
    data: Data = None,
    as_json: opt.Json = False,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_timeout: JudgeTimeout = 120.0,
    detector: DetectorName = None,
    ocr: Ocr = False,
    retry_failed: Retry = False,
) -> None:
    """Judge what is not judged yet in a directory that shards wrote, and make its report again."""
    from llada_uni.evaluation.manifest import read_manifest
    from llada_uni.evaluation.run import RunSettings, run_suite
    from llada_uni.evaluation.suites import find_suite

    run = read_manifest(Path(directory))
    settings = RunSettings(seed=run["seed"], limit=run["limit"], retry_failed=retry_failed)
    judges = _judges(judge_url, judge_model, judge_timeout, detector, ocr)
    report = run_suite(
        find_suite(run["suite"]), Path(data) if data else None, Path(directory), model=None, judges=judges,
        settings=settings, tell=tell_progress,
    )  # fmt: skip
    _show(report, as_json=as_json)


def _command(name: str) -> Callable[..., None]:
    def suite(
        directory: Out,
        data: Data = None,
        model: opt.Model = "nano",
        revision: opt.Revision = None,
        seed: EvalSeed = 0,
        as_json: opt.Json = False,
        device: opt.Device = "auto",
        dtype: opt.Dtype = None,
        limit: Limit = None,
        shard: Shard = "0/1",
        timeout: Timeout = None,
        retry_failed: Retry = False,
        size: opt.Size = None,
        steps_per_block: opt.StepsPerBlock = None,
        guidance_scale: opt.GuidanceScale = None,
        guidance_text: opt.GuidanceText = None,
        guidance_image: opt.GuidanceImage = None,
        confidence_threshold: opt.ConfidenceThreshold = None,
        temperature: opt.Temperature = None,
        num_steps: opt.NumSteps = None,
        decoder: opt.Decoder = None,
        sprint: opt.Sprint = None,
        keep_ratio: opt.KeepRatio = None,
        max_new_tokens: opt.MaxNewTokens = None,
        thinking: opt.Thinking = False,
        judge_url: JudgeUrl = None,
        judge_model: JudgeModel = None,
        judge_timeout: JudgeTimeout = 120.0,
        detector: DetectorName = None,
        ocr: Ocr = False,
    ) -> None:
        height, width = opt.parse_optional_size(size)
        options = {
            "height": height, "width": width, "steps_per_block": steps_per_block, "guidance_scale": guidance_scale,
            "guidance_text": guidance_text, "guidance_image": guidance_image, "num_steps": num_steps,
            "confidence_threshold": confidence_threshold, "temperature": temperature, "decoder": decoder,
            "sprint": sprint, "keep_ratio": keep_ratio, "max_new_tokens": max_new_tokens, "thinking": thinking or None,
        }  # fmt: skip

        def open_model() -> Any:
            from llada_uni.cli.loading import open_model

            return open_model(model, revision=revision, device=device, dtype=dtype)

        report = run_into(
            name, data, directory, open_model, seed=seed, limit=limit, shard=shard, timeout_s=timeout,
            retry_failed=retry_failed, options=options,
            judging=(judge_url, judge_model, judge_timeout, detector, ocr),
        )  # fmt: skip
        _show(report, as_json=as_json)

    return suite


def run_into(
    name: str,
    data: str | None,
    directory: str,
    open_model: Callable[[], Any],
    *,
    seed: int,
    limit: int | None,
    shard: str,
    timeout_s: float | None = None,
    retry_failed: bool = False,
    options: dict[str, Any],
    judging: tuple[str | None, str | None, float, str | None, bool] = (None, None, 120.0, None, False),
) -> dict[str, Any]:
    """Run one suite into ``directory``; the model is opened once the data and the options have been found good."""
    from llada_uni.evaluation.judges import ModelViewer
    from llada_uni.evaluation.run import RunSettings, load_items, parse_shard, run_suite
    from llada_uni.evaluation.suites import find_suite

    settings = RunSettings(
        seed=seed, limit=limit, shard=parse_shard(shard), timeout_s=timeout_s, retry_failed=retry_failed,
        options={key: value for key, value in options.items() if value is not None},
    )  # fmt: skip
    suite, path = find_suite(name), Path(data) if data else None
    load_items(suite, path, limit=limit, seed=seed)
    judges = _judges(*judging, own=True)
    model = open_model()
    if judging[1] == "own":
        judges = replace(judges, viewer=ModelViewer(model))
    return run_suite(suite, path, Path(directory), model=model, judges=judges, settings=settings, tell=tell_progress)


def _judges(
    url: str | None, name: str | None, timeout_s: float, detector: str | None, ocr: bool, *, own: bool = False
) -> Any:
    """The judges that the options name; "own" is left to the caller, who has the model."""
    from llada_uni.evaluation.items import Judges
    from llada_uni.evaluation.judges import EndpointViewer, OcrReader, open_detector

    if url is not None and not name:
        raise ConfigError("--judge-url: expected --judge-model NAME with it")
    if name and url is None and not (name == "own" and own):
        raise ConfigError(f"--judge-model {name}: expected --judge-url with it, or 'own' in a run that has a model")
    return Judges(
        viewer=EndpointViewer(url, name, timeout_s=timeout_s) if url is not None and name else None,
        detector=open_detector(detector) if detector else None,
        reader=OcrReader() if ocr else None,
    )


def _show(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        out.emit_json(report)
        return
    from llada_uni.evaluation.report import markdown

    out.emit(markdown(report).split("## Run")[0])


def tell_progress(what: str, done: int, total: int) -> None:
    """Progress on a terminal, on one line that is written over."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{what} {done}/{total} " + ("\n" if done == total else ""))
        sys.stderr.flush()
