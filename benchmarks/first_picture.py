"""What a newcomer waits for: the first picture from a fresh process, its memory, and the time of ``--help``.

python benchmarks/first_picture.py --repeat 3 --out benchmarks/results/first_picture.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _record import record, write

PROMPT = "two red apples left of a house"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="nano", help="nano, a hub id or a directory")
    options.add_argument("--prompt", default=PROMPT)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--out", type=Path, help="result file")
    return options


def program() -> list[str]:
    """The installed command, or the module where it is not installed."""
    script = Path(sys.executable).with_name("llada-uni")
    return [str(script)] if script.exists() else [sys.executable, "-m", "llada_uni"]


def run(command: list[str], folder: str) -> dict[str, float]:
    """Wall seconds, processor seconds and peak resident MiB of one process; it must succeed."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[-4:])} ended with status {process.returncode}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is bytes there, KiB elsewhere
    return {
        "wall_s": round(seconds, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_mib": round(usage.ru_maxrss / unit, 1),
    }


def repeated(command: list[str], repeat: int) -> dict[str, Any]:
    """All runs and the best of them; the first one may read files that were not in memory yet."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(command, folder) for _ in range(repeat)]
    return {"runs": runs, "best": {name: min(one[name] for one in runs) for name in runs[0]}}


def main(arguments: list[str] | None = None) -> None:
    """Measure, show and store."""
    options = parser().parse_args(arguments)
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    picture = [*program(), "generate", options.prompt, "--seed", "7", "--output", "picture.png", "--model", model]
    numbers = {
        "model": options.model,
        "prompt": options.prompt,
        "first_picture": repeated(picture, options.repeat),
        "help": repeated([*program(), "--help"], options.repeat),
    }
    write(record(numbers, arguments=arguments), options.out)


if __name__ == "__main__":
    main()
