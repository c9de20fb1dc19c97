"""Files of FP8 (E4M3) for the benchmark `rtx.py`: what NVIDIA's compiler makes of the format.

The float model in half precision, both inputs of every Conv and Gemm behind QuantizeLinear and DequantizeLinear of one
scale a tensor, and sums of streams reading what layers read. Scales of activations are nobody's: such a file measures
the compiler and no accuracy. The program itself writes no FP8.
"""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.export.graph.to_float16 import in_half

FP8, INT8 = TensorProto.FLOAT8E4M3FN, TensorProto.INT8
LARGEST: dict[int, float] = {FP8: 448.0, INT8: 127.0}
"""Largest numbers of the formats."""

RANGE = 4.0
"""Largest real that an activation's scale is made for."""

LEAST_CHANNELS = 4
"""Layers that read fewer channels are in int8: the compiler puts a stem of three in FP16, whatever an FP8 file says."""


def in_fp8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The FP8 file of a float file of opset 19 or above."""
    half = in_half(model).model
    writer = _Writer(half.graph)
    for node in half.graph.node:
        writer.write(node)
    del half.graph.node[:], half.graph.initializer[:]
    half.graph.node.extend(writer.nodes)
    read = {name for node in writer.nodes for name in node.input}
    half.graph.initializer.extend(tensor for name, tensor in writer.constants.items() if name in read)
    onnx.checker.check_model(half)
    return half


class _Writer:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {
            tensor.name: onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in graph.initializer
        }
        self.nodes: list[onnx.NodeProto] = []
        self.reals: dict[tuple[str, int], str] = {}

    def write(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type in ("Conv", "Gemm"):
            shape = self.constants[node.input[1]].dims
            channels = shape[1] * next((one.i for one in node.attribute if one.name == "group"), 1)
            kind = FP8 if channels >= LEAST_CHANNELS else INT8
            copy.input[0], copy.input[1] = self._read(node.input[0], kind), self._read(node.input[1], kind)
        elif node.op_type == "Add":
            copy.input[:] = [self.reals.get((name, FP8), name) for name in node.input]
        self.nodes.append(copy)

    def _read(self, tensor: str, kind: int) -> str:
        """The reals of a tensor's codes."""
        if (tensor, kind) not in self.reals:
            name = f"{tensor}.{TensorProto.DataType.Name(kind).lower()}"
            zero = self._constant(helper.make_tensor(f"{name}.zero", kind, [], [0]))
            if tensor in self.constants:
                reals = numpy_helper.to_array(self.constants[tensor]).astype(np.float32)
                scale = self._scale(name, np.abs(reals).max() / LARGEST[kind])
                codes = self._constant(
                    _coded(f"{name}.codes", reals, numpy_helper.to_array(self.constants[scale]), kind)
                )
            else:
                codes, scale = f"{name}.codes", self._scale(name, RANGE / LARGEST[kind])
                self.nodes.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes], f"{name}.q"))
            self.nodes.append(helper.make_node("DequantizeLinear", [codes, scale, zero], [name], f"{name}.dq"))
            self.reals[tensor, kind] = name
        return self.reals[tensor, kind]

    def _scale(self, name: str, value: float) -> str:
        return self._constant(numpy_helper.from_array(np.array(value or 1, np.float16), f"{name}.scale"))

    def _constant(self, tensor: onnx.TensorProto) -> str:
        self.constants[tensor.name] = tensor
        return tensor.name


def _coded(name: str, reals: np.ndarray, scale: np.ndarray, kind: int) -> onnx.TensorProto:
    scaled = np.clip(reals / scale.astype(np.float32), -LARGEST[kind], LARGEST[kind])
    codes = scaled.astype(ml_dtypes.float8_e4m3fn) if kind == FP8 else np.rint(scaled).astype(np.int8)
    return helper.make_tensor(name, kind, reals.shape, codes.tobytes(), raw=True)
