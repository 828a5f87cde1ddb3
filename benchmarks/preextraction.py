"""Extraction of many pictures, killed at random moments and resumed: is anything missing or doubled?

python benchmarks/preextraction.py --count 5000 --kills 40 --out benchmarks/results/preextraction.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _record import record, write
from llada_uni.data.extractor import ExtractOptions
from llada_uni.data.preextract import extract_tokens
from llada_uni.data.records import Record, RecordSegment, write_records
from llada_uni.data.token_loader import TokenData
from llada_uni.scenes import canonical_caption, render, sample_scene
from llada_uni.weights.catalog import resolve


def draw(folder: Path, count: int, seed: int) -> None:
    """Scenes as PNG files, and the file of their records."""
    source, records = random.Random(seed), []
    for number in range(count):
        graph = sample_scene(source, grid_h=8, grid_w=8)
        render(graph).save(folder / f"{number}.png")
        asked = RecordSegment(role="user", kind="text", text=canonical_caption(graph))
        drawn = RecordSegment(role="assistant", kind="image", image=f"{number}.png", supervised=True)
        records.append(Record(id=f"scene-{number}", task="t2i", segments=(asked, drawn)))
    write_records(folder / "records.jsonl", records)


def killed_run(folder: Path, out: Path, options: argparse.Namespace, seconds: float) -> bool:
    """Runs the command and kills it after ``seconds``; whether it was still running."""
    command = [sys.executable, "-m", "llada_uni", "data", "extract", str(folder), "--out", str(out)]
    command += ["--model", options.model, "--shard-size", str(options.shard_size)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Draws, kills, resumes and counts."""
    source, kills, left = random.Random(options.seed), 0, []
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "pictures", Path(name) / "tokens"
        folder.mkdir()
        draw(folder, options.count, options.seed)
        for _ in range(options.kills):
            if not killed_run(folder, out, options, source.uniform(options.earliest, options.latest)):
                break
            kills += 1
            left.append(len(list(out.glob("tokens-*.safetensors"))))
        started = time.monotonic()
        result = extract_tokens(folder, resolve(options.model), out, ExtractOptions(shard_size=options.shard_size))
        seconds = time.monotonic() - started
        names = [facts["id"] for facts in TokenData(out, verify=True).facts()]
    wanted = {f"scene-{number}" for number in range(options.count)}
    return {
        "pictures": options.count,
        "kills": kills,
        "shards_after_each_kill": left,
        "samples": len(names),
        "missing": len(wanted - set(names)),
        "doubled": len(names) - len(set(names)),
        "shards_kept": result.kept,
        "shards_written_at_last": result.written,
        "last_run_s": round(seconds, 2),
    }


def main() -> None:
    """Entry of the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=5000, help="pictures")
    parser.add_argument("--kills", type=int, default=40, help="runs that are killed, at most")
    parser.add_argument("--earliest", type=float, default=3.0, help="seconds before a kill, at least")
    parser.add_argument("--latest", type=float, default=5.5, help="seconds before a kill, at most")
    parser.add_argument("--shard-size", type=int, default=64, help="records per file")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="result file")
    options = parser.parse_args()
    write(record(measure(options), device="cpu"), options.out)


if __name__ == "__main__":
    main()
