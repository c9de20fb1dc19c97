"""NVIDIA's perf_analyzer, where it is installed: what a client written in C++ gets from a running server.

Options and columns are those of perf_analyzer 2.51, the only version that was run here.
"""

import base64
import csv
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.serving.server import Address, ServedModel

PROGRAM = "perf_analyzer"


class PerfAnalyzerFailed(LimpqError):
    """perf_analyzer is there but gave no figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfAnalyzed:
    """What ``clients`` at once saw in ``requests`` requests of ``batch`` images, all of which were answered.

    Times are perf_analyzer's own, from the client's sending to its receiving. ``program``: its name and version.
    """

    program: str
    clients: int
    batch: int
    requests: int
    images_per_second: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


def find_perf_analyzer() -> Path | None:
    """The program on the PATH."""
    found = shutil.which(PROGRAM)
    return Path(found) if found else None


def run_perf_analyzer(
    program: Path,
    address: Address,
    model: ServedModel,
    images_NCHW: NDArray[np.float32],
    *,
    clients: int,
    requests: int,
    timeout_s: float = 120.0,
) -> PerfAnalyzed:
    """Let ``clients`` ask ``requests`` times for these images. Raises PerfAnalyzerFailed with the program's own reason
    where it does not start, a request fails, or it does not end in time."""
    from limpq_deploy.export.graph.pixel_input import as_pixels

    with tempfile.TemporaryDirectory() as folder:
        data, table = Path(folder) / "images.json", Path(folder) / "figures.csv"
        images = as_pixels(images_NCHW) if model.datatype == "UINT8" else images_NCHW.astype("<f4")
        data.write_text(json.dumps({"data": [{model.input: {"b64": _base64(image)}} for image in images]}))
        command = [program, "-m", address.model, "-i", address.scheme, "-u", address.host, "-b", len(images_NCHW)]
        command += ["-x", address.version] if address.version else []
        command += ["--input-data", data, "--shape", f"{model.input}:{','.join(map(str, images_NCHW.shape[1:]))}"]
        command += ["--concurrency-range", clients, "--request-count", requests, "-f", table, "--verbose-csv"]
        _run([str(word) for word in command], timeout_s)
        return _read_figures(table, _version(program), clients, len(images_NCHW), requests)


def _base64(image_CHW: NDArray[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(image_CHW).tobytes()).decode()


def _version(program: Path) -> str:
    words = _run([str(program), "--version"], 20).split()
    return f"{PROGRAM} {words[words.index('Version') + 1] if 'Version' in words[:-1] else 'unknown'}"


def _run(command: list[str], timeout_s: float) -> str:
    """What a command that ended well said. The command is made of checked words and no shell reads it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PerfAnalyzerFailed(
            f"{command[0]} gave no figures ({error}); take it off the PATH to do without"
        ) from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300] or f"exit code {done.returncode}"
        raise PerfAnalyzerFailed(f"{command[0]} gave no figures ({said}); take it off the PATH to do without")
    return done.stdout + done.stderr


def _read_figures(table: Path, program: str, clients: int, batch: int, requests: int) -> PerfAnalyzed:
    """The one line of its CSV; times there are in microseconds."""
    try:
        with table.open(newline="") as stream:
            [row] = csv.DictReader(stream)
        mean, p50, p90, p99 = (float(row[f"{name} latency"]) / 1000 for name in ("Avg", "p50", "p90", "p99"))
        per_second = float(row["Inferences/Second"])
    except (OSError, ValueError, KeyError) as error:
        raise PerfAnalyzerFailed(
            f"{program} wrote no table as version 2.51 does ({error}); take it off the PATH to do without"
        ) from error
    return PerfAnalyzed(
        program=program, clients=clients, batch=batch, requests=requests, images_per_second=per_second,
        mean_ms=mean, p50_ms=p50, p90_ms=p90, p99_ms=p99,
    )  # fmt: skip
