"""What TensorRT's ONNX parser refuses, node by node.

Each rule was read in the parser's own source (github.com/onnx/onnx-tensorrt): of 8.5 and an 8.6 development state
(builtin_op_importers.cpp at ba6a4fb), 10.6 (0137504) and 10.15 (onnxOpImporters.cpp, onnxOpCheckers.cpp,
importerUtils.cpp and docs/operators.md at dd0a3a9). Its source for 11 was not at hand.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.export.file_forms import FileForm
from limpq_deploy.export.finding import Finding
from limpq_deploy.export.onnx_files import attribute

Constants = Mapping[str, NDArray[Any]]

QDQ = ("QuantizeLinear", "DequantizeLinear")
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
"""Standard operators without an importer in 10.15 (docs/operators.md); older parsers read no more of them."""

BEFORE_10_4 = ("8.6", "10")
"""Versions of files that parsers up to 10.3 are to read. These take the kernel of a convolution with a computed weight
from ``kernel_shape`` alone (``convMultiInput``; docs/Changelog.md has the fix under 10.4)."""


def parser_findings(node: onnx.NodeProto, fixed: Constants, form: FileForm) -> Iterator[Finding]:
    """Breaches that make the parser refuse this node of the standard domain. ``fixed``: the graph's constants."""
    if node.op_type in NOT_READ:
        yield Finding(
            node=_name(node),
            rule="operators are those that the parser reads",
            consequence=f"TensorRT's parser has no {node.op_type} and refuses the model",
            remedy="replace this operation; codes are written as QuantizeLinear and DequantizeLinear round float ones",
        )
    elif node.op_type == "Conv":
        yield from _kernel(node, fixed, form)
    elif node.op_type in POOLS:
        yield from _dilations(node)
    elif node.op_type == "Pad":
        yield from _padding(node, fixed, form)
    elif node.op_type in QDQ:
        yield from _scale(node, fixed)


def _kernel(node: onnx.NodeProto, fixed: Constants, form: FileForm) -> Iterator[Finding]:
    if node.input[1] in fixed or attribute(node, "kernel_shape") is not None:
        return
    if form.version in BEFORE_10_4:
        yield Finding(
            node=_name(node),
            rule="a convolution whose weight is computed says its kernel_shape",
            consequence="it has none, and parsers up to TensorRT 10.3 look for the kernel nowhere else: they find it "
            "misaligned with the weight and refuse the model",
            remedy="write the attribute kernel_shape, the last two sizes of the weight",
        )


def _dilations(node: onnx.NodeProto) -> Iterator[Finding]:
    """``poolingCheckHelper``; an assertion of the importer itself in 8.6."""
    dilations = attribute(node, "dilations", [])
    if any(dilation != 1 for dilation in dilations):
        yield Finding(
            node=_name(node),
            rule="a pool has no dilation",
            consequence=f"its dilations are {dilations}, which TensorRT's parser refuses",
            remedy="replace this pool in the model",
        )


def _padding(node: onnx.NodeProto, fixed: Constants, form: FileForm) -> Iterator[Finding]:
    """Amounts: ``convertOnnxPadding``. Axes: the Pad importer of 8.6; docs/Changelog.md has them under 10.4."""
    amounts = fixed.get(node.input[1]) if len(node.input) > 1 else None
    if amounts is not None and np.any(amounts < 0):
        yield Finding(
            node=_name(node),
            rule="a Pad adds",
            consequence=f"it takes {-int(amounts.min())} away at one end, which TensorRT's parser refuses",
            remedy="cut with a slice instead",
        )
    if form.version in BEFORE_10_4 and len(node.input) > 3 and node.input[3]:
        yield Finding(
            node=_name(node),
            rule="a Pad has amounts for all axes",
            consequence="it names some axes in an input, which parsers up to TensorRT 10.3 refuse",
            remedy="write amounts for all axes, zeros for the others",
        )


def _scale(node: onnx.NodeProto, fixed: Constants) -> Iterator[Finding]:
    """``QuantDequantLinearHelper``; that the scale is known when the engine is built is asked by the layers that it
    makes (IQuantizeLayer, IDequantizeLayer in NVIDIA's API reference)."""
    scale = fixed.get(node.input[1])
    zero_point = fixed.get(node.input[2]) if len(node.input) > 2 else None
    if scale is None:
        found = "it is computed"
    elif not scale.size or not (scale > 0).all():
        found = f"it holds {scale.min():g}" if scale.size else "it is empty"
    elif zero_point is not None and zero_point.size != scale.size:
        found = f"it has {scale.size} numbers and the zero-point {zero_point.size}"
    else:
        return
    yield Finding(
        node=_name(node),
        rule="a scale is a positive constant, of as many numbers as the zero-point",
        consequence=f"{found}; TensorRT's parser or builder refuses the model",
        remedy="write positive scales as constants: export for the target tensorrt",
    )


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
