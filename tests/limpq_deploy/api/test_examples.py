"""The example of every public call runs as it stands in its docstring."""

import doctest
from pathlib import Path
from typing import Any

import pytest

import limpq_deploy
from limpq_deploy.api import builds

BUILDING = (
    "build",
    "calibrate",
    "indicators",
    "inspect",
    "search",
    "sweep",
    "preview",
    "lint",
    "parity",
    "bench",
    "load",
)
CALLS = (*BUILDING, "bundle", "verify", "ship")


def example_of(call: Any, name: str, **names: Any) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(
        call.__doc__ or "", {"limpq_deploy": limpq_deploy, **names}, name, None, None
    )


@pytest.mark.parametrize("name", [*CALLS, "export"])
def test_the_example_in_the_docstring_runs(name: str, workplace: Path, net: Any, loader: Any) -> None:
    call = builds.export if name == "export" else getattr(limpq_deploy, name)
    example = example_of(call, name, net=net, loader=loader)
    assert example.examples, f"{name} has no example"
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert outcome.failed == 0, "".join(said)


def test_every_function_of_the_face_is_tried_here() -> None:
    functions = {name for name in limpq_deploy.__all__ if name[0].islower()} - {"export", "ptq"}
    assert functions == set(CALLS)
    assert limpq_deploy.ptq is limpq_deploy.calibrate
