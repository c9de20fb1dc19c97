"""What TensorRT's ONNX parser and builder refuse, node by node, and where they read other codes than the file says.

Rules of 11 were built: NVIDIA's own parser and builder (TensorRT-for-RTX 1.7.1) took or refused files that keep and
that break them. Those of 8.6 and 10 alone were read in the parser's source (github.com/onnx/onnx-tensorrt): of 8.5 and
an 8.6 development state (builtin_op_importers.cpp at ba6a4fb), 10.6 (0137504) and 10.15 (onnxOpImporters.cpp,
onnxOpCheckers.cpp, importerUtils.cpp and docs/operators.md at dd0a3a9).
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, defs

from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.export.lint.graph import DEQUANTIZE, FP8_DEQUANTIZE, FP8_QUANTIZE, QUANTIZE, LintGraph, name_of
from limpq_deploy.export.lint.rules import finding
from limpq_deploy.export.lint.well_formed import scale_length, types_agree, zero_point_count
from limpq_deploy.export.records.targets import FileForm

QDQ = (QUANTIZE, DEQUANTIZE)
POOLS = ("AveragePool", "LpPool", "MaxPool")

NOT_READ = (
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad",
    "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear",
    "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
    "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv",
    "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat",
    "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique",
)  # fmt: skip
"""Standard operators without an importer in 10.15 (docs/operators.md); older parsers read no more of them, and those of
11 were built without success as far as they can stand in a model of images."""

BEFORE_10_4 = ("8.6", "10")
"""Versions of files that parsers up to 10.3 are to read. These take the kernel of a convolution with a computed weight
from ``kernel_shape`` alone (``convMultiInput``; docs/Changelog.md has the fix under 10.4)."""

_T = TensorProto
FOUR_BITS = frozenset(kind for name, kind in _T.DataType.items() if name in ("INT4", "FLOAT4E2M1"))
CODES = FOUR_BITS | {_T.INT8, _T.FLOAT8E4M3FN}
"""Types that DequantizeLinear reads."""

OF_8_6 = frozenset((_T.FLOAT, _T.FLOAT16, _T.DOUBLE, _T.INT8, _T.INT32, _T.INT64, _T.BOOL))
READ_TYPES = OF_8_6 | CODES | {_T.BFLOAT16, _T.UINT8}
"""Types of constants that are imported, used or not; 8.6 knows less."""

READS_CONSTANT_CODES = (*QDQ, "Clip", "Constant")
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Where", "PRelu")
NO_CAST = (_T.UINT8, _T.INT16, _T.UINT16, _T.UINT32, _T.UINT64)


def model_findings(model: onnx.ModelProto, form: FileForm) -> Iterator[Finding]:
    """Breaches of the whole file: its operator set, and constants of types that are not imported."""
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if form.parser != "11" and opset > form.opset:
        yield finding(
            "opset", "the model", f"it is {opset}, and the parser of TensorRT {form.parser} reads up to {form.opset}"
        )
    known = OF_8_6 if form.parser == "8.6" else READ_TYPES
    tensors = [(tensor.name, tensor) for tensor in model.graph.initializer]
    tensors += [
        (node.output[0], item.t)
        for node in model.graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.HasField("t")
    ]
    for name, tensor in tensors:
        if tensor.data_type not in known:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            yield finding("constant-type", name, f"{kind} is not imported: the parser refuses the model")


def parser_findings(node: onnx.NodeProto, graph: LintGraph, form: FileForm) -> Iterator[Finding]:
    """Breaches that make the parser or the builder refuse this node, or read other codes."""
    if not _is_read(node):
        kind = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        yield finding("operator", name_of(node), f"the parser has no {kind} and refuses the model")
        return
    if node.op_type in QDQ:
        yield from _codes(node, graph, form)
    elif node.op_type not in READS_CONSTANT_CODES:
        yield from _constant_codes(node, graph)
    yield from types_agree(node, graph)
    if node.op_type == "Conv":
        yield from _kernel(node, graph, form)
    elif node.op_type in POOLS:
        dilations = attribute(node, "dilations", [])
        if any(dilation != 1 for dilation in dilations):  # ``poolingCheckHelper``; the importer itself in 8.6
            yield finding("pool-dilation", name_of(node), f"its dilations are {dilations}, which the parser refuses")
    elif node.op_type == "Pad":
        yield from _padding(node, graph, form)
    elif node.op_type == "Cast" and not graph.outputs.intersection(node.output):
        kind = attribute(node, "to", 0)
        if kind in NO_CAST:
            yield finding(
                "cast-type", name_of(node), f"it casts to {TensorProto.DataType.Name(kind).lower()}, which is refused"
            )


def _is_read(node: onnx.NodeProto) -> bool:
    """Importers are looked up by the operator's name alone, whatever its domain."""
    known = node.domain == "" or defs.has(node.op_type) or node.op_type in (FP8_QUANTIZE, FP8_DEQUANTIZE)
    return known and node.op_type not in NOT_READ


