"""A Q/DQ file cut at its quantizers: every stretch between two of them stands alone and can be fed exact codes.

Where the file has ``real -> (Clip) -> Q -> DQ -> value``, the cut file has

    real -> (Clip) -> Q -> DQ -> "codes.end"          a result of the graph
    "codes.start" -> Q -> DQ -> value                 an input of the graph

both reals, of Q's scale, in float32. Where several DQ read the codes, each by a scale of its own, all read those of
the start. So each layer keeps the pairs round it by which a runtime makes it an integer kernel. Two runtimes that are
fed the same codes at every start differ at the ends by what the stretch itself computes differently, and by nothing
else.
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

    ``tensor``: the codes there, as the uncut file names them; ``start`` and ``end``: their reals, input and result of
    the cut file. ``scale`` of the codes, ``low`` and ``high``: smallest and largest code of the grid. ``shape``: of the
    codes of one image.
    """

    tensor: str
    start: str
    end: str
    scale: float
    low: int
    high: int
    shape: tuple[int, ...]

    def codes(self, reals: NDArray[Any]) -> NDArray[np.int16]:
        """Codes of reals that lie on the grid (or near it: the nearest ones)."""
        return np.rint(np.asarray(reals, np.float64) / self.scale).astype(np.int16)

    def reals(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Reals of codes, as DequantizeLinear makes them."""
        return codes.astype(np.float32) * np.float32(self.scale)


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
    again: dict[str, str] = {}
    for node in model.graph.node:
        own = onnx.NodeProto()
        own.CopyFrom(node)
        if node.op_type == "DequantizeLinear":
            own.input[0] = again.get(node.input[0], node.input[0])
        nodes.append(own)
        if not _quantizes_activation(node, fixed, readers):
            continue
        cut = _cut(node, producers, fixed, shapes)
        cuts.append(cut)
        again[cut.tensor] = f"{cut.tensor}.again"
        nodes += _pieces(node, cut, fixed)
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


def _pieces(quantize: onnx.NodeProto, cut: Cut, fixed: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """The end of a quantizer's codes, and a new quantizer of its start."""
    half = helper.np_dtype_to_tensor_dtype(fixed[quantize.input[1]].dtype)
    own = "" if half == TensorProto.FLOAT else ".own"
    again = onnx.NodeProto()
    again.CopyFrom(quantize)
    again.input[0], again.output[0], again.name = cut.start + own, f"{cut.tensor}.again", f"{quantize.name}.again"
    end = helper.make_node("DequantizeLinear", [cut.tensor, *quantize.input[1:]], [cut.end + own], cut.end)
    if not own:
        return [end, again]
    back = helper.make_node("Cast", [end.output[0]], [cut.end], f"{cut.end}.cast", to=TensorProto.FLOAT)
    return [end, back, helper.make_node("Cast", [cut.start], [again.input[0]], f"{cut.start}.cast", to=half), again]


def _cut(
    quantize: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
    fixed: dict[str, NDArray[Any]],
    shapes: dict[str, tuple[int, ...]],
) -> Cut:
    codes = quantize.output[0]
    if codes not in shapes:
        raise ModelError(f"the size of {codes!r} is not known, so the model cannot be cut there; export it again")
    scale = float(fixed[quantize.input[1]])
    clip = producers.get(quantize.input[0])
    while clip is not None and clip.op_type == "Cast":
        clip = producers.get(clip.input[0])
    ends = np.iinfo(fixed[quantize.input[2]].dtype) if len(quantize.input) > 2 else np.iinfo(np.uint8)
    low, high = ends.min, ends.max
    if clip is not None and clip.op_type == "Clip" and all(name in fixed for name in clip.input[1:]):
        low, high = (int(np.rint(float(fixed[name]) / scale)) for name in clip.input[1:3])
    return Cut(
        tensor=codes,
        start=f"{codes}.start",
        end=f"{codes}.end",
        scale=scale,
        low=low,
        high=high,
        shape=shapes[codes],
    )


def _quantizes_activation(
    quantize: onnx.NodeProto, fixed: dict[str, NDArray[Any]], readers: dict[str, list[onnx.NodeProto]]
) -> bool:
    """A quantizer of a computed tensor with one zero-point 0 scale, read by DequantizeLinear alone."""
    return (
        quantize.op_type == "QuantizeLinear"
        and quantize.input[0] not in fixed
        and fixed[quantize.input[1]].ndim == 0
        and (len(quantize.input) < 3 or not np.any(fixed[quantize.input[2]]))
        and {reader.op_type for reader in readers.get(quantize.output[0], ())} == {"DequantizeLinear"}
    )


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of one image's part of each tensor whose batch is its first axis."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    found = {}
    for entry in (*inferred.graph.value_info, *inferred.graph.output):
        sizes = entry.type.tensor_type.shape.dim
        if len(sizes) and all(size.dim_value > 0 for size in sizes[1:]):
            found[entry.name] = tuple(size.dim_value for size in sizes[1:])
    return found
