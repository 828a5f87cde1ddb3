"""``llada-uni doctor``: is everything there that a long job needs?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llada_uni.cli import machine
from llada_uni.cli import options as opt
from llada_uni.cli import output as out
from llada_uni.errors import LladaUniError

if TYPE_CHECKING:
    from llada_uni.pipeline.inspection import ComponentReport

__all__ = ["Check", "doctor", "register"]

_LEAST_DISK = 64 * 2**20
_TOLERANCE = 1e-2
_WORKING_MEMORY = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool
    detail: str


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("doctor")(doctor)


def doctor(
    model: opt.Model = "nano",
    revision: opt.Revision = None,
    output: opt.Output = None,
    as_json: opt.Json = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = None,
    read_weights: Annotated[bool, typer.Option("--read-weights", help="Also read every number.")] = False,
) -> None:
    """Check versions, devices, memory, disk and the model's files; exit status 2 when something is wrong."""
    checks: list[Check] = []
    for check in _all_checks(model, revision, output, device, dtype, read_weights):
        checks.append(check)
        if not as_json:
            out.emit(f"{'ok   ' if check.ok else 'WRONG'}  {check.name:<18} {check.detail}")
    healthy = all(check.ok for check in checks)
    if as_json:
        details = {"versions": machine.versions(), "devices": machine.describe_devices()}
        out.emit_json({"ok": healthy, "checks": [asdict(check) for check in checks], **details})
    if not healthy:
        raise typer.Exit(2)


def _all_checks(
    model: str, revision: str | None, output: str | None, device: str, dtype: str | None, read_weights: bool
) -> Iterator[Check]:
    from llada_uni.cli.loading import use_all_cores

    use_all_cores()
    yield _versions()
    yield from _devices()
    yield from _backend(device)
    yield _disk(output)
    yield from _model(model, revision, device, dtype, read_weights)


def _versions() -> Check:
    found = machine.versions()
    absent = [name for name, number in found.items() if number == "missing"]
    return Check(name="versions", ok=not absent, detail=", ".join(f"{name} {number}" for name, number in found.items()))


def _devices() -> Iterator[Check]:
    for device in machine.describe_devices():
        memory = f"{machine.human_bytes(device['memory_free'])} free"
        what = device.get("name") or f"{device['cores']} cores, {device['threads']} threads"
        yield Check(name=device["device"], ok=True, detail=f"{what}, {memory}")


def _backend(device: str) -> Iterator[Check]:
    """Do the fast attention and the fast experts agree with the plain ones on this device, and how fast is it?"""
    from llada_uni.cli.backend import largest_difference, product_speed

    try:
        place, _, _ = _target(device, None)
        attention, experts = largest_difference(place)
        speeds = product_speed(place)
    except (LladaUniError, RuntimeError) as error:
        yield Check(name="backend", ok=False, detail=" ".join(str(error).split()))
        return
    agree = max(attention, experts) < _TOLERANCE
    detail = f"largest difference from the plain computation: attention {attention:.0e}, experts {experts:.0e}"
    yield Check(name="backend", ok=agree, detail=detail)
    told = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
    yield Check(name="speed", ok=True, detail=f"matrix products on {place}, GFLOP/s: {told}")


def _disk(output: str | None) -> Check:
    directory = Path.cwd() if output in (None, out.STANDARD) else Path(output or ".").parent
    if not directory.is_dir():
        return Check(name="disk", ok=False, detail=f"the directory {directory} does not exist")
    free = machine.free_disk(directory)
    return Check(
        name="disk", ok=free >= _LEAST_DISK, detail=f"{machine.human_bytes(free)} free in {directory.resolve()}"
    )


def _model(model: str, revision: str | None, device: str, dtype: str | None, read_weights: bool) -> Iterator[Check]:
    from llada_uni.pipeline.inspection import inspect_checkpoint
    from llada_uni.weights.catalog import resolve

    try:
        root = resolve(model, revision)
    except LladaUniError as error:
        yield Check(name="model", ok=False, detail=str(error))
        return
    yield Check(name="model", ok=True, detail=f"{model} in {root}")
    reports = []
    for report in inspect_checkpoint(root, read_weights=read_weights):
        reports.append(report)
        yield _component(report)
    yield _memory(reports, device, dtype)


def _component(report: ComponentReport) -> Check:
    if report.problem is not None:
        return Check(name=report.name, ok=False, detail=report.problem)
    if not report.files:
        return Check(name=report.name, ok=True, detail="the components fit each other")
    size = f"{len(report.files)} files, {machine.human_bytes(report.num_bytes)}"
    if len(report.files) == 1:
        size = f"{report.files[0]}, {machine.human_bytes(report.num_bytes)}"
    parameters = f", {report.num_parameters / 1e6:,.2f} M parameters" if report.num_parameters else ""
    return Check(name=report.name, ok=True, detail=size + parameters)


def _memory(reports: list[Any], device: str, dtype: str | None) -> Check:
    """Do the networks of one task fit: everything but the second decoder?"""
    try:
        place, width, free = _target(device, dtype)
    except LladaUniError as error:
        return Check(name="memory", ok=False, detail=str(error))
    decoders = [report.num_parameters for report in reports if report.name.startswith("decoder:")]
    others = sum(report.num_parameters for report in reports if not report.name.startswith("decoder:"))
    needed = (others + max(decoders, default=0)) * width + _WORKING_MEMORY
    detail = f"about {machine.human_bytes(needed)} needed on {place}, {machine.human_bytes(free)} free"
    return Check(name="memory", ok=free is None or needed <= free, detail=detail)


def _target(device: str, dtype: str | None) -> tuple[str, int, int | None]:
    """Device, bytes per number, free bytes there."""
    import torch

    from llada_uni.weights.load import resolve_device, resolve_dtype

    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    place = resolve_device(wanted)
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else machine.available_memory()
    return str(place), resolve_dtype(dtype, place).itemsize, free
