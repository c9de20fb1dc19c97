"""How a Q/DQ file is written for one version of a runtime: operator set, form of weights, who chooses float types.

A form changes nothing that is trained: every form of one model has the same grids, scales and codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import onnx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec

TENSORRT_KEY = "limpq.tensorrt"
"""Metadata key of a file: the version of TensorRT that it is written for."""

PRODUCER = "limpq-deploy"
"""What a Q/DQ file written here calls its producer."""

PACKAGES = ("tensorrt", "tensorrt-bindings", "tensorrt_cu12", "tensorrt_cu13", "tensorrt_cu12_bindings")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileForm:
    """``version``: of TensorRT, None for other runtimes. ``weights``: int8 initializers with a DequantizeLinear, or
    FP32 ones with a pair. ``typed``: every tensor's type is taken from the file (strong typing), so that layers of 16
    bits are written in FP16; else the builder chooses among what its flags allow."""

    version: str | None
    opset: int
    weights: Literal["int8", "float32"]
    typed: bool


TENSORRT_FORMS: Mapping[str, FileForm] = {
    "8.6": FileForm(version="8.6", opset=17, weights="float32", typed=False),
    "10": FileForm(version="10", opset=20, weights="int8", typed=True),
    "11": FileForm(version="11", opset=21, weights="int8", typed=True),
}
"""8.6 reads opset 17 and no int8 initializers reliably; 10.0 reads opset 20, 11 up to 25, both int8 initializers. 11
takes all types from the file, 10 where it is asked to (its builder here is)."""


def form_for(target: TargetSpec, version: str | None = None) -> FileForm:
    """The form of a target's files. ``version``: of TensorRT; None: the installed one, else 8.6, whose files all
    versions read. Raises ModelError for a version that is not known."""
    if target.name != "tensorrt":
        return FileForm(version=None, opset=target.opset, weights="int8", typed=True)
    known = version or installed_version() or next(iter(TENSORRT_FORMS))
    if known not in TENSORRT_FORMS:
        raise ModelError(f"TensorRT {known} is not known here; files are written for {', '.join(TENSORRT_FORMS)}")
    return TENSORRT_FORMS[known]


def form_at(target: TargetSpec, opset: int) -> FileForm:
    """The form of a target's files at an opset. Raises ModelError where there is none."""
    forms = tuple(TENSORRT_FORMS.values()) if target.name == "tensorrt" else (form_for(target),)
    for form in forms:
        if form.opset == opset:
            return form
    wanted = " or ".join(str(form.opset) for form in forms)
    raise ModelError(f"the template has opset {opset}; the target takes {wanted}")


def form_of(model: onnx.ModelProto, target: TargetSpec) -> FileForm:
    """The form that a file says it has; the oldest of its target, which all versions read, where it says nothing."""
    return form_for(target, form_named(model) or next(iter(TENSORRT_FORMS)))


def form_named(model: onnx.ModelProto) -> str | None:
    """The version of TensorRT that a file says it is written for; None where it says none that is known."""
    said = (entry.value for entry in model.metadata_props if entry.key == TENSORRT_KEY)
    return next((version for version in said if version in TENSORRT_FORMS), None)


def target_of(model: onnx.ModelProto) -> TargetSpec | None:
    """The target that a file is written for, as far as it says: it names a version of TensorRT, or was written here
    without one, for ONNX Runtime. None for float models and for files of others."""
    if any(entry.key == TENSORRT_KEY for entry in model.metadata_props):
        return TENSORRT
    return ONNXRUNTIME if model.producer_name == PRODUCER else None


def installed_version() -> str | None:
    """The newest known form that the installed TensorRT reads; None where none is installed. Imports nothing."""
    for name in PACKAGES:
        try:
            major = int(metadata.version(name).split(".")[0])
        except (metadata.PackageNotFoundError, ValueError):
            continue
        return next((known for known in tuple(TENSORRT_FORMS)[::-1] if int(known.split(".")[0]) <= major), None)
    return None
