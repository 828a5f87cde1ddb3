"""Extraction shared out among the workers of a Ray cluster (extra ``[ray]``); without Ray nothing of this is needed.

A worker makes whole shards with the tokenizers it loaded once and writes them into the folder, so that records,
checkpoint, pictures and that folder must have the same paths on all machines (a shared file system). Which shards are
made, and what is in them, does not depend on the workers: the files equal those of ``preextract.extract_tokens``, and a
run that was killed goes on with or without Ray.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llada_uni import errors
from llada_uni.data.extractor import ExtractOptions
from llada_uni.data.preextract import ExtractResult, ShardMaker, ShardWork, concluded, shard_works
from llada_uni.errors import ConfigError, LladaUniError, ResourceError

__all__ = ["extract_with_ray"]


def extract_with_ray(
    records: Path,
    checkpoint: Path,
    out: Path,
    options: ExtractOptions | None = None,
    *,
    workers: int = 2,
    address: str | None = None,
    report: Callable[[int, int], None] | None = None,
) -> ExtractResult:
    """As ``preextract.extract_tokens``, by ``workers`` Ray workers of one processor core each (and one GPU each where
    ``options.device`` is a CUDA device).

    ``address``: of a running cluster ("auto" finds it); None uses a cluster that this process is connected to, or
    starts one on this machine for the time of the call. The lines of the shards to be made pass through the memory of
    this process.

    Raises:
        ConfigError: Ray is not installed, no such cluster, fewer than one worker, or ``options.part`` is set; otherwise
            as ``extract_tokens``.
    """
    options = options or ExtractOptions()
    if workers < 1:
        raise ConfigError(f"workers: expected at least 1, got {workers}")
    if options.part != (0, 1):
        raise ConfigError("part: Ray shares the shards out itself; leave it out, or extract without Ray")
    ray = _library()
    records, checkpoint, out = (path.expanduser().resolve() for path in (records, checkpoint, out))
    marks, waiting = list[str](), list[ShardWork]()
    for work in shard_works(records, checkpoint, out, options):
        marks.append(work.mark)
        waiting += [work] if work.wanted else []
    if waiting:
        with _cluster(ray, address, workers):
            for index, samples in _made(ray, waiting, (records, checkpoint, out, options), min(workers, len(waiting))):
                if report is not None:
                    report(index, samples)
    return concluded(records, checkpoint, out, options, marks, len(waiting))


def _made(ray: Any, waiting: list[ShardWork], arguments: tuple[Any, ...], workers: int) -> Iterator[tuple[int, int]]:
    """Index and number of samples of every shard, as it is made."""
    items = [{"work": pickle.dumps(work)} for work in waiting]
    gpus = {"num_gpus": 1} if str(arguments[-1].device).startswith("cuda") else {}
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Worker, fn_constructor_args=arguments, concurrency=workers, num_cpus=1, **gpus
    )
    try:
        for row in data.iter_rows():
            if row["error"]:
                raise getattr(errors, row["kind"], ConfigError)(row["error"])
            yield row["index"], row["samples"]
    except LladaUniError:
        raise
    except ray.exceptions.RayError as error:
        told = " ".join(str(error).split())[:300]
        raise ResourceError(f"a Ray worker failed: {told}; run the same command again, it goes on") from error


class _Worker:
    """Lives in a worker's process; an error of ours travels as data, since exceptions arrive wrapped."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._maker: ShardMaker | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        work: ShardWork = pickle.loads(row["work"])
        try:
            self._maker = self._maker or ShardMaker(*self._arguments)
            samples, kind, told = self._maker(work), "", ""
        except LladaUniError as error:
            samples, kind, told = 0, type(error).__name__, str(error)
        return {"index": work.chunk.index, "samples": samples, "kind": kind, "error": told}


class _cluster:
    """Connected to a cluster inside; one that was started here ends with the block."""

    def __init__(self, ray: Any, address: str | None, workers: int) -> None:
        self._ray, self._address, self._workers = ray, address, workers
        self._own = False

    def __enter__(self) -> None:
        if self._ray.is_initialized():
            return
        self._own = True
        size = {} if self._address else {"num_cpus": self._workers + 1}
        try:
            self._ray.init(
                address=self._address or "local", log_to_driver=False, logging_level=logging.ERROR,
                include_dashboard=False if not self._address else None, **size,
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            told = " ".join(str(error).split())[:200]
            raise ConfigError(f"no Ray cluster at {self._address or 'this machine'}: {told}") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = False

    def __exit__(self, *_: object) -> None:
        if self._own:
            self._ray.shutdown()


def _library() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f"extraction with Ray needs it ({error}): pip install 'llada-uni[ray]'") from error
    return ray
