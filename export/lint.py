"""The target's placement rules, checked on a graph: which nodes stay float, and what to do about it."""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import LimpqError, ModelError
from limpq_deploy.export.finding import Finding
from limpq_deploy.export.float_layers import computes_in_floats, planned_float
from limpq_deploy.export.lint_onnxruntime import onnxruntime_findings
from limpq_deploy.export.lint_tensorrt import tensorrt_findings
from limpq_deploy.export.loading import load_model
from limpq_deploy.export.onnx_files import attribute, constants
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import NoGraph, Runtime
from limpq_deploy.export.targets import TargetSpec
from limpq_deploy.export.watching import file_name, layer_names

COMPUTE = ("Conv", "Add", "Gemm", "MatMul")
"""Operators that have to run in integers. Fused and re-laid-out float forms (FusedConv, NhwcFusedConv, the Conv of the
NCHWc domain, FusedGemm, FusedMatMul, ...) contain one of these names and count too."""

OWN_RULES: Mapping[str, Callable[[onnx.ModelProto, TargetSpec], Iterator[Finding]]] = {
    "integer": onnxruntime_findings,
    "float": tensorrt_findings,
    "none": lambda model, target: iter(()),
}
"""A target's own rules, by `TargetSpec.clip`."""

_INTEGER_TYPES = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What a graph looks like to its target.

    ``op_counts``: operators of the optimised graph, ``domain:op`` outside the standard domain. ``float_compute``: its
    Conv, Add, Gemm and MatMul nodes that work in floats; ``float_nodes``: all its other nodes that do, the first
    QuantizeLinear excepted. ``planned_float``: layers that the policy leaves in float, as the file says; their nodes
    are in neither, and no rule is broken by them. ``optimized``: False where the target's runtime is not here, so that
    only the static rules were checked; ``unavailable`` then says why.
    """

    target: str
    optimized: bool
    op_counts: dict[str, int]
    float_compute: tuple[str, ...]
    float_nodes: tuple[str, ...]
    findings: tuple[Finding, ...]
    unavailable: str | None = None
    planned_float: tuple[str, ...] = ()
    format: Literal["limpq.lint/1"] = field(default="limpq.lint/1")

    @property
    def passed(self) -> bool:
        return not self.findings


def lint(model: onnx.ModelProto | Path, target: TargetSpec, runtime: Runtime | None = None) -> LintReport:
    """Check an ONNX file against a target's rules, statically and on the graph that its runtime makes of it.

    ``runtime``: None takes the target's own. Where that is not available, the static rules are checked alone.
    """
    loaded = model if isinstance(model, onnx.ModelProto) else load_model(model)
    findings = list(static_findings(loaded, target))
    try:
        if runtime is None:
            if target.runtime is None:
                raise ModelError(f"target {target.name!r} has no runtime; its graph is not executed")
            runtime = runtime_named(target.runtime)
        why = runtime.unavailable()
    except LimpqError as error:
        why = str(error)
    optimized = None
    if why is None and runtime is not None:
        try:
            optimized = _optimized(model, runtime)
        except NoGraph as error:
            why = str(error)
    if optimized is None:
        return LintReport(
            target=target.name,
            optimized=False,
            op_counts=_counts(loaded),
            float_compute=(),
            float_nodes=(),
            findings=tuple(findings),
            unavailable=why,
            planned_float=planned_float(loaded),
        )
    compute, others = float_nodes(optimized, _planned_nodes(loaded))
    if computes_in_floats(loaded):
        compute = ()
    findings.extend(
        Finding(
            node=name,
            rule="convolutions, adds and matrix products run in integers",
            consequence="this node runs in float32 after optimisation, slower than its bits promise",
            remedy="quantize every input and the output of this node, once each, in the target's form",
        )
        for name in compute
    )
    return LintReport(
        target=target.name,
        optimized=True,
        op_counts=_counts(optimized),
        float_compute=compute,
        float_nodes=others,
        findings=tuple(findings),
        planned_float=planned_float(loaded),
    )


def float_nodes(
    optimized: onnx.ModelProto, planned: frozenset[str] = frozenset()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the float nodes of an optimised graph: first those that compute, then all others; those named in
    ``planned`` (as in the file) are left out.

    A node is float when its result is and no QLinear or QGemm kernel made it. The first QuantizeLinear makes codes and
    is not one; DequantizeLinear is.
    """
    types = {tensor.name: tensor.data_type for tensor in optimized.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in optimized.graph.input}
    compute: list[str] = []
    others: list[str] = []
    for node in optimized.graph.node:
        result = _result_type(node, types)
        for output in node.output:
            types[output] = result
        if result in _INTEGER_TYPES or node.op_type.startswith("QLinear") or node.op_type == "QGemm":
            continue
        computes = any(word in node.op_type for word in COMPUTE)
        if computes and file_name(node) in planned:
            continue
        (compute if computes else others).append(f"{node.name or node.output[0]} ({node.op_type})")
    return tuple(compute), tuple(others)


