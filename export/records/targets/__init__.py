"""Targets and runtimes by name. Placement, training, export, lint, timing and verdict read their records."""

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.targets.base import (
    WIDEST_GRID,
    FileForm,
    RuntimeSpec,
    TargetSpec,
    in_float,
)
from limpq_deploy.export.records.targets.onnxruntime import ONNXRUNTIME, ONNXRUNTIME_CUDA
from limpq_deploy.export.records.targets.reference import REFERENCE
from limpq_deploy.export.records.targets.tensorrt import TENSORRT
from limpq_deploy.export.records.targets.tensorrt_rtx import TENSORRT_RTX

__all__ = [
    "ONNXRUNTIME",
    "REFERENCE",
    "TENSORRT",
    "WIDEST_GRID",
    "FileForm",
    "RuntimeSpec",
    "TargetSpec",
    "in_float",
]

TARGETS: dict[str, TargetSpec] = {target.name: target for target in (ONNXRUNTIME, TENSORRT, TENSORRT_RTX, REFERENCE)}

DEFAULT = ONNXRUNTIME
"""The target of a build that names none."""

EXPORTED = tuple(target.name for target in TARGETS.values() if target.exportable)
"""Targets that files are written for, and that have rules for them."""

_RUN_ON = (*(target.runs_on for target in TARGETS.values()), ONNXRUNTIME_CUDA)
RUNTIMES: dict[str, RuntimeSpec] = dict(sorted((spec.name, spec) for spec in _RUN_ON if spec is not None))
"""What executes targets, and what is timed beside them."""

BUILDERS = tuple(spec.name for spec in RUNTIMES.values() if spec.engines and spec.code is not None)
"""Runtimes that compile files into engines."""


def target_named(name: str) -> TargetSpec:
    """The target of this name. Raises ModelError with the known names."""
    if name not in TARGETS:
        raise ModelError(f"unknown target {name!r}; known targets: {', '.join(TARGETS)}")
    return TARGETS[name]


def runtime_record(name: str) -> RuntimeSpec:
    """What is known of a runtime without loading it. Raises ModelError with the known names."""
    if name not in RUNTIMES:
        raise ModelError(f"unknown runtime {name!r}; known runtimes: {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def taking(setting: str) -> tuple[str, ...]:
    """Names of the targets that take a setting of a build; of all, where none claims it for itself."""
    return tuple(name for name, target in TARGETS.items() if setting in target.settings) or tuple(TARGETS)
