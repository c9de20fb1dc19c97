"""Float baselines of a build. No torch here.

TensorRT runs the float model in FP16, which is what integers have to beat: speed-ups over "float" are over that engine.
Beside it the same file is timed in FP32, with products of all 24 bits (no TF32), as "fp32".
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from limpq_deploy.export.runtimes.base import BuildsEngines, Runtime
from limpq_deploy.export.timing.report import FLOAT_SERIES
from limpq_deploy.verdict.record import FP32


def least_batch(runtime: Runtime) -> int:
    """The smallest number of images that its engines take: 1, unless a build was asked for larger batches only."""
    return runtime.options.sizes.least if isinstance(runtime, BuildsEngines) else 1


def with_fp32(models: Mapping[str, Path], runtime: Runtime) -> tuple[dict[str, Path], dict[str, Runtime]]:
    """The models by name, "fp32" behind each "float" that runs in FP16, and the runtimes of these additional ones.

    Names of several builds end in ``/float``. Runtimes that build no engines, or whose floats are FP32 anyway, add
    nothing.
    """
    if not isinstance(runtime, BuildsEngines) or runtime.options.float_type != "float16":
        return dict(models), {}
    exact = runtime.with_options(replace(runtime.options, float_type="float32", tf32=False))
    named: dict[str, Path] = {}
    own: dict[str, Runtime] = {}
    for name, path in models.items():
        named[name] = path
        folder, _, last = name.rpartition(FLOAT_SERIES)
        if not last and (not folder or folder.endswith("/")):
            named[f"{folder}{FP32}"] = path
            own[f"{folder}{FP32}"] = exact
    return named, own
