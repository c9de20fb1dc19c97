"""A Q/DQ file cut at its quantizers: every stretch between two of them stands alone and can be fed exact codes.

Where the file has ``real -> (Clip) -> Q -> codes -> DQ -> value``, the cut file has

    real -> (Clip) -> Q -> codes -> DQ -> "codes.end"          a result of the graph
    "codes.start" -> Q -> "codes.again" -> DQ -> value         an input of the graph

so that each layer keeps the pairs round it by which a runtime makes it an integer kernel. Where several
DequantizeLinear read the codes, as reals and as integers, all of them stand behind the start. Two runtimes that are fed
the same codes at every start differ at the ends by what the stretch itself computes differently, and by nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.float8 import FP8_NUMBERS, LAST_PLACE, fp8_places, nearest_fp8
from limpq_deploy.export.graph.onnx_files import constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One place where the file is cut.

    ``tensor``: the codes there; ``start`` and ``end``: input and result of the cut file. ``scale`` of the codes,
    ``low`` and ``high``: smallest and largest code of the grid; those of ``fp8`` are places (`fp8_places`). ``shape``:
    of the reals of one image.
    """

    tensor: str
    start: str
    end: str
    scale: float
    low: int
    high: int
    shape: tuple[int, ...]
    fp8: bool = False

    def real(self, code: int) -> np.float32:
        """The real of a code."""
        number = FP8_NUMBERS[code + LAST_PLACE] if self.fp8 else np.float32(code)
        return np.float32(number * np.float32(self.scale))

    def codes(self, reals: NDArray[Any]) -> NDArray[np.int16]:
        """Codes of reals that lie on the grid (or near it: the nearest ones)."""
        steps = np.asarray(reals, np.float64) / self.scale
        return fp8_places(nearest_fp8(steps)) if self.fp8 else np.rint(steps).astype(np.int16)


def cut_model(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Cut, ...]]:
    """The cut file, and its cuts in execution order. Raises ModelError where there is nothing to cut, or where the size
    of a tensor is not known."""
    result, cuts = with_ends(model)
    graph = result.graph
    quantizers = {node.output[0]: node for node in graph.node}
    nodes: list[onnx.NodeProto] = []
    starts = {cut.tensor: cut for cut in cuts}
    ends = {cut.end for cut in cuts}
    begun: set[str] = set()
    for node in graph.node:
        read = node.input[0] if node.op_type == "DequantizeLinear" and node.output[0] not in ends else None
        if read in starts:
            cut = starts[read]
            again = f"{cut.tensor}.again"
            if cut.tensor not in begun:
                begun.add(cut.tensor)
                quantize = onnx.NodeProto()
                quantize.CopyFrom(quantizers[cut.tensor])
                quantize.input[0], quantize.output[0], quantize.name = cut.start, again, f"{quantize.name}.again"
                nodes.append(quantize)
                graph.input.append(_reals(cut.start, cut))
            node.input[0] = again
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    onnx.checker.check_model(result, full_check=True)
    return result, cuts


def with_ends(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Cut, ...]]:
    """The file itself with the reals of its codes as further results, the cuts' ends. Raises as `cut_model`."""
    fixed = constants(model.graph)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    shapes = _shapes(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    producers: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        producers.update(dict.fromkeys(node.output, node))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    cuts: list[Cut] = []
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if not _quantizes_activation(node, fixed, readers):
            continue
        cut = _cut(node, producers, fixed, shapes, fp8=kinds.get([*node.input, ""][2]) == TensorProto.FLOAT8E4M3FN)
        cuts.append(cut)
        nodes.append(helper.make_node("DequantizeLinear", [cut.tensor, *node.input[1:]], [cut.end], name=cut.end))
        result.graph.output.append(_reals(cut.end, cut))
    if not cuts:
        raise ModelError("the model has no quantized activation to cut at; export it for the target tensorrt")
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result, tuple(cuts)


def _reals(name: str, cut: Cut) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *cut.shape])


def _cut(
    quantize: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
    fixed: Mapping[str, NDArray[Any]],
    shapes: dict[str, tuple[int, ...]],
    *,
    fp8: bool,
) -> Cut:
    codes = quantize.output[0]
    if codes not in shapes:
        raise ModelError(f"the size of {codes!r} is not known, so the model cannot be cut there; export it again")
    scale = float(fixed[quantize.input[1]])
    clip = producers.get(quantize.input[0])
    while clip is not None and clip.op_type == "Cast":
        clip = producers.get(clip.input[0])
    low, high = -LAST_PLACE, LAST_PLACE
    if not fp8:
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
        fp8=fp8,
    )


def _quantizes_activation(
    quantize: onnx.NodeProto, fixed: Mapping[str, NDArray[Any]], readers: dict[str, list[onnx.NodeProto]]
) -> bool:
    """A quantizer of a computed tensor with one zero-point 0 scale, read by DequantizeLinear alone."""
    return (
        quantize.op_type == "QuantizeLinear"
        and quantize.output[0] in readers
        and quantize.input[0] not in fixed
        and fixed[quantize.input[1]].ndim == 0
        and (len(quantize.input) < 3 or not np.any(fixed[quantize.input[2]].astype(np.float32)))
        and {reader.op_type for reader in readers[quantize.output[0]]} == {"DequantizeLinear"}
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
