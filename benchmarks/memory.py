"""Memory: what the weights take, what a token of context takes, and the peak of whole tasks in processes of their own.

python benchmarks/memory.py --out benchmarks/results/memory_nano.json
python benchmarks/memory.py --size uni --device cuda --out benchmarks/results/memory_uni.json

On a CPU the peak is that of the process (Python and its libraries included), on a GPU that of its allocator. Tasks: a
picture and an answer about a picture, by the pipeline's own parts with everything in memory; "reference" is the
released token phase, which makes logits of whole windows. With nano also the tasks of the public class. Weights are
counted from the configurations.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from _floors import kv_bytes_per_token, networks
from _record import record, write
from _released import denoiser, written
from _sizes import NANO, Networks, shapes
from _timing import arguments, run_options
from _work import picture_request, text_request
from decoder import TURBO
from llada_uni.grid import TokenGrid
from llada_uni.pipeline.stations import draw, returned

PARTS = ("nothing", "picture", "answer", "everything")
PUBLIC = ("generate_image", "understand_image", "edit_image")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--grid", type=int, help="side of pictures in codes (default: 8, and 32 for uni)")
    made.add_argument("--steps", type=int, default=8, help="steps per block")
    made.add_argument("--task", help=argparse.SUPPRESS)
    made.add_argument("--side", default="ours", help=argparse.SUPPRESS)
    return made


def tokens(made: Networks, options: Any) -> list[int]:
    """Codes of a picture."""
    request = picture_request(made.shapes, options.grid, steps=options.steps)
    done = written([request], denoiser(options.side, made.backbone, mask_id=request.mask_id))[0]
    return [i - made.shapes.first_code for i in done.output_ids]


def picture(made: Networks, options: Any) -> None:
    """Words to pixels."""
    codes = torch.tensor([tokens(made, options)])
    returned(draw(made, codes, TokenGrid(options.grid, options.grid), [0], TURBO))  # type: ignore[arg-type]


def answer(made: Networks, options: Any) -> None:
    """Pixels to 32 ids."""
    side, config = options.grid, made.shapes.image_tokenizer.vision_config
    patches = torch.randn(side * side, config.patch_features).to(made.device, made.dtype)
    made.image_tokenizer(patches, [TokenGrid(side, side)])
    request = text_request(made.shapes, num_tokens=32, pictures=1, side=side, steps=options.steps)
    written([request], denoiser(options.side, made.backbone, mask_id=request.mask_id))


def everything(made: Networks, options: Any) -> None:
    """Both, with all networks in memory (of the decoders the one in use)."""
    picture(made, options)
    answer(made, options)


def public(name: str, options: Any) -> None:
    """A method of the public class on nano."""
    from PIL import Image

    from llada_uni import LladaUni

    model = LladaUni.from_pretrained(NANO, device=options.device)
    shown = Image.new("RGB", (128, 128), "white")
    given = {
        "generate_image": ("two red apples left of a house",),
        "understand_image": (shown, "what is this?"),
        "edit_image": (shown, "make it green"),
    }
    getattr(model, name)(*given[name], seed=0)


@torch.inference_mode()
def task(options: Any) -> dict[str, float]:
    """One task in this process: its peak in GB, and on a GPU what stays."""
    if options.task in PUBLIC:
        public(options.task, options)
    elif options.task != "nothing":
        made = Networks(shapes(options.size), device=options.device, dtype=options.dtype, seed=options.seed)
        run: Callable[[Networks, Any], None] = {"picture": picture, "answer": answer, "everything": everything}[
            options.task
        ]
        run(made, options)
    if options.device.type == "cuda":
        return {
            "peak_gb": torch.cuda.max_memory_allocated(options.device) / 1e9,
            "held_gb": torch.cuda.memory_allocated(options.device) / 1e9,
        }
    return {"peak_gb": _peak_of_this_process() / 1e9}


def _peak_of_this_process() -> int:
    """Bytes. Linux counts them from the start of the program; elsewhere the parent's own peak may be included."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(one for one in status.read_text(encoding="utf-8").splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_own_process(name: str, side: str, given: list[str]) -> dict[str, Any]:
    """:func:`task` in a fresh process."""
    line = [sys.executable, str(Path(__file__)), *given, "--task", name, "--side", side]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"memory of {name} ({side}) failed:\n{done.stderr}")
    return {"task": name, "side": side, **json.loads(done.stdout.splitlines()[-1])}


def main(given: list[str] | None = None) -> None:
    """Measure, show and store."""
    given = sys.argv[1:] if given is None else given
    options = run_options(parser(), given)
    options.grid = options.grid or (32 if options.size == "uni" else 8)
    if options.task:
        sys.stdout.write(json.dumps(task(options)) + "\n")
        return
    found, element = shapes(options.size), options.dtype.itemsize
    runs = [(name, "ours") for name in PARTS]
    runs += [(name, "reference") for name in ("picture", "answer") if "reference" in options.against]
    runs += [(name, "ours") for name in PUBLIC if options.size == "nano"]
    weights = {name: count * element / 1e9 for name, count in networks(found).items()}
    numbers = {
        "size": options.size, "dtype": str(options.dtype).removeprefix("torch."), "grid": options.grid,
        "weights_gb": weights,
        "kv_kib_per_token": kv_bytes_per_token(found.backbone, element) / 1024,
        "tasks": [in_own_process(name, side, given) for name, side in runs],
    }  # fmt: skip
    write(record(numbers, device=str(options.device), arguments=given), options.out)


if __name__ == "__main__":
    main()