def _codes(node: onnx.NodeProto, graph: LintGraph, form: FileForm) -> Iterator[Finding]:
    """``QuantDequantLinearHelper``: types, scales and zero-points of a QuantizeLinear or DequantizeLinear."""
    name, zero_name = name_of(node), graph.given(node, 2)
    kind = graph.types.get(node.input[0] if node.op_type == DEQUANTIZE else node.output[0])
    made_here = node.op_type == QUANTIZE or graph.maker(node.input[0]) is not None
    if node.op_type == DEQUANTIZE and kind is not None and kind not in CODES and not made_here:
        kind_name = TensorProto.DataType.Name(kind).lower()
        yield finding("codes-type", name, f"it dequantizes {kind_name}, which the parser refuses")
    elif node.op_type == QUANTIZE and not zero_name and attribute(node, "output_dtype", 0) not in (0, *CODES):
        yield finding("codes-type", name, "its output_dtype is no type of codes here: the parser refuses it")
    elif kind == TensorProto.UINT8 and made_here and node.op_type == QUANTIZE:
        yield finding(
            "uint8-codes",
            name,
            "its codes are uint8" if zero_name else "it has no zero-point, so that its codes are uint8",
        )
    yield from _zero_point(node, graph)
    yield from _scale(node, graph, form)


def _zero_point(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    name, zero_name = name_of(node), graph.given(node, 2)
    if not zero_name:
        return
    value, scale = graph.value(zero_name), graph.value(node.input[1])
    if zero_name not in graph.fixed:
        yield finding("zero-point-constant", name, "it is computed, which the builder refuses")
    elif value is not None and np.any(value.astype(np.float32)):
        first = np.ravel(value)[np.flatnonzero(value.astype(np.float32))[0]]
        yield finding("zero-point", name, f"it is {first}; the parser refuses codes that are not symmetric round 0")
    elif value is not None and scale is not None:
        yield from zero_point_count(node, graph)


def _scale(node: onnx.NodeProto, graph: LintGraph, form: FileForm) -> Iterator[Finding]:
    name, known = name_of(node), node.input[1] in graph.fixed
    if not known and (form.parser != "11" or not graph.from_constants(node.input[1])):
        yield finding("scale-constant", name, "it is computed; TensorRT's parser or builder refuses the model")
        return
    scale = graph.value(node.input[1])
    if scale is None:
        return
    scale = scale.astype(np.float32)
    if not scale.size or not (scale > 0).all():
        found = f"it holds {scale[~(scale > 0)].ravel()[0]:g}" if scale.size else "it is empty"
        yield finding("scale-positive", name, f"{found}; the parser refuses the model")
        return
    activation = not graph.from_constants(node.input[0])
    with np.errstate(over="ignore"):
        usable = np.isfinite(scale) & (np.isfinite(np.float32(1) / scale) | (not activation))
    if not usable.all():
        yield finding("scale-finite", name, f"it is {scale[~usable].ravel()[0]:g}: codes mean other numbers than here")
    yield from scale_length(node, graph)


def _constant_codes(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """Codes themselves, and a dequantized one without dimensions, which is given some on its way into an elementwise
    operator."""
    for tensor in node.input:
        source = graph.maker(tensor, DEQUANTIZE)
        lone = source is not None and node.op_type in ELEMENTWISE and graph.shape(source.input[0]) == ()
        if tensor in graph.fixed and graph.types.get(tensor) in CODES:
            yield finding(
                "codes-constant", name_of(node), f"this {node.op_type} reads {tensor!r}, which the builder refuses"
            )
        elif lone and source is not None and source.input[0] in graph.fixed:
            yield finding(
                "codes-constant",
                name_of(node),
                f"this {node.op_type} reads {source.input[0]!r}, codes without dimensions, which the builder refuses",
            )


def _kernel(node: onnx.NodeProto, graph: LintGraph, form: FileForm) -> Iterator[Finding]:
    if form.parser not in BEFORE_10_4 or node.input[1] in graph.fixed or attribute(node, "kernel_shape") is not None:
        return
    yield finding(
        "kernel-shape",
        name_of(node),
        "it has none, and parsers up to TensorRT 10.3 look for the kernel nowhere else: they find it misaligned with "
        "the weight and refuse the model",
    )


def _padding(node: onnx.NodeProto, graph: LintGraph, form: FileForm) -> Iterator[Finding]:
    """Amounts: ``convertOnnxPadding``. Axes: the Pad importer of 8.6; docs/Changelog.md has them under 10.4."""
    if form.parser not in BEFORE_10_4:
        return
    amounts = graph.value(node.input[1]) if len(node.input) > 1 else None
    if amounts is not None and np.any(amounts < 0):
        yield finding("pad-adds", name_of(node), f"it takes {-int(amounts.min())} away at one end, which is refused")
    if graph.given(node, 3):
        yield finding("pad-axes", name_of(node), "it names some axes in an input, which parsers up to 10.3 refuse")
