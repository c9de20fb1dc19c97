"""A file of a stranger is tried in a process of its own: a runtime that breaks down on it, or never answers, takes
nobody with it. ``python -m limpq_deploy.export.runtimes.trial_apart FOLDER`` is that process.
"""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Tries
from limpq_deploy.export.runtimes.trial import Trial

SECONDS = 300.0
"""Within which a runtime has loaded a file, run it, and run it as written."""

MODEL, OPTIMIZED, SAID = "model.onnx", "optimized.onnx", "trial.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A `Trial` but for its graph, which is a file; ``signal_db`` as text, as it may be infinite."""

    runtime: str
    refused: str | None = None
    signal_db: str | None = None
    format: Literal["limpq.trial/1"] = field(default="limpq.trial/1")


def trial_apart(runtime: str, model: onnx.ModelProto, *, seconds: float = SECONDS) -> Trial:
    """What the trial of the runtime of this name gives, from a process of its own; one that broke down is a refusal."""
    with tempfile.TemporaryDirectory(prefix="limpq-trial-") as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(model.SerializeToString())
        write_record(Said(runtime=runtime), folder / SAID)
        words = [sys.executable, "-m", __name__, name]
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        try:
            done = subprocess.run(
                words,
                cwd=name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=seconds,
                check=False,
                env={**os.environ, "PYTHONPATH": paths},
            )
        except subprocess.TimeoutExpired:
            return _refused(f"the runtime gave no answer within {seconds:g} s")
        if done.returncode < 0:
            return _refused(f"the runtime itself broke down on the file ({signal.Signals(-done.returncode).name})")
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            return _refused(f"the runtime ended without an answer ({plain(lines[-1] if lines else 'no word')})")
        said = load_record(Said, folder / SAID)
        optimized = folder / OPTIMIZED
        return Trial(
            refused=said.refused,
            optimized=onnx.load_model(optimized) if optimized.exists() else None,
            signal_db=None if said.signal_db is None else float(said.signal_db),
        )


def _refused(why: str) -> Trial:
    return Trial(refused=why, optimized=None, signal_db=None)


def main(folder: Path) -> None:
    """Try the file of a folder, and leave the answer there."""
    asked = load_record(Said, folder / SAID)
    runtime = runtime_named(asked.runtime)
    assert isinstance(runtime, Tries)
    found = runtime.trial(onnx.load_model(folder / MODEL))
    if found.optimized is not None:
        (folder / OPTIMIZED).write_bytes(found.optimized.SerializeToString())
    level = None if found.signal_db is None else str(found.signal_db)
    write_record(Said(runtime=asked.runtime, refused=found.refused, signal_db=level), folder / SAID)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
