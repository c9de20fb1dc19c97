"""Small quantized graphs as other tools write them: nodes one by one, codes and scales at random."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

U8, S8 = np.uint8, np.int8


class Graph:
    """Writes a graph whose input ``x`` has this shape; every method returns the name of a tensor."""

    def __init__(
        self, shape: Sequence[int | str], *, opset: int = 17, kind: int = TensorProto.FLOAT, seed: int = 0
    ) -> None:
        self.shape, self.opset, self.kind = list(shape), opset, kind
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> Any:
        """``outputs``: how many, if not one; ``domain``; the rest are attributes."""
        outputs, domain = attributes.pop("outputs", 1), attributes.pop("domain", "")
        names = [f"{op}{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=f"{op}{len(self.nodes)}", domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def quantize(self, tensor: str, scale: float, zero: int, dtype: Any = U8) -> str:
        made: str = self.node("QuantizeLinear", tensor, self.constant(scale, np.float32), self.constant(zero, dtype))
        return made

    def dequantize(self, tensor: str, scale: float, zero: int, dtype: Any = U8) -> str:
        made: str = self.node("DequantizeLinear", tensor, self.constant(scale, np.float32), self.constant(zero, dtype))
        return made

    def pair(self, tensor: str, scale: float, zero: int, dtype: Any = U8) -> str:
        return self.dequantize(self.quantize(tensor, scale, zero, dtype), scale, zero, dtype)

    def codes(self, shape: Sequence[int], dtype: Any = S8) -> NDArray[Any]:
        ends = np.iinfo(dtype)
        return self.random.integers(ends.min, ends.max, tuple(shape), dtype, endpoint=True)

    def weight(self, *shape: int, axis: int | None = 0, zero: int = 0, dtype: Any = S8) -> str:
        """Dequantized weights, per channel along ``axis``, or (None) with one scale."""
        codes = self.constant(self.codes(shape, dtype))
        if axis is None:
            return self.dequantize(codes, 0.004, zero, dtype)
        scales = self.constant(self.random.uniform(0.001, 0.006, shape[axis]), np.float32)
        zeros = self.constant(np.full(shape[axis], zero), dtype)
        made: str = self.node("DequantizeLinear", codes, scales, zeros, axis=axis)
        return made

    def model(self, *outputs: str, kind: int = TensorProto.FLOAT, rank: int | None = None) -> onnx.ModelProto:
        """``rank``: of the outputs, where onnx cannot infer it."""
        shape = None if rank is None else [None] * rank
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", self.kind, self.shape)],
            [helper.make_tensor_value_info(name, kind, shape) for name in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=8 if self.opset < 21 else 10)
        return onnx.shape_inference.infer_shapes(made)


def images_of(model: onnx.ModelProto, seed: int = 0) -> list[NDArray[Any]]:
    """Three batches for a model of one input, the last one far beyond its grids."""
    tensor = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value or 2 for dim in tensor.shape.dim]
    random = np.random.default_rng(seed)
    if tensor.elem_type != TensorProto.FLOAT:
        return [random.integers(0, 256, shape).astype(np.uint8) for _ in range(3)]
    return [random.normal(0, width, shape).astype(np.float32) for width in (1, 1, 4)]


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path
