"""TensorRT's placement rules, checked on the Q/DQ file as written: where it breaks one, what follows, what to do."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.export.file_forms import FileForm, form_of
from limpq_deploy.export.finding import Finding
from limpq_deploy.export.float_layers import computes_in_floats, planned_float
from limpq_deploy.export.lint_tensorrt_parser import QDQ, parser_findings
from limpq_deploy.export.onnx_files import attribute, constants
from limpq_deploy.export.qdq_base import CODE_MOVERS
from limpq_deploy.export.targets import TargetSpec

LAYERS = ("Conv", "Gemm")


def tensorrt_findings(model: onnx.ModelProto, target: TargetSpec) -> Iterator[Finding]:
    """Opset, standard operators that the parser reads (`lint_tensorrt_parser`), int8 codes with zero-point 0 in whole
    pairs, weights per channel in the form of the version that the file is written for (8.6 where it says nothing),
    float biases, no pair between Pad and Conv, one on the identity input of an Add alone, one scale for all inputs of a
    Concat. A layer that is left in float by plan breaks no placement rule."""
    planned, form = planned_float(model), form_of(model, target)
    producers, fixed = _producers(model), constants(model.graph)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset > form.opset:
        yield Finding(
            node="the model",
            rule=f"the opset is at most {form.opset}",
            consequence=f"it is {opset}, which the parser of TensorRT {form.version} does not read",
            remedy=f"export at opset {form.opset}",
        )
    codes = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if node.domain != "":
            yield Finding(
                node=_name(node),
                rule="operators are of the standard domain",
                consequence=f"TensorRT's parser does not know {node.domain}:{node.op_type} and refuses the model",
                remedy="export with standard operators only (int8 Q/DQ), not after another runtime's optimiser",
            )
            continue
        yield from parser_findings(node, fixed, form)
        if node.op_type in QDQ:
            yield from _zero_point(node, fixed)
        if node.op_type != "DequantizeLinear":
            yield from _reads_no_codes(node, codes)
        if node.op_type in LAYERS and node.name not in planned:
            yield from _layer(node, producers, fixed, form)
        if node.op_type == "Add" and not computes_in_floats(model):
            yield from _add(node, producers, fixed)
        if node.op_type == "Concat":
            yield from _concat(node, producers, fixed)


def _zero_point(node: onnx.NodeProto, fixed: dict[str, NDArray[Any]]) -> Iterator[Finding]:
    zero_point = fixed.get(node.input[2]) if len(node.input) > 2 else None
    codes = fixed.get(node.input[0])
    if codes is not None and codes.dtype == np.int32:
        return  # a bias: the layer's own rule
    if zero_point is None:
        found = "it has none" if len(node.input) < 3 or not node.input[2] else "it is not a constant"
    elif zero_point.dtype != np.int8:
        found = f"it is {zero_point.dtype}"
    elif np.any(zero_point):
        found = f"it is {np.ravel(zero_point)[np.flatnonzero(zero_point)[0]]}"
    else:
        return
    yield Finding(
        node=_name(node),
        rule="the zero-point is an int8 constant 0",
        consequence=f"{found}; the parser refuses this pair or reads other codes, for it knows signed codes around 0",
        remedy="write int8 codes with an explicit zero-point 0: export for the target tensorrt",
    )


def _reads_no_codes(node: onnx.NodeProto, codes: set[str]) -> Iterator[Finding]:
    for tensor in node.input:
        if tensor in codes:
            yield Finding(
                node=_name(node),
                rule="codes are read by DequantizeLinear only",
                consequence=f"this {node.op_type} works on the codes {tensor!r}, for which TensorRT has no kernel",
                remedy="work on floats: a Clip stands before QuantizeLinear, anything else behind DequantizeLinear",
            )


def _layer(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], fixed: dict[str, NDArray[Any]], form: FileForm
) -> Iterator[Finding]:
    name = _name(node)
    source = _moved(producers.get(node.input[0]), producers)
    if _op(source) != "DequantizeLinear":
        yield Finding(
            node=name,
            rule="a layer's input is quantized",
            consequence=f"input {node.input[0]!r} is float, so this layer stays float",
            remedy="put a quantizer on that input",
        )
    elif _op(_quantized(source, producers)) == "Pad":
        yield Finding(
            node=name,
            rule="no Q/DQ stands between Pad and Conv",
            consequence="the padding cannot be taken into the convolution and runs as a kernel of its own",
            remedy="put the quantizer before the Pad: zeros stay zeros",
        )
    weight = producers.get(node.input[1])
    pair = _weight_pair(weight, producers, fixed, form)
    if not pair:
        wanted = "an INT8 constant with" if form.weights == "int8" else "an FP32 constant with QuantizeLinear and"
        yield Finding(
            node=name,
            rule=f"a weight is {wanted} DequantizeLinear",
            consequence=f"TensorRT {form.version} does not read other forms reliably, and a float weight leaves the "
            "layer float",
            remedy=f"export for the target tensorrt, --tensorrt {form.version}",
        )
    values = fixed[pair[0].input[0]] if pair else None
    for one in pair:
        scale = fixed.get(one.input[1])
        if values is None or scale is None or scale.shape != values.shape[:1] or attribute(one, "axis", 1) != 0:
            yield Finding(
                node=name,
                rule="a weight has one scale per output channel, along axis 0",
                consequence=f"{_name(one)!r} has another form, which the convolution kernels do not take",
                remedy="write scales of shape [output channels] and axis 0",
            )
    if len(node.input) > 2 and _op(producers.get(node.input[2])) in QDQ:
        yield Finding(
            node=name,
            rule="a bias is a float constant",
            consequence="int32 codes cannot be dequantized by TensorRT",
            remedy="write the float bias",
        )


def _weight_pair(
    weight: onnx.NodeProto | None,
    producers: dict[str, onnx.NodeProto],
    fixed: dict[str, NDArray[Any]],
    form: FileForm,
) -> list[onnx.NodeProto]:
    """The nodes that make a weight of its constant in the form's way; none where it has another form."""
    if weight is None or weight.op_type != "DequantizeLinear":
        return []
    quantize = producers.get(weight.input[0])
    if quantize is not None and quantize.op_type == "QuantizeLinear" and quantize.input[0] in fixed:
        return [quantize, weight]  # all versions read it
    codes = fixed.get(weight.input[0])
    return [weight] if codes is not None and codes.dtype == np.int8 and form.weights == "int8" else []


