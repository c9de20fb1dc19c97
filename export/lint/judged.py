"""ONNX Runtime's own word on a file: what it refuses, what its optimised graph keeps in float, what differs.

The rules then explain; one that the runtime contradicts is dropped.
"""

import re
from collections.abc import Iterable, Iterator

import onnx

from limpq_deploy.export.graph.runtime_taps import file_name
from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.export.lint.graph import DEQUANTIZE, LintGraph
from limpq_deploy.export.lint.rules import finding
from limpq_deploy.export.runtimes.trial import Trial

COMPUTE = ("Conv", "Add", "Gemm", "MatMul")
"""Operators that have to run in integers. Fused and re-laid-out float forms (FusedConv, NhwcFusedConv, the Conv of the
NCHWc domain, ConvTranspose, FusedGemm, MatMulNBits, ...) contain one of these names and count too."""

INTEGER_KERNELS = ("QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
"""Kernels that multiply codes and may hand out floats, besides those named QLinear..."""

CAST_PREFIX = "InsertedPrecisionFreeCast_"
"""What ONNX Runtime puts before the name of a result that it computes in FP32 for want of an FP16 kernel."""

INLINED = "_inlfunc_"
"""What ONNX Runtime puts before the operator's name where it writes an operator out as others."""

LEAST_SIGNAL_DB = 10.0
"""Below it, an optimised graph computes something else. Rounding at ties left 28 dB and more in 200 small nets, scales
that are read along another axis 6, infinite ones 9."""

_BLAMED = re.compile(r"""node \(([^)]+)\)|In Node, \("([^"]+)"|Name:'([^']+)'|of the file, \w+ '([^']+)'""")

_INTEGER_TYPES = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def judged(static: Iterable[Finding], trial: Trial, floats: "FloatNodes", model: onnx.ModelProto) -> Iterator[Finding]:
    """Findings that the runtime confirms, and those of its own. ``floats``: of the trial's graph."""
    found = list(static)
    if trial.refused is not None:
        yield from (one for one in found if one.severity == "refused")
        if not any(one.severity == "refused" for one in found):
            yield finding("runtime-refuses", named_in(trial.refused, model), trial.refused)
        return
    in_float = {one.node for one in found if one.severity == "float"}
    for one in found:
        kept = {
            "refused": False,
            "float": one.node in floats.compute,
            "differs": one.node not in {*floats.compute, *floats.planned}
            and (trial.signal_db is None or trial.signal_db < float("inf")),
            "slower": one.node in floats.others or one.rule == "batchnorm",
        }
        if kept[one.severity]:
            yield one
    graph = LintGraph(model)
    for name, operator in floats.compute.items():
        if name not in in_float:
            rule = "signed-codes" if _reads_signed(name, graph) else "runs-in-float"
            yield finding(rule, name, f"it runs in float after optimisation ({operator})")
    differs = any(one.severity == "differs" and one.node not in floats.compute for one in found)
    if not differs and trial.signal_db is not None and trial.signal_db < LEAST_SIGNAL_DB:
        yield finding(
            "numbers-differ",
            "the model",
            "its results on random numbers are other ones than without optimisation (signal over difference "
            f"{trial.signal_db:.1f} dB)",
        )


class FloatNodes:
    """Float nodes of an optimised graph, by their name in the file, with their operators: those that compute, and all
    others. Nodes named in ``planned`` (as in the file) are left out of the first; ``planned`` are those of them that do
    compute in float.

    A node keeps its name when it is fused, sometimes with what was done behind a slash; one that lost it is found by
    its result, behind the layer's activation function.

    A node is float when its result is and no integer kernel made it. The first QuantizeLinear makes codes and is not
    one; DequantizeLinear is.
    """

    def __init__(
        self, optimized: onnx.ModelProto, model: onnx.ModelProto, planned: frozenset[str] = frozenset()
    ) -> None:
        names = {node.name for node in model.graph.node}
        makers = {output: node for node in model.graph.node for output in node.output}
        operators = {node.op_type for node in model.graph.node if node.name in planned}
        functions = tuple(f"{INLINED}{operator}_" for operator in operators)
        self.compute: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self.planned: set[str] = set()
        types = {tensor.name: tensor.data_type for tensor in optimized.graph.initializer}
        types |= {value.name: value.type.tensor_type.elem_type for value in optimized.graph.input}
        for node in optimized.graph.node:
            result = _result_type(node, types)
            for output in node.output:
                types[output] = result
            if result in _INTEGER_TYPES or node.op_type.startswith("QLinear") or node.op_type in INTEGER_KERNELS:
                continue
            computes = any(word in node.op_type for word in COMPUTE)
            name = _name_in_file(node, names, makers)
            if computes and (name in planned or name.startswith(functions)):
                self.planned.add(name)
                continue
            (self.compute if computes else self.others)[name] = node.op_type


def _reads_signed(name: str, graph: LintGraph) -> bool:
    """Whether a node of the file reads int8 codes, for which ONNX Runtime fuses less."""
    node = next((node for node in graph.nodes if node.name == name), None)
    source = graph.maker(node.input[0], DEQUANTIZE) if node is not None and node.input else None
    return source is not None and graph.types.get(source.input[0]) == onnx.TensorProto.INT8


def _name_in_file(node: onnx.NodeProto, names: set[str], makers: dict[str, onnx.NodeProto]) -> str:
    name = file_name(node)
    if name in names:
        return name
    fused = [known for known in names if known and name.startswith(f"{known}/")]
    if fused:
        return max(fused, key=len)
    made = makers.get(name.removeprefix(CAST_PREFIX)) or makers.get(node.output[0])
    while made is not None and made.op_type in ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh"):
        made = makers.get(made.input[0])
    return made.name if made is not None and made.name else name or node.output[0]


def named_in(message: str, model: onnx.ModelProto) -> str:
    """The node of a file that a message of the runtime blames."""
    blamed = [text for groups in _BLAMED.findall(message) for text in groups if text]
    names = [node.name for node in model.graph.node if any(text.startswith(node.name) for text in blamed)]
    return max(names, key=len, default="the model")


def _result_type(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """Element type of a node's result, as far as the lint has to know it."""
    if node.op_type == "QuantizeLinear":
        return types.get(node.input[2], onnx.TensorProto.UINT8) if len(node.input) > 2 else onnx.TensorProto.UINT8
    if node.op_type in ("DequantizeLinear", "Cast"):
        to = next((item.i for item in node.attribute if item.name == "to"), int(onnx.TensorProto.FLOAT))
        return int(to)
    if node.op_type.startswith("QLinear"):
        return int(onnx.TensorProto.UINT8)
    if node.op_type == "QGemm":
        return int(onnx.TensorProto.UINT8 if len(node.input) > 7 and node.input[7] else onnx.TensorProto.FLOAT)
    if node.op_type in ("ConvInteger", "MatMulInteger"):
        return int(onnx.TensorProto.INT32)
    if node.op_type in ("Shape", "Constant", "ConstantOfShape"):
        return int(onnx.TensorProto.INT64)
    return types.get(node.input[0], onnx.TensorProto.FLOAT) if node.input else int(onnx.TensorProto.FLOAT)
