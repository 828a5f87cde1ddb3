"""Commands with a server share their options: same spelling, same defaults, and every value arrives."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from llada_uni.cli import serve, ui
from llada_uni.cli.main import build_command
from llada_uni.cli.server_options import Choices, takes_choices
from llada_uni.errors import ConfigError

COMMANDS = build_command().commands
SHARED = {field.name: field.default for field in fields(Choices)}
GIVEN = {
    "--model": "tiny", "--revision": "abc", "--device": "cpu", "--dtype": "float32", "--vae-tile": "64",
    "--quantize": "int8", "--memory": "4GiB", "--host": "localhost", "--port": "9", "--api-key": "k", "--cors": "*",
    "--name": "n", "--max-requests": "3", "--max-branches": "12", "--timeout": "2", "--max-body": "1", "--drain": "5",
}  # fmt: skip
FLAGS = ("--compile-decoder", "--graph-decoder", "--fetch-images", "--log-errors")


@pytest.mark.parametrize("name", ["serve", "ui"])
def test_both_commands_have_every_shared_option_first(name: str) -> None:
    own = {parameter.name: parameter for parameter in COMMANDS[name].params}
    assert list(own)[: len(SHARED)] == list(SHARED)
    assert {key: own[key].default for key in SHARED} == SHARED
    spelled = [[parameter.opts for parameter in COMMANDS[one].params][: len(SHARED)] for one in ("serve", "ui")]
    assert spelled[0] == spelled[1]
    assert len(own) > len(SHARED)


@pytest.mark.parametrize(("name", "module", "own"), [("serve", serve, ()), ("ui", ui, ("--open",))])
def test_every_value_arrives(name: str, module: Any, own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Choices] = []
    monkeypatch.setattr(module, "serve_with", lambda chosen, **_: taken.append(chosen))
    line = [name, *(word for pair in GIVEN.items() for word in pair), *FLAGS, *own]
    build_command().main(line, standalone_mode=False)
    (chosen,) = taken
    assert {key for key, default in SHARED.items() if getattr(chosen, key) == default} == set()
    assert (chosen.port, chosen.api_key, chosen.timeout) == (9, ["k"], 2.0)
    assert chosen.load == {"max_requests": 3, "deadline_s": 2.0, "max_branches": 12}
    assert chosen.opening["pixels"].vae_tile_px == 64
    assert set(chosen.opening) == {"revision", "device", "dtype", "quantize", "memory", "pixels"}


def test_a_command_keeps_its_name_and_its_own_options() -> None:
    @takes_choices
    def example(chosen: Choices, *, own: int = 3) -> None:
        """Words."""
        raise ConfigError(f"{chosen.port} {own}")

    assert (example.__name__, example.__doc__) == ("example", "Words.")
    with pytest.raises(ConfigError, match="7 4"):
        example(**SHARED | {"port": 7, "own": 4})
