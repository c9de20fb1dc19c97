"""Which tensor of an optimised graph carries which codes of the model's file.

ONNX Runtime fuses ``DequantizeLinear -> Conv -> Relu -> QuantizeLinear`` into one QLinearConv, renames its output and
may turn the layout to channels-last. What survives is the *node name*: a fused node keeps the name of the operator
that it replaces (``_token_<n>`` is added where the layout pass made it anew). So each operator of the file is followed
to the codes that it makes, and found again by name; the layout is followed from the input through the optimised graph.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.export.graph.code_grids import CodeGrid, code_grids, flipped, grid_at
from limpq_deploy.export.graph.onnx_files import attribute, constants

NCHW = (0, 1, 2, 3)
NHWC_BACK = (0, 3, 1, 2)
"""Transpose of an NHWC tensor that gives NCHW."""

_TOKEN = re.compile(r"_token_\d+$")
_SUFFIX = re.compile(r"(_nchwc)?(_token_\d+)?$")
_OWN_LAYOUT = frozenset(
    (
        *("Conv", "FusedConv", "ConvTranspose", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten"),
        *("Gemm", "QGemm", "MatMul", "QLinearMatMul", "MatMulIntegerToFloat"),
    )
)
"""Operators with a result in the layout of the file, whatever passes do to what they read."""
_LAYOUT_OPS = ("QLinearConv", "QLinearGlobalAveragePool", "QLinearAveragePool", "NhwcMaxPool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One inner tensor: its name in the optimised graph, its element type, and the transpose back to the file's
    layout. ``flipped``: the runtime holds int8 codes as uint8 ones, 128 higher, or the other way round."""

    tensor: str
    element_type: int
    back: tuple[int, ...] = NCHW
    flipped: bool = False

    def in_file_layout(self, value: NDArray[np.generic]) -> NDArray[np.generic]:
        """The codes as the file has them."""
        placed = np.moveaxis(value, -1, 1) if value.ndim > 2 and self.back == NHWC_BACK else value
        if placed.ndim == 4 and self.back not in (NCHW, NHWC_BACK):
            placed = placed.transpose(self.back)
        return flipped(placed) if self.flipped else placed


def watches(model: onnx.ModelProto, optimized: onnx.ModelProto) -> tuple[dict[str, Watch], dict[str, str]]:
    """Code tensors of the file (outputs of QuantizeLinear, and of Clip on codes) that the optimised graph computes, and
    those that it does not, with the reason. Behind a Transpose of the file's own the order of their axes may be another
    one: the runtime moves it past operators on single values, and merges it with those of its layouts."""
    back, grids = _layouts(optimized), code_grids(optimized)
    makers = {
        _TOKEN.sub("", node.name): node
        for node in optimized.graph.node
        if node.name and node.op_type not in ("DequantizeLinear", "Transpose")
    }
    fixed = constants(optimized.graph)
    turned = {node.output[0] for node in optimized.graph.node if node.op_type == "Transpose"}
    tables = {node.output[0] for node in optimized.graph.node if is_table(node, fixed)}
    found: dict[str, Watch] = {}
    lost: dict[str, str] = {}
    for tensor, (operators, grid) in code_tensors(model).items():
        made = [makers[name].output[place] for name, place in operators if place < len(_outputs(makers.get(name)))]
        codes = next((name for name in made if name in grids), None)
        looked_up = [name for name in made if name in tables]
        if codes is None and tensor in turned and tensor in grids:  # quantized before it, under the name of before
            codes, back[tensor] = tensor, NCHW
        elif codes is None and looked_up:
            codes, grids[looked_up[0]] = looked_up[0], grid
        if codes is None:
            lost[tensor] = f"no node of the optimised graph is named {' or '.join(name for name, _ in operators)}"
        elif not grid.same_meaning(grids[codes]):
            lost[tensor] = f"{OTHER_GRID}: {grids[codes]} for {grid}"
        else:
            dtype = grids[codes].dtype
            found[tensor] = Watch(
                tensor=codes,
                element_type=helper.np_dtype_to_tensor_dtype(dtype),
                back=back[codes],
                flipped=dtype != grid.dtype,
            )
    return found, lost


OTHER_GRID = "the runtime gives it another grid than the file"


Carrier = tuple[str, int]
"""An operator's name, and which of its outputs."""


