"""``--threads`` holds for every library in the process, those among them that are loaded afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from limpq_deploy.calibration.threads import VARIABLES, holding_threads, most_threads
from limpq_deploy.cli.main import main

COMPUTING = Path(__file__).with_name("computing.py")


def worked(folder: Path, *words: str, **environment: str) -> dict[str, int]:
    """Threads that worked for each library, in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, str(COMPUTING), "compute", *words],
        cwd=folder,
        env={**inherited, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="with one CPU no library has a second thread")
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_every_library_computes_on_so_many_threads(tmp_path: Path) -> None:
    for package in ("torch", "onnxruntime", "scipy", "sklearn"):
        pytest.importorskip(package)
    one = worked(tmp_path, "--threads", "1", OMP_NUM_THREADS="2")
    assert one == dict.fromkeys(one, 1)
    two = worked(tmp_path, "--threads", "2", OMP_NUM_THREADS="1")
    assert min(two.values()) >= 2, two  # so that the count sees threads where there are some


def test_the_number_holds_until_the_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with holding_threads(1):
        assert most_threads() == 1
        assert {os.environ[name] for name in VARIABLES} == {"1"}
    assert most_threads() is None
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("name", ["build", "finetune", "evaluate", "parity", "preview", "finish", "bench", "profile"])
def test_more_than_the_machine_has_are_refused(name: str) -> None:
    result = CliRunner().invoke(main, [name, "x", "--threads", "100000"])
    assert result.exit_code == 2
    assert f"is more than the {os.cpu_count()} CPUs" in " ".join(result.stderr.split())
