"""What an export wrote: the model's file, its form, and its size beside the policy's nominal one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.numbers.formats import bits_of
from limpq_deploy.export.graph.float_layers import planned_float
from limpq_deploy.export.graph.onnx_files import tensor_bytes
from limpq_deploy.export.records.targets import target_named

BATCH_KEY = "limpq.batch"
"""Metadata key of a file: images per call that an engine of it is to take, MIN:OPT:MAX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """``size``: bytes on disk. ``weights``: bytes of all layers' weights in it (codes or floats, without scales,
    biases and names)."""

    name: str
    sha256: str
    size: int
    weights: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """One exported model.

    ``tensorrt``: version that the file is written for, None for other targets. ``batch``: images per call for an
    engine's optimisation profile, MIN:OPT:MAX; None where the builder's default holds. ``nominal``: bytes of all
    weights at the bits of the policy, which no file has to the byte. ``float_layers``: those that compute in float by
    plan. ``stored``: the same model with true low-bit weights (`storage`), where it was asked for.
    """

    target: str
    opset: int
    model: ExportedFile
    nominal: int
    tensorrt: str | None = None
    batch: str | None = None
    float_layers: tuple[str, ...] = ()
    stored: ExportedFile | None = None
    format: Literal["limpq.export/1"] = field(default="limpq.export/1")


def describe_export(
    path: Path,
    model: onnx.ModelProto,
    *,
    target: str,
    weight_bits: Mapping[str, tuple[int, int]],
    stored: tuple[Path, onnx.ModelProto] | None = None,
) -> ExportRecord:
    """The record of a written file. ``weight_bits``: number and nominal bits of each layer's weights."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    return ExportRecord(
        target=target,
        opset=next(entry.version for entry in model.opset_import if entry.domain == ""),
        model=_file(path, model),
        nominal=-(-sum(count * bits_of(width) for count, width in weight_bits.values()) // 8),
        tensorrt=texts.get(target_named(target).form_key or ""),
        batch=texts.get(BATCH_KEY),
        float_layers=planned_float(model),
        stored=None if stored is None else _file(*stored),
    )


def _file(path: Path, model: onnx.ModelProto) -> ExportedFile:
    names = (".weight", ".weight_codes")
    weights = sum(tensor_bytes(tensor) for tensor in model.graph.initializer if tensor.name.endswith(names))
    return ExportedFile(name=path.name, sha256=sha256_of(path), size=path.stat().st_size, weights=weights)