def code_tensors(model: onnx.ModelProto) -> dict[str, tuple[tuple[Carrier, ...], CodeGrid]]:
    """Code tensors of a Q/DQ file in execution order, each with the operators that may carry it after fusion (the
    nearest first) and its grid. Quantizers of constants, and grids that are computed, are left out."""
    producers = {output: node for node in model.graph.node for output in node.output}
    fixed = constants(model.graph)
    tensors: dict[str, tuple[tuple[Carrier, ...], CodeGrid]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in fixed:
            grid = grid_at(node, 1, fixed)
            if grid is not None:
                tensors[node.output[0]] = (((node.name, 0), *_absorbing(node, producers)), grid)
        elif is_table(node, fixed):
            grid = _grid_of_table(node.output[0], fixed)
            if grid is not None:
                tensors[node.output[0]] = (((node.name, 0),), grid)
        elif node.op_type == "Clip" and node.input[0] in tensors:
            tensors[node.output[0]] = (((node.name, 0),), tensors[node.input[0]][1])
    return tensors


def is_table(node: onnx.NodeProto, fixed: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a node looks codes up in a table of codes."""
    table = fixed.get(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.shape == (256,) and table.dtype.itemsize == 1


def _grid_of_table(tensor: str, fixed: Mapping[str, NDArray[Any]]) -> CodeGrid | None:
    """The grid of codes that are looked up, ``<quantizer>_codes``: that of the quantizer, as it is in the file."""
    name = tensor.rpartition("_codes")[0]
    scale, zero_point = fixed.get(f"{name}_scale"), fixed.get(f"{name}_zero_point")
    return None if scale is None or zero_point is None else CodeGrid(scale, zero_point, zero_point.dtype)


def _absorbing(quantizer: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> list[Carrier]:
    """The operator before a quantizer, and the one before its Relu and Clip."""
    found: list[Carrier] = []
    tensor: str | None = quantizer.input[0]
    while tensor is not None and tensor in producers:
        source = producers[tensor]
        found.append((source.name, list(source.output).index(tensor)))
        tensor = source.input[0] if source.op_type in ("Relu", "Clip") else None
    return found


def _outputs(node: onnx.NodeProto | None) -> list[str]:
    return [] if node is None else list(node.output)


def with_outputs(optimized: onnx.ModelProto, inner: Iterable[Watch]) -> onnx.ModelProto:
    """A copy of the optimised graph with further outputs; no node changes."""
    model = onnx.ModelProto()
    model.CopyFrom(optimized)
    present = {output.name for output in model.graph.output}
    for watch in inner:
        if watch.tensor not in present:
            present.add(watch.tensor)
            model.graph.output.append(helper.make_tensor_value_info(watch.tensor, watch.element_type, None))
    return model


def layer_precision(model: onnx.ModelProto, optimized: onnx.ModelProto) -> dict[str, str]:
    """For each Conv and Gemm of the file, by layer name: ``u8s8`` and the like, or ``float32``, as the optimised graph
    shows it; ``absent`` where no node of it is left."""
    types = {tensor.name: tensor.data_type for tensor in optimized.graph.initializer}
    return {
        layer: "absent" if node is None else _precision(node, types)
        for layer, node in layer_nodes(model, optimized).items()
    }


def layer_nodes(model: onnx.ModelProto, optimized: onnx.ModelProto) -> dict[str, onnx.NodeProto | None]:
    """The node of the optimised graph that executes each Conv and Gemm of the file, by layer name; None where none is
    left. A layer is named by its weight initializer, ``<layer>.weight``."""
    nodes = {file_name(node): node for node in optimized.graph.node if node.name}
    return {
        layer: next((nodes[name] for name in names if name in nodes), None)
        for layer, names in layer_names(model).items()
    }


def layer_names(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """For each Conv and Gemm of the file, by layer name: what the node may be called that executes it, the likeliest
    first. A float layer is named for its activation function, or for its result."""
    producers = {output: node for node in model.graph.node for output in node.output}
    behind = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type in ("Relu", "Clip")}
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = producers[node.input[1]].input[0] if node.input[1] in producers else node.input[1]
            names = (node.name, node.output[0], behind.get(node.output[0]))
            found[weight.removesuffix("_codes").removesuffix(".weight")] = tuple(name for name in names if name)
    return found


def file_name(node: onnx.NodeProto) -> str:
    """The name that a node of an optimised graph had before layout passes added to it."""
    return _SUFFIX.sub("", node.name)


def _precision(node: onnx.NodeProto, types: dict[str, int]) -> str:
    names: dict[int, str] = {onnx.TensorProto.UINT8: "u8", onnx.TensorProto.INT8: "s8"}
    if node.op_type in ("QLinearConv", "QGemm"):
        return names.get(types.get(node.input[2], 0), "?") + names.get(types.get(node.input[5], 0), "?")
    return "float32"


def _layouts(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """For every tensor the transpose back to the layout of the file, in which the graph's inputs are: axis i of the
    file is axis ``back[i]`` here."""
    back: dict[str, tuple[int, ...]] = {}
    for node in model.graph.node:
        first = 2 if node.op_type == "QLinearConcat" else 0  # behind the scale and zero-point of its result
        before = back.get(node.input[first], NCHW) if node.input else NCHW
        after = before
        if node.op_type == "Transpose":
            order = attribute(node, "perm")
            if isinstance(order, list) and len(order) == 4:
                after = tuple(order.index(axis) for axis in before)
        elif node.op_type in _LAYOUT_OPS:
            after = NHWC_BACK if attribute(node, "channels_last", 0) or node.op_type == "NhwcMaxPool" else NCHW
        elif node.op_type in _OWN_LAYOUT:
            after = NCHW
        for output in node.output:
            back[output] = after
    return back
