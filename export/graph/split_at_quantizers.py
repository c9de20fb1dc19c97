"""A Q/DQ file cut at its quantizers: every stretch between two of them stands alone and can be fed exact codes.

Where the file has ``real -> (Clip) -> Q -> DQ -> value``, the cut file has

    real -> (Clip) -> Q -> DQ -> "value.end"          a result of the graph
    "value.start" -> Q -> DQ -> value                 an input of the graph

so that each layer keeps the pairs round it by which a runtime makes it an integer kernel. Two runtimes that are fed the
same codes at every start differ at the ends by what the stretch itself computes differently, and by nothing else.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.onnx_files import constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One place where the file is cut.

    ``tensor``: the codes there; ``value``: the reals, as the uncut file names them; ``start`` and ``end``: input and
    result of the cut file. ``scale`` of the codes, ``low`` and ``high``: smallest and largest code of the grid.
    ``shape``: of the reals of one image.
    """

    tensor: str
    value: str
    start: str
    end: str
    scale: float
    low: int
    high: int
    shape: tuple[int, ...]

    def codes(self, reals: NDArray[Any]) -> NDArray[np.int16]:
        """Codes of reals that lie on the grid (or near it: the nearest ones)."""
        return np.rint(np.asarray(reals, np.float64) / self.scale).astype(np.int16)


def cut_model(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Cut, ...]]:
    """The cut file, and its cuts in execution order. Raises ModelError where there is nothing to cut, or where the size
    of a tensor is not known."""
    fixed = constants(model.graph)
    shapes = _shapes(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    producers: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        producers.update(dict.fromkeys(node.output, node))
    cuts: list[Cut] = []
    nodes: list[onnx.NodeProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    for node in model.graph.node:
        quantize = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is None or not _quantizes_activation(quantize, fixed, readers):
            nodes.append(node)
            continue
        cut = _cut(node, quantize, producers, fixed, shapes)
        cuts.append(cut)
        nodes += _pieces(node, quantize, cut)
        size: list[str | int | None] = ["batch", *cut.shape]
        inputs.append(helper.make_tensor_value_info(cut.start, TensorProto.FLOAT, size))
        outputs.append(helper.make_tensor_value_info(cut.end, TensorProto.FLOAT, size))
    if not cuts:
        raise ModelError("the model has no quantized activation to cut at; export it for the target tensorrt")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    result.graph.input.extend(inputs)
    result.graph.output.extend(outputs)
    onnx.checker.check_model(result, full_check=True)
    return result, tuple(cuts)


def _pieces(dequantize: onnx.NodeProto, quantize: onnx.NodeProto, cut: Cut) -> list[onnx.NodeProto]:
    """The pair's own DequantizeLinear, now the end; and a new pair from the start to the old readers."""
    end, again, start = onnx.NodeProto(), onnx.NodeProto(), onnx.NodeProto()
    end.CopyFrom(dequantize)
    end.output[0] = cut.end
    again.CopyFrom(quantize)
    again.input[0], again.output[0], again.name = cut.start, f"{cut.value}.again", f"{quantize.name}.again"
    start.CopyFrom(dequantize)
    start.input[0], start.name = again.output[0], f"{dequantize.name}.again"
    return [end, again, start]


def _cut(
    dequantize: onnx.NodeProto,
    quantize: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
    fixed: dict[str, NDArray[Any]],
    shapes: dict[str, tuple[int, ...]],
) -> Cut:
    value = dequantize.output[0]
    if value not in shapes:
        raise ModelError(f"the size of {value!r} is not known, so the model cannot be cut there; export it again")
    scale = float(fixed[quantize.input[1]])
    clip = producers.get(quantize.input[0])
    while clip is not None and clip.op_type == "Cast":
        clip = producers.get(clip.input[0])
    ends = np.iinfo(fixed[quantize.input[2]].dtype) if len(quantize.input) > 2 else np.iinfo(np.uint8)
    low, high = ends.min, ends.max
    if clip is not None and clip.op_type == "Clip" and all(name in fixed for name in clip.input[1:]):
        low, high = (int(np.rint(float(fixed[name]) / scale)) for name in clip.input[1:3])
    return Cut(
        tensor=quantize.output[0],
        value=value,
        start=f"{value}.start",
        end=f"{value}.end",
        scale=scale,
        low=low,
        high=high,
        shape=shapes[value],
    )


def _quantizes_activation(
    quantize: onnx.NodeProto, fixed: dict[str, NDArray[Any]], readers: dict[str, list[onnx.NodeProto]]
) -> bool:
    """A quantizer of a computed tensor with one zero-point 0 scale, read by its DequantizeLinear alone."""
    return (
        quantize.op_type == "QuantizeLinear"
        and quantize.input[0] not in fixed
        and fixed[quantize.input[1]].ndim == 0
        and (len(quantize.input) < 3 or not np.any(fixed[quantize.input[2]]))
        and [reader.op_type for reader in readers[quantize.output[0]]] == ["DequantizeLinear"]
    )


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of one image's part of each float tensor whose batch is its first axis."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = {}
    for entry in (*inferred.graph.value_info, *inferred.graph.output):
        sizes = entry.type.tensor_type.shape.dim
        if len(sizes) and all(size.dim_value > 0 for size in sizes[1:]):
            found[entry.name] = tuple(size.dim_value for size in sizes[1:])
    return found
