"""Which tensors of an optimised graph are codes, and of which grid: read off its operators."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.export.graph.onnx_files import attribute, constants

GRID_OF_RESULT: Mapping[str, int] = {
    "QuantizeLinear": 1,
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QGemm": 7,
    "QLinearConcat": 0,
    "QLinearLeakyRelu": 3,
    "QLinearSigmoid": 3,
    "QLinearSoftmax": 3,
    "QLinearAveragePool": 3,
    "QLinearGlobalAveragePool": 3,
    "QLinearReduceMean": 3,
    "QLinearWhere": 7,
}
"""At which input the scale of an operator's result stands; its zero-point is the next."""

SAME_GRID = frozenset(
    (
        *("Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "NhwcMaxPool", "Pad"),
        *("Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
        "Upsample",
    )
)
"""Operators whose result has the grid of their first input."""


@dataclass(frozen=True, slots=True)
class CodeGrid:
    """Codes with the meaning ``(code - zero_point) * scale``; ``dtype``: the integers that hold them."""

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    dtype: np.dtype[Any]

    def same_meaning(self, other: "CodeGrid") -> bool:
        """Whether codes of both mean the same, up to the offset of 128 between int8 and uint8."""
        return bool(np.array_equal(self.scale.reshape(-1), other.scale.reshape(-1))) and bool(
            np.array_equal(self._steps_to_zero(), other._steps_to_zero())
        )

    def _steps_to_zero(self) -> NDArray[np.int64]:
        return self.zero_point.reshape(-1).astype(np.int64) - np.iinfo(self.dtype).min

    def __str__(self) -> str:
        numbers = (self.scale.reshape(-1)[:1], self.zero_point.reshape(-1)[:1])
        return f"{self.dtype.name}, scale {float(numbers[0][0]):.6g}, zero-point {int(numbers[1][0])}"


def code_grids(model: onnx.ModelProto) -> dict[str, CodeGrid]:
    """The grid of every tensor of 8- or 16-bit codes that an operator of the graph makes."""
    fixed = constants(model.graph)
    found: dict[str, CodeGrid] = {}
    for node in model.graph.node:
        grid = None
        if node.op_type in GRID_OF_RESULT:
            grid = grid_at(node, GRID_OF_RESULT[node.op_type], fixed)
        elif node.op_type in SAME_GRID and node.input:
            grid = found.get(node.input[0])
        if grid is not None:
            found.update(dict.fromkeys(filter(None, node.output), grid))
    return found


def grid_at(node: onnx.NodeProto, place: int, fixed: Mapping[str, NDArray[Any]]) -> CodeGrid | None:
    """The grid whose scale is this input of a node; None where there is none or it is no constant of integers."""
    names = [*node.input, "", ""][place : place + 2] if len(node.input) > place else ["", ""]
    if names[0] not in fixed or (names[1] and names[1] not in fixed):
        return None
    zero_point = fixed[names[1]] if names[1] else np.array(0, default_type(node))
    if zero_point.dtype.kind not in "iu":
        return None
    return CodeGrid(fixed[names[0]], zero_point, zero_point.dtype)


def default_type(quantizer: onnx.NodeProto) -> np.dtype[Any]:
    """Type of the codes of a QuantizeLinear without a zero-point."""
    given = attribute(quantizer, "output_dtype", 0)
    return np.dtype(helper.tensor_dtype_to_np_dtype(given)) if given else np.dtype(np.uint8)


def flipped(codes: NDArray[Any]) -> NDArray[Any]:
    """int8 codes as uint8 ones of the same meaning (zero-point 128 higher), or the other way round."""
    other = np.int8 if codes.dtype == np.uint8 else np.uint8
    return (codes.view(np.uint8) ^ np.uint8(128)).view(other)
