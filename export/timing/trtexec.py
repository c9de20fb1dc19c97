"""NVIDIA's own stopwatch beside ours: ``trtexec`` on the plans that were timed, where it is installed."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.runtimes.base import KeepsPlans, Runtime

COMPUTE = "GPU Compute Time"
"""Its name for what our figure is: the time between two CUDA events round the run."""

START_SECONDS = 120.0
"""For loading a plan; a `trtexec` that takes longer is ended."""

MOST_SECONDS = 3.0
"""Of recorded runs, as `trtexec` takes by itself."""

MEDIAN = re.compile(
    r"^(?:\[[^]]*\]\s*)*(Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): min = .*?"
    r"median = ([0-9.]+(?:e[-+]?[0-9]+)?) ms",
    re.MULTILINE,
)
"""A line of its summary: "[11/01/2024-10:33:09] [I] GPU Compute Time: min = ..., median = 0.499023 ms, ...".
"Latency" is the whole of the way in, the computing and the way back."""


class TrtexecFailed(LimpqError):
    """There are no figures of ``trtexec``; the sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtexecTimes:
    """What ``trtexec`` measured of one series' plan at one batch size, one run at a time.

    ``median_ms``: by its own names. ``command``: its arguments, without the plan. ``failed``: why there are no medians.
    """

    name: str
    batch: int
    median_ms: dict[str, float] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    failed: str | None = None


def times_beside(
    models: Mapping[str, Path], runtimes: Mapping[str, Runtime], batches: Sequence[int], *, seconds: float
) -> tuple[TrtexecTimes, ...]:
    """``trtexec`` on the plan of every model, one after the other; nothing where it is not installed, or a runtime
    keeps no plans. A failure is a reason in the record."""
    if shutil.which("trtexec") is None:
        return ()
    found = []
    for name, path in models.items():
        runtime = runtimes[name]
        if not isinstance(runtime, KeepsPlans):
            continue
        entry = load_model(path).graph.input[0]
        sizes = tuple(size.dim_value for size in entry.type.tensor_type.shape.dim[1:])
        plan = runtime.built(path)[1]
        for batch in dict.fromkeys(batches):
            try:
                medians, command = time_plan(plan, entry.name, (batch, *sizes), seconds=min(seconds, MOST_SECONDS))
                found.append(TrtexecTimes(name=name, batch=batch, median_ms=medians, command=command))
            except TrtexecFailed as error:
                found.append(TrtexecTimes(name=name, batch=batch, failed=str(error)))
    return tuple(found)


def time_plan(
    plan: Path, input_name: str, shape: tuple[int, ...], *, seconds: float
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Medians in ms by name, and the arguments beside the plan: 200 ms of warm-up, a CUDA graph, as ours.

    Raises TrtexecFailed where it is not installed, or ends with an error.
    """
    program = shutil.which("trtexec")
    if program is None:
        raise TrtexecFailed("trtexec is not installed here; it comes with TensorRT's own packages, not with pip's")
    sizes = "x".join(map(str, shape))
    arguments = (
        f"--shapes={input_name}:{sizes}",
        *("--warmUp=200", f"--duration={seconds:g}", "--useCudaGraph"),
    )
    command = [program, f"--loadEngine={plan}", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=START_SECONDS + 10 * seconds
        )
    except subprocess.TimeoutExpired as error:
        raise TrtexecFailed(f"trtexec did not end within {error.timeout:.0f} s, and was ended") from error
    medians = {name: float(ms) for name, ms in MEDIAN.findall(done.stdout)}
    if done.returncode != 0 or not medians:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["it says nothing"]
        raise TrtexecFailed(f"trtexec ended with {done.returncode}: {last[0]}")
    return medians, arguments
