"""SIGTERM ends a command with a sentence and exit code 143, at whatever it is."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = "import time\ndef make():\n    open('started', 'w').close()\n    time.sleep(60)\n"


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "Stopped by SIGTERM."), (signal.SIGINT, 130, "Stopped.")]
)
@pytest.mark.parametrize("words", ["inspect slow:make --input-shape 3,8,8 --json", "build --model slow:make --out out"])
def test_a_signal_ends_a_command_with_a_sentence(
    tmp_path: Path, number: signal.Signals, code: int, said: str, words: str
) -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    (tmp_path / "slow.py").write_text(MODULE)
    running = subprocess.Popen(
        [sys.executable, "-m", "limpq_deploy", *words.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LIMPQ_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    assert said in err
    assert "Traceback" not in err
    if "--json" in words:
        assert json.loads(out)["exit_code"] == code
