"""TensorRT's rules, checked on the Q/DQ file as written: what is refused, what stays float, what is slower."""

from collections.abc import Iterator

import numpy as np
import onnx

from limpq_deploy.export.graph.float_layers import computes_in_floats, planned_float
from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.export.lint.graph import DEQUANTIZE, QUANTIZE, LintGraph, name_of
from limpq_deploy.export.lint.rules import finding
from limpq_deploy.export.lint.tensorrt_layers import layer_findings
from limpq_deploy.export.lint.tensorrt_parser import FOUR_BITS, QDQ, model_findings, parser_findings
from limpq_deploy.export.lint.well_formed import LAYERS
from limpq_deploy.export.records.targets import FileForm


def findings(model: onnx.ModelProto, form: FileForm) -> Iterator[Finding]:
    """Breaches of the rules of one version. A layer that is kept in float by plan breaks no placement rule."""
    planned, graph = planned_float(model), LintGraph(model)
    floats = computes_in_floats(model)
    yield from model_findings(model, form)
    for node in graph.nodes:
        yield from parser_findings(node, graph, form)
        if form.parser != "11" and node.op_type != DEQUANTIZE:
            yield from _reads_no_codes(node, graph)
        if form.parser == "11" and node.op_type in LAYERS and node.name in planned:
            yield from _weights_alone(node, graph)
        if node.op_type in LAYERS and node.name not in planned:
            yield from layer_findings(node, graph, form)
        if node.op_type == "Conv" and node.name not in planned:
            yield from _padded(node, graph)
        if node.op_type == "Add" and graph.quantized and not floats:
            yield from _add(node, graph)
        if node.op_type == "Concat":
            yield from _concat(node, graph)


def _weights_alone(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """A layer with integer weights that reads floats, and whose weights no kernel takes as they are."""
    place = int(len(node.input) > 1)
    dequantize = graph.maker(node.input[place], DEQUANTIZE)
    if dequantize is None:
        return
    narrow = graph.types.get(dequantize.input[0]) in FOUR_BITS
    scale = graph.value(dequantize.input[1])
    blocked = scale is not None and attribute(dequantize, "block_size", 0) and min(scale.shape) > 1
    if node.op_type in ("Gemm", "MatMul") and (blocked or not narrow):
        return
    what = "no convolution reads integer weights beside floats" if node.op_type == "Conv" else "they are not in blocks"
    yield finding("weights-at-every-call", name_of(node), f"a kernel of its own dequantizes its weights first: {what}")


def _reads_no_codes(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    for tensor in node.input:
        if graph.maker(tensor, QUANTIZE) is not None:
            yield finding(
                "codes-read", name_of(node), f"this {node.op_type} works on the codes {tensor!r}, without a kernel"
            )


def _padded(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    dequantize = graph.maker(node.input[0], DEQUANTIZE)
    pad = _quantized(dequantize, graph) if dequantize is not None else None
    if pad is not None and pad.op_type == "Pad" and attribute(pad, "mode", "constant") == "constant":
        yield finding(
            "pad-between",
            name_of(node),
            "the padding is not taken into the convolution but runs as its own kernel",
        )


def _add(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """One input dequantized, and the other the bare result of the layer that is to take the Add in: cast to float32
    where that layer computes in FP16. A constant is a bias."""
    if any(graph.from_constants(tensor) for tensor in node.input):
        return
    sources = [_uncast(graph.maker(tensor), graph) for tensor in node.input]
    quantized = [source for source in sources if source is not None and source.op_type == DEQUANTIZE]
    if not quantized:
        yield finding(
            "add-bare", name_of(node), "no input is quantized, so that the sum is read in float and written in float"
        )
    elif len(quantized) == 2 or not any(_op(source) in LAYERS for source in sources):
        between = [source for source in quantized if _takes_a_layers_result(source, graph)]
        if between:
            yield finding(
                "add-both",
                name_of(node),
                f"{name_of(between[0])!r} stands between a layer and the Add, which are then two kernels",
            )


def _concat(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """Dequantized inputs with several scales; a Concat of floats is one copy and breaks nothing."""
    sources = [graph.maker(tensor, DEQUANTIZE) for tensor in node.input]
    found = [graph.value(source.input[1]) for source in sources if source is not None]
    scales = {float(scale.reshape(-1)[0]) for scale in found if scale is not None and scale.size == 1}
    if len(scales) > 1:
        yield finding("concat-scales", name_of(node), f"they have {', '.join(f'{one:g}' for one in sorted(scales))}")


def _takes_a_layers_result(dequantize: onnx.NodeProto, graph: LintGraph) -> bool:
    """Whether a pair quantizes a layer's own result, not what an activation makes of it: a Clip from 0 is a ReLU."""
    quantize = graph.maker(dequantize.input[0])
    clip = graph.maker(quantize.input[0], "Clip") if quantize is not None else None
    low = graph.value(clip.input[1]) if clip is not None and graph.given(clip, 1) else None
    rectified = low is not None and not np.any(low)
    return not rectified and _op(_quantized(dequantize, graph)) in LAYERS


def _uncast(node: onnx.NodeProto | None, graph: LintGraph) -> onnx.NodeProto | None:
    return graph.maker(node.input[0]) if node is not None and node.op_type == "Cast" else node


def _quantized(dequantize: onnx.NodeProto, graph: LintGraph) -> onnx.NodeProto | None:
    """The node whose result a pair quantizes, before a Clip."""
    quantize = graph.maker(dequantize.input[0])
    source = graph.maker(quantize.input[0]) if quantize is not None and quantize.op_type in QDQ else None
    return graph.maker(source.input[0]) if source is not None and source.op_type == "Clip" else source


def _op(node: onnx.NodeProto | None) -> str | None:
    return None if node is None else node.op_type
