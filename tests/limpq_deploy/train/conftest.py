"""Trainings in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCENARIO = Path(__file__).with_name("scenario.py")

Command = Callable[..., list[str]]


@pytest.fixture(scope="session")
def scenario() -> Command:
    """The command of a scenario, for one process or several."""

    def command(name: str, folder: Path, processes: int = 1) -> list[str]:
        torchrun = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
        )
        return [sys.executable, *torchrun, str(SCENARIO), name, str(folder)]

    return command


@pytest.fixture(scope="session")
def run_scenario(scenario: Command) -> Callable[..., dict[str, Any]]:
    """Run scenarios to their end; returns what each of them found."""

    def run(names: str, folder: Path, processes: int = 1) -> dict[str, Any]:
        done = subprocess.run(scenario(names, folder, processes), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return {name: json.loads((folder / f"{name}.json").read_text()) for name in names.split(",")}

    return run
