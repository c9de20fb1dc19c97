"""Small Q/DQ files, each with what NVIDIA's parser and builder made of it (TensorRT-for-RTX 1.7.1, SM89, 28 Nov 2026).

`INTEGERS` and `READ_IN_FLOAT` hold what stands between the DequantizeLinear and the convolution that reads it,
`CONV_...` how that convolution and its weight are written, `PRODUCT_...` matrix products. A layer of `INTEGERS` read
int8 in the built engine, one of `READ_IN_FLOAT` read float, and files of `REFUSED` were not built. Products whose
scales stand along the sums, or that have only a weight in codes, are dequantized inside a fused kernel: they count as
float.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIZE = 8, 8
INT8 = TensorProto.INT8
Build = Callable[["SmallNet", str], str]


class SmallNet:
    """A graph in the making; methods take and give names of tensors."""

    def __init__(self, opset: int = 17) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.opset = opset
        self.draw = np.random.default_rng(0)

    def const(self, value: Any) -> str:
        tensor = value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), "")
        tensor.name = f"c{len(self.tensors)}"
        self.tensors.append(tensor)
        return tensor.name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def pair(self, tensor: str, scale: Any = 0.05, zero: Any = None, **attributes: Any) -> str:
        """A QuantizeLinear and its DequantizeLinear."""
        grid = self.grid(scale, zero)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", tensor, *grid, **attributes), *grid, **attributes)

    def grid(self, scale: Any = 0.05, zero: Any = None) -> tuple[str, str]:
        scale = np.asarray(scale, np.float32)
        return self.const(scale), self.const(np.zeros(scale.shape, np.int8) if zero is None else zero)

    def codes(self, *shape: int) -> NDArray[np.int8]:
        return self.draw.integers(-63, 64, shape).astype(np.int8)

    def weight(self, *shape: int, axis: int | None = 0, scale: NDArray[Any] | None = None) -> str:
        """Codes with a DequantizeLinear; one scale where ``axis`` is None."""
        if axis is None:
            return self.op("DequantizeLinear", self.const(self.codes(*shape)), *self.grid(0.01))
        scales = self.draw.uniform(0.005, 0.02, shape[axis]) if scale is None else scale
        return self.op("DequantizeLinear", self.const(self.codes(*shape)), *self.grid(scales), axis=axis)

    def conv(self, tensor: str, weight: str | None = None, **attributes: Any) -> str:
        made = weight or self.weight(CHANNELS, CHANNELS, 3, 3)
        return self.op("Conv", tensor, made, **{"kernel_shape": [3, 3], "pads": [1] * 4, **attributes})

    def model(self, result: str, shape: tuple[int, ...] = (1, CHANNELS, SIZE, SIZE)) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, [None] * len(shape))],
            self.tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def between(build: Build, opset: int = 17) -> onnx.ModelProto:
    """x -> pair -> ``build`` -> Conv -> Relu -> pair."""
    net = SmallNet(opset)
    return net.model(net.pair(net.op("Relu", net.conv(build(net, net.pair("x"))))))


def convolution(build: Build, opset: int = 17) -> onnx.ModelProto:
    """x -> pair -> a convolution by ``build`` -> Relu -> pair."""
    net = SmallNet(opset)
    return net.model(net.pair(net.op("Relu", build(net, net.pair("x")))))


def product(build: Build, opset: int = 17) -> onnx.ModelProto:
    """x [4, 64] -> pair -> a matrix product by ``build``."""
    net = SmallNet(opset)
    return net.model(build(net, net.pair("x")), (4, 64))


def whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


PADS = whole(0, 0, 1, 1, 0, 0, 1, 1)
WINDOW = {"kernel_shape": [3, 3], "pads": [1] * 4}
ALL = np.ones((1, CHANNELS, SIZE, SIZE), np.bool_)

INTEGERS: Mapping[str, Build] = {
    "nothing": lambda net, x: x,
    "Abs": lambda net, x: net.op("Abs", x),
    "Neg": lambda net, x: net.op("Neg", x),
    "Cast": lambda net, x: net.op("Cast", x, to=TensorProto.FLOAT),
    "Dropout": lambda net, x: net.op("Dropout", x),
    "MaxPool": lambda net, x: net.op("MaxPool", x, **WINDOW),
    "GlobalMaxPool": lambda net, x: net.op("GlobalMaxPool", x),
    "ReduceMin": lambda net, x: net.op("ReduceMin", x, axes=[2, 3]),
    "Pad with zeros": lambda net, x: net.op("Pad", x, net.const(PADS)),
    "Pad at the edge": lambda net, x: net.op("Pad", x, net.const(PADS), mode="edge"),
    "Tile": lambda net, x: net.op("Tile", x, net.const(whole(1, 1, 2, 2))),
    "Transpose": lambda net, x: net.op("Transpose", x, perm=[0, 1, 3, 2]),
    "Gather": lambda net, x: net.op("Gather", x, net.const(whole(*range(8))), axis=1),
    "DepthToSpace": lambda net, x: net.op("SpaceToDepth", net.op("DepthToSpace", x, blocksize=2), blocksize=2),
    "Concat of one scale": lambda net, x: sliced(net, net.op("Concat", x, net.pair("x"), axis=1)),
    "Max of one scale": lambda net, x: net.op("Max", x, net.pair("x")),
    "Where of one scale": lambda net, x: net.op("Where", net.const(ALL), x, net.pair("x")),
    "Mul by a number": lambda net, x: net.op("Mul", x, net.const(np.float32(-2))),
    "Div by a number": lambda net, x: net.op("Div", x, net.const(np.array([2], np.float32))),
    "a second pair": lambda net, x: net.pair(x, 0.3),
    "movers in a row": lambda net, x: net.op("MaxPool", net.op("Abs", x), **WINDOW),
}

READ_IN_FLOAT: Mapping[str, Build] = {
    "Relu": lambda net, x: net.op("Relu", x),
    "LeakyRelu": lambda net, x: net.op("LeakyRelu", x),
    "Clip": lambda net, x: net.op("Clip", x, net.const(np.float32(0)), net.const(np.float32(6))),
    "Tanh": lambda net, x: net.op("Tanh", x),
    "AveragePool": lambda net, x: net.op("AveragePool", x, **WINDOW),
    "Resize": lambda net, x: net.op("Resize", x, "", net.const(np.array([1, 1, 2, 2], np.float32)), mode="nearest"),
    "Add": lambda net, x: net.op("Add", x, net.pair("x")),
    "Mul of two": lambda net, x: net.op("Mul", x, net.pair("x")),
    "Mul for each channel": lambda net, x: net.op("Mul", x, net.const(np.full((1, 8, 1, 1), 2, np.float32))),
    "Pad with ones": lambda net, x: net.op("Pad", x, net.const(PADS), net.const(np.float32(1))),
    "Concat of two scales": lambda net, x: sliced(net, net.op("Concat", x, net.pair("x", 0.1), axis=1)),
    "Concat with floats": lambda net, x: sliced(net, net.op("Concat", x, net.op("Sigmoid", "x"), axis=1)),
    "Max of two scales": lambda net, x: net.op("Max", x, net.pair("x", 0.1)),
    "Max with a number": lambda net, x: net.op("Max", x, net.const(np.float32(0.2))),
    "a scale of one dimension": lambda net, x: net.pair("x", [0.05]),
    "a scale for each channel": lambda net, x: net.pair("x", [0.05] * 8, axis=1),
    "floats": lambda net, x: "x",
}

CONV_INTEGERS: Mapping[str, Build] = {
    "axis -4": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, axis=-4)),
    "one scale": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, axis=None)),
    "one scale of one dimension": lambda net, x: net.conv(
        x, net.op("DequantizeLinear", net.const(net.codes(8, 8, 3, 3)), *net.grid([0.01]), axis=0)
    ),
    "FP32 with a pair": lambda net, x: net.conv(x, net.pair(net.const(net.codes(8, 8, 3, 3) * np.float32(0.01)), 0.01)),
    "transposed": lambda net, x: net.conv(x, net.op("Transpose", net.weight(3, 3, 8, 8, axis=3), perm=[3, 2, 0, 1])),
    "reshaped": lambda net, x: net.conv(x, net.op("Reshape", net.weight(8, 72), net.const(whole(8, 8, 3, 3)))),
    "in groups": lambda net, x: net.conv(x, net.weight(8, 2, 3, 3), group=4),
    "denormal scales": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, scale=np.full(8, 1e-40))),
    "a bias that is made": lambda net, x: net.op(
        "Conv", x, net.weight(8, 8, 1, 1), net.pair(net.const(np.ones(8, "f")))
    ),
    "one number in codes": lambda net, x: net.op(
        "Mul", net.conv(x), net.op("DequantizeLinear", net.const(np.array([40], np.int8)), *net.grid())
    ),
    "one output": lambda net, x: net.conv(x, net.weight(1, 8, 3, 3)),
}

CONV_FLOAT: Mapping[str, Build] = {
    "axis 1": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, axis=1)),
    "axis 1, all alike": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, axis=1, scale=np.full(8, 0.01))),
    "axis 2": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, axis=2)),
    "a float weight": lambda net, x: net.conv(x, net.const(net.codes(8, 8, 3, 3) * np.float32(0.01))),
    "transposed": lambda net, x: net.op("ConvTranspose", x, net.weight(8, 8, 3, 3, axis=1), **WINDOW),
    "transposed, axis 0": lambda net, x: net.op("ConvTranspose", x, net.weight(8, 8, 3, 3), **WINDOW),
    "transposed, one scale": lambda net, x: net.op("ConvTranspose", x, net.weight(8, 8, 3, 3, axis=None), **WINDOW),
}

CONV_REFUSED: Mapping[str, Build] = {
    "axes of the scale": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, scale=np.full((8, 1, 1, 1), 0.01))),
    "four scales": lambda net, x: net.conv(x, net.weight(8, 8, 3, 3, scale=np.full(4, 0.01))),
    "blocks": lambda net, x: net.conv(
        x,
        net.op(
            "DequantizeLinear", net.const(net.codes(8, 8, 3, 3)), *net.grid(np.full((8, 2, 3, 3), 0.01)),
            axis=1, block_size=4,
        ),
    ),
    "a moved constant of codes": lambda net, x: net.conv(
        x,
        net.op(
            "DequantizeLinear",
            net.op("Transpose", net.const(net.codes(8, 8, 3, 3)), perm=[1, 0, 2, 3]),
            *net.grid(np.full(8, 0.01)),
            axis=0,
        ),
    ),
    "a number in codes": lambda net, x: net.op(
        "Mul", net.conv(x), net.op("DequantizeLinear", net.const(np.int8(40)), *net.grid())
    ),
    "a bias of int32": lambda net, x: net.op(
        "Conv", x, net.weight(8, 8, 1, 1), net.op("DequantizeLinear", net.const(np.ones(8, np.int32)), net.grid()[0])
    ),
    "a bias of FP16": lambda net, x: net.op("Conv", x, net.weight(8, 8, 1, 1), net.const(np.ones(8, np.float16))),
}  # fmt: skip

PRODUCT_INTEGERS: Mapping[str, Build] = {
    "MatMul": lambda net, x: net.op("MatMul", x, net.weight(64, 32, axis=1)),
    "MatMul and a bias": lambda net, x: net.op(
        "Add", net.op("MatMul", x, net.weight(64, 32, axis=1)), net.const(np.ones(32, "f"))
    ),
    "MatMul of a transposed weight": lambda net, x: net.op("MatMul", x, net.op("Transpose", net.weight(32, 64))),
    "Gemm": lambda net, x: net.op("Gemm", x, net.weight(32, 64), transB=1),
    "Gemm, last axis": lambda net, x: net.op("Gemm", x, net.weight(64, 32, axis=-1)),
    "a scale of one dimension": lambda net, x: net.op("MatMul", net.pair("x", [0.05]), net.weight(64, 32, axis=1)),
    "codes by codes": lambda net, x: net.op("MatMul", x, net.pair(net.op("Transpose", "x"))),
}

PRODUCT_FLOAT: Mapping[str, Build] = {
    "codes by floats": lambda net, x: net.op("MatMul", x, net.op("Transpose", "x")),
    "floats by floats": lambda net, x: net.op("MatMul", "x", net.op("Transpose", "x")),
    "only a weight": lambda net, x: net.op("MatMul", "x", net.weight(64, 32, axis=1)),
    "scales along the sums": lambda net, x: net.op("MatMul", x, net.weight(64, 32)),
}


def sliced(net: SmallNet, tensor: str) -> str:
    """The first eight channels."""
    return net.op("Slice", tensor, *(net.const(whole(number)) for number in (0, 8, 1)))