def static_findings(model: onnx.ModelProto, target: TargetSpec) -> Iterator[Finding]:
    """Rules that can be checked on the Q/DQ file itself: those of every target, then the target's own."""
    fixed = constants(model.graph)
    planned, inputs = planned_float(model), {value.name for value in model.graph.input}
    floats = {name for node in model.graph.node if node.name in planned for name in node.input}
    for node in model.graph.node:
        name = node.name or node.output[0]
        if node.op_type == "BatchNormalization":
            yield Finding(
                node=name,
                rule="BatchNorm is folded into the layer before it",
                consequence="it is computed in floats, and the layer's integers are not those that come out of it",
                remedy="fold it before quantizing: export the model in evaluation mode, or fuse it first",
            )
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = fixed.get(node.input[1])
        if scale is not None and not all(math.isfinite(value) and value > 0 for value in np.ravel(scale)):
            yield Finding(
                node=name,
                rule="scales are positive and finite",
                consequence="codes of this tensor mean nothing",
                remedy="calibrate or train this quantizer again",
            )
        of_activation = node.input[0] not in (*fixed, *inputs) and not _of_weight(node, model, fixed)
        if scale is not None and scale.size > 1 and of_activation and node.output[0] not in floats:
            yield Finding(
                node=name,
                rule="an activation has one scale",
                consequence=f"it has {scale.size}; no convolution kernel takes a scale for each channel of its input",
                remedy="calibrate this tensor with one scale; only weights have one for each channel",
            )
        if scale is not None and scale.ndim == 1 and scale.size == 1 and not _per_channel(node, fixed):
            yield Finding(
                node=name,
                rule="scales of activations are 0-d",
                consequence="a scale of shape [1] passes onnx.checker and fails in ONNX Runtime",
                remedy="write the scale as a 0-d tensor",
            )
    yield from OWN_RULES[target.clip](model, target)


def _of_weight(node: onnx.NodeProto, model: onnx.ModelProto, fixed: dict[str, NDArray[Any]]) -> bool:
    """Whether a DequantizeLinear reads codes that are quantized from a constant in the file."""
    makers = (other for other in model.graph.node if node.input[0] in other.output)
    return any(maker.op_type == "QuantizeLinear" and maker.input[0] in fixed for maker in makers)


def _planned_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """What the nodes may be called that execute layers left in float."""
    names = layer_names(model)
    return frozenset(name for layer in planned_float(model) for name in names.get(layer, ()))


def _per_channel(node: onnx.NodeProto, fixed: dict[str, NDArray[Any]]) -> bool:
    """Whether a constant of one channel is (de)quantized along axis 0: a scale of shape [1] is right there."""
    return node.input[0] in fixed or attribute(node, "axis", 1) == 0


def _result_type(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """Element type of a node's result, as far as the lint has to know it."""
    if node.op_type == "QuantizeLinear":
        return types.get(node.input[2], onnx.TensorProto.UINT8) if len(node.input) > 2 else onnx.TensorProto.UINT8
    if node.op_type == "DequantizeLinear":
        return onnx.TensorProto.FLOAT
    if node.op_type.startswith("QLinear"):
        return onnx.TensorProto.UINT8
    if node.op_type == "QGemm":
        return onnx.TensorProto.UINT8 if len(node.input) > 7 and node.input[7] else onnx.TensorProto.FLOAT
    if node.op_type in ("Shape", "Constant", "ConstantOfShape"):
        return onnx.TensorProto.INT64
    return types.get(node.input[0], onnx.TensorProto.FLOAT) if node.input else onnx.TensorProto.FLOAT


def _counts(model: onnx.ModelProto) -> dict[str, int]:
    names = (f"{node.domain}:{node.op_type}" if node.domain else node.op_type for node in model.graph.node)
    return dict(sorted(Counter(names).items()))


def _optimized(model: onnx.ModelProto | Path, runtime: Runtime) -> onnx.ModelProto:
    if not isinstance(model, onnx.ModelProto):
        return runtime.optimized_graph(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return runtime.optimized_graph(path)
