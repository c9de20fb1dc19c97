"""The command line is a layer over the public calls: each command's core is one of them."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import click
import pytest

import limpq_deploy
from limpq_deploy.cli.commands import build as module
from limpq_deploy.cli.main import main

CORES = {
    "build": "build",
    "indicators": "build",
    "finetune": "build",
    "export": "build",
    "compile": "build",
    "inspect": "inspect",
    "search": "search",
    "sweep": "sweep",
    "preview": "preview",
    "lint": "lint",
    "parity": "parity",
    "verify": "verify",
    "bench time": "bench",
    "ship": "ship",
}
"""Commands by the call that does their work; the others have no call of the face."""


def _commands(group: click.Group, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", inspect.unwrap(command.callback)  # type: ignore[arg-type]


COMMANDS = dict(_commands(main))


def _calls(function: Any) -> list[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return [
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "limpq_deploy"
    ]


@pytest.mark.parametrize(("command", "call"), CORES.items())
def test_a_command_calls_the_face_once(command: str, call: str) -> None:
    function = COMMANDS[command]
    if call == "build":
        assert "_build(" in inspect.getsource(function)
        function = module._build
    found = _calls(function)
    if command == "inspect":  # it is named while torch loads
        assert "look = limpq_deploy.inspect" in inspect.getsource(function)
        return
    assert found == [call]


def test_every_call_of_the_face_has_its_command() -> None:
    calls = {name for name in limpq_deploy.__all__ if name[0].islower()}
    of_python = {"load", "calibrate", "ptq", "bundle", "export", "indicators"}
    assert calls - of_python == set(CORES.values())
    for function in ("calibrate", "indicators", "export"):  # which are `build` with an end, as their commands are
        assert "build(" in inspect.getsource(getattr(__import__("limpq_deploy.api.builds", fromlist=["x"]), function))
