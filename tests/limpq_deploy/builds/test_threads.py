"""A whole build on one thread, watched from outside while it runs."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limpq_deploy.calibration.threads import VARIABLES

from ..cli.options.computing import seconds

LEAST_S = 0.1
"""What others take that only wait or sleep: progress, signals."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_second_thread_computes_in_any_stage(tmp_path: Path, settings: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    words = ["build", "--config", str(settings), "--out", "out", "--threads", "1"]
    build = subprocess.Popen([sys.executable, "-m", "limpq_deploy", *words], cwd=tmp_path, env=environment)
    taken: dict[str, float] = {}
    while build.poll() is None:
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            taken |= seconds(build.pid)
        time.sleep(0.02)
    assert build.returncode == 0
    assert (tmp_path / "out/bundle/manifest.json").is_file()
    others = {thread: used for thread, used in taken.items() if thread != str(build.pid) and used > LEAST_S}
    assert not others, f"of {taken[str(build.pid)]:.1f} s on the first"
