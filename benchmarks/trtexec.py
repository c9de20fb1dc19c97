"""NVIDIA's own stopwatch beside ours: `trtexec` on a kept plan, where it is installed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

MEDIAN = re.compile(
    r"^(?:\[[^]]*\]\s*)*(Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): min = .*?"
    r"median = ([0-9.]+(?:e[-+]?[0-9]+)?) ms",
    re.MULTILINE,
)
"""A line of its summary: "[11/01/2024-10:33:09] [I] GPU Compute Time: min = ..., median = 0.499023 ms, ...".
"Latency" is the whole of the way in, the computing and the way back."""


def time_plan(plan: Path, input_name: str, shape: tuple[int, ...], *, seconds: float) -> dict[str, Any]:
    """Medians in ms by name, with the command: 200 ms of warm-up, a CUDA graph, as our own protocol has it.

    Raises OSError where it is not installed, or ends with an error.
    """
    program = shutil.which("trtexec")
    if program is None:
        raise OSError("trtexec is not installed here")
    sizes = "x".join(map(str, shape))
    command = [
        *(program, f"--loadEngine={plan}", f"--shapes={input_name}:{sizes}"),
        *("--warmUp=200", f"--duration={seconds:g}", "--useCudaGraph"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    medians = {name: float(ms) for name, ms in MEDIAN.findall(done.stdout)}
    if done.returncode != 0 or not medians:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["it says nothing"]
        raise OSError(f"trtexec ended with {done.returncode}: {last[0]}")
    return {"command": command[1:], "median_ms": medians}