def _add(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], fixed: dict[str, NDArray[Any]]
) -> Iterator[Finding]:
    """One input dequantized, and the other the bare result of the layer that is to take the Add in: cast to float32
    where that layer computes in FP16."""
    sources = [_uncast(producers.get(tensor), producers) for tensor in node.input]
    quantized = [source for source in sources if source is not None and source.op_type == "DequantizeLinear"]
    rule = "an Add is quantized on its identity input alone"
    if not quantized:
        yield Finding(
            node=_name(node),
            rule=rule,
            consequence="no input is quantized, so that the sum is read in floats and written in floats",
            remedy="put a quantizer on the input that does not come straight from a layer",
        )
    elif len(quantized) == 2 or not any(_op(source) in LAYERS for source in sources):
        between = [source for source in quantized if _takes_a_layers_result(source, producers, fixed)]
        if between:
            yield Finding(
                node=_name(node),
                rule=rule,
                consequence=f"{_name(between[0])!r} stands between a layer and the Add, which are then two kernels",
                remedy="take the quantizer off the layer's own result",
            )


def _concat(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], fixed: dict[str, NDArray[Any]]
) -> Iterator[Finding]:
    """Dequantized inputs with several scales; a Concat of floats is one copy and breaks nothing."""
    sources = [producers.get(tensor) for tensor in node.input]
    found = [fixed.get(source.input[1]) for source in sources if source is not None and _op(source) == QDQ[1]]
    scales = {float(scale.reshape(-1)[0]) for scale in found if scale is not None and scale.size == 1}
    if len(scales) > 1:
        yield Finding(
            node=_name(node),
            rule="the quantized inputs of a Concat share one scale",
            consequence=f"they have {', '.join(f'{scale:g}' for scale in sorted(scales))}: each part is rescaled by "
            "a kernel of its own",
            remedy="quantize all parts with the largest scale, or quantize behind the Concat",
        )


def _moved(node: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node whose values these are, behind nodes that only move them."""
    while node is not None and node.op_type in CODE_MOVERS:
        node = producers.get(node.input[0])
    return node


def _takes_a_layers_result(
    dequantize: onnx.NodeProto, producers: dict[str, onnx.NodeProto], fixed: dict[str, NDArray[Any]]
) -> bool:
    """Whether a pair quantizes a layer's own result, not what an activation makes of it: a Clip from 0 is a ReLU."""
    quantize = producers.get(dequantize.input[0])
    clip = producers.get(quantize.input[0]) if quantize is not None else None
    low = fixed.get(clip.input[1]) if clip is not None and clip.op_type == "Clip" and len(clip.input) > 1 else None
    rectified = low is not None and not np.any(low)
    return not rectified and _op(_quantized(dequantize, producers)) in LAYERS


def _uncast(node: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    return producers.get(node.input[0]) if _op(node) == "Cast" and node is not None else node


def _quantized(dequantize: onnx.NodeProto | None, producers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node whose result a pair quantizes, before a Clip."""
    quantize = producers.get(dequantize.input[0]) if dequantize is not None else None
    source = producers.get(quantize.input[0]) if quantize is not None else None
    return producers.get(source.input[0]) if source is not None and source.op_type == "Clip" else source


def _producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _op(node: onnx.NodeProto | None) -> str | None:
    return None if node is None else node.op_type


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
