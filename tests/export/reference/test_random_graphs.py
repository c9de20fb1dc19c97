"""Random small networks: whatever is built from the supported operators is a valid file, runs in integers on ONNX
Runtime, and every one of its codes equals the integer reference's."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.export.reference.parity import compare_runtime
from limpq_deploy.export.runtimes import runtime_named

STEPS = (
    "conv",
    "depthwise",
    "relu6",
    "add",
    "concat",
    "swish",
    "excite",
    "pool",
    "average",
    "function",
    "shuffle",
    "enlarge",
    "norm",
)


class RandomNet:
    """Grows a `TinyNet` step by step. Between steps there is one tensor of codes at 8 bits, `stream`; layers
    re-quantize it at bits of their own."""

    def __init__(self, tiny_net: Any, seed: int) -> None:
        self.net = tiny_net(seed)
        self.net.dead = 0.1
        self.random = np.random.default_rng(seed)
        self.count = 0
        self.size = 8
        self.negative = True
        self.stream = self.net.quantize(self.net.input, "images.q", 8, signed=True)
        self.conv()

    def layer(self, channels: int, **options: Any) -> Any:
        """A convolution behind a re-quantizer of 2 to 8 bits."""
        self.count += 1
        bits = int(self.random.integers(2, 9))
        parent = self.stream.quantizer
        read = self.net.quantize(self.stream, f"in{self.count}", bits, signed=self.negative, parent=parent, **self.grid)
        weight_bits = int(self.random.integers(2, 9))
        return self.net.conv(read, f"conv{self.count}", channels, bits=weight_bits, **options)

    @property
    def grid(self) -> dict[str, Any]:
        return {"offset": next(q.offset for q in self.net.quantizers if q.name == self.stream.quantizer)}

    def carry(self, tensor: Any, *, signed: bool, **options: Any) -> Any:
        self.count += 1
        return self.net.quantize(tensor, f"carrier{self.count}", 8, signed=signed, **options)

    def conv(self) -> None:
        stride = int(self.random.choice([1, 2])) if self.size > 4 else 1
        kernel, channels, relu = int(self.random.choice([1, 3])), int(self.random.choice([4, 8])), bool(self.count % 2)
        made = self.layer(channels, kernel=kernel, stride=stride, relu=relu)
        self.size = -(-self.size // stride)
        self.stream, self.negative = self.carry(made, signed=not relu), not relu

    def depthwise(self) -> None:
        channels = self.stream.channels
        made = self.layer(channels, groups=channels)
        self.stream, self.negative = self.carry(made, signed=False), False

    def relu6(self) -> None:
        made = self.layer(8, relu=False)
        bounds = [self.net.constant(f"bound{end}", np.array(end, np.float32)) for end in (0, 6)]
        self.net.node("Clip", [made.name, *bounds], f"{made.name}_relu6")
        made.name = f"{made.name}_relu6"
        spread = float(self.random.choice([3.0, 9.0]))  # below and beyond 6
        self.stream, self.negative = self.carry(made, signed=False, bound=6.0, spread=spread), False

    def add(self) -> None:
        shortcut = self.stream
        branch = self.carry(self.layer(shortcut.channels, relu=False), signed=True)
        self.count += 1
        self.stream = self.carry(self.net.add(branch, shortcut, f"add{self.count}"), signed=False)
        self.negative = False

    def concat(self) -> None:
        left = self.carry(self.layer(4, relu=False), signed=True)
        right = self.stream
        self.count += 1
        self.net.node("Concat", [left.name, right.name], f"concat{self.count}", axis=1)
        left.name, left.channels = f"concat{self.count}", left.channels + right.channels
        self.stream, self.negative = self.carry(left, signed=True), True

    def gated(self, tensor: Any, gate: str, by: Any) -> Any:
        """``tensor * gate(by)``: a float tensor."""
        self.count += 1
        attributes = {"alpha": 1 / 6, "beta": 0.5} if gate == "HardSigmoid" else {}
        opened = type(tensor)(self.net.node(gate, [by.name], f"gate{self.count}", **attributes), by.channels)
        opened = self.carry(opened, signed=False, spread=0.8)
        name = self.net.node("Mul", [tensor.name, opened.name], f"product{self.count}")
        return type(tensor)(name, tensor.channels)

    def swish(self) -> None:
        made = self.carry(self.layer(8, relu=False), signed=True)
        gate = str(self.random.choice(["Sigmoid", "HardSigmoid"]))
        self.stream, self.negative = self.carry(self.gated(made, gate, made), signed=True, offset=True), True

    def excite(self) -> None:
        whole, negative, grid = self.stream, self.negative, self.grid
        self.count += 1
        self.stream = self.carry(self.net.mean(whole, f"squeeze{self.count}"), signed=negative, **grid, spread=1.5)
        squeezed = self.carry(self.layer(whole.channels, kernel=1, relu=False), signed=True)
        self.stream, self.negative = (
            self.carry(self.gated(whole, "Sigmoid", squeezed), signed=negative, **grid),
            negative,
        )

    def pool(self) -> None:
        if self.size >= 4:
            self.count += 1
            self.stream = self.net.maxpool(self.stream, f"maxpool{self.count}")
            self.size = -(-self.size // 2)

    def average(self) -> None:
        """Over windows of its own, with padding counted or not."""
        self.count += 1
        kernel, stride = int(self.random.integers(2, 4)), int(self.random.choice([1, 2])) if self.size > 4 else 1
        pad = kernel // 2
        name = self.net.node(
            "AveragePool",
            [self.stream.name],
            f"average{self.count}",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            count_include_pad=int(self.random.choice([0, 1])),
        )
        self.size = (self.size + 2 * pad - kernel) // stride + 1
        made = type(self.stream)(name, self.stream.channels)
        self.stream = self.carry(made, signed=self.negative, **self.grid, spread=2.0)

    def function(self) -> None:
        """A table, or what the runtime has a kernel for."""
        self.count += 1
        kind = str(self.random.choice(["Gelu", "Elu", "Tanh", "LeakyRelu", "Relu", "Softplus"]))
        made = type(self.stream)(self.net.node(kind, [self.stream.name], f"curve{self.count}"), self.stream.channels)
        self.negative = kind not in ("Relu", "Softplus")
        self.stream = self.carry(made, signed=self.negative)

    def move(self, kind: str, channels: int, *, inputs: tuple[str, ...] = (), **options: Any) -> None:
        """The codes, moved."""
        self.count += 1
        name = self.net.node(kind, [self.stream.name, *inputs], f"moved{self.count}", **options)
        self.stream = type(self.stream)(name, channels, self.stream.quantizer)

    def shuffle(self) -> None:
        """Channels in another order, or pixels among them and back."""
        channels = self.stream.channels
        order = self.net.constant(f"order{self.count}", self.random.permutation(channels))
        self.move("Gather", channels, inputs=(order,), axis=1)
        if self.size % 2 == 0 and channels <= 8:
            self.move("SpaceToDepth", channels * 4, blocksize=2)
            self.move("DepthToSpace", channels, blocksize=2, mode=str(self.random.choice(["CRD", "DCR"])))

    def enlarge(self) -> None:
        if self.size <= 4:
            scales = self.net.constant("scales", np.array([1, 1, 2, 2], np.float32))
            self.move("Resize", self.stream.channels, inputs=("", scales), mode="nearest", nearest_mode="floor")
            self.net.nodes[-1].attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            self.size *= 2

    def norm(self) -> None:
        """A BatchNorm by itself: a depthwise 1x1 convolution of ones."""
        self.count += 1
        channels = self.stream.channels
        ones = np.ones((channels, 1, 1, 1))
        inputs = self.net.layer(self.stream, f"scale{self.count}", ones, 8, batchnorm=True)
        name = self.net.node("Conv", inputs, f"scale{self.count}", kernel_shape=[1, 1], group=channels)
        self.stream, self.negative = self.carry(type(self.stream)(name, channels), signed=True), True

    def finish(self) -> onnx.ModelProto:
        pooled = self.carry(self.net.mean(self.stream, "mean"), signed=self.negative, **self.grid, spread=1.5)
        model: onnx.ModelProto = self.net.qdq(self.net.gemm(self.net.flatten(pooled, "flat"), "head", 5))
        return model


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6))
def test_every_network_of_supported_operators_holds_the_contract(
    tiny_net: Any, tmp_path: Path, seed: int, steps: list[str]
) -> None:
    grown = RandomNet(tiny_net, seed)
    for step in steps:
        getattr(grown, step)()
    model = grown.finish()
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    batches = [grown.net.images(4), grown.net.images(4, saturating=True)]
    report = compare_runtime(path, batches, runtime_named("onnxruntime"), threads=1)
    assert report.exact, [(entry.tensor, entry.mismatches) for entry in report.tensors if entry.mismatches]
    assert not report.unwatched
    linted = lint(path, ONNXRUNTIME)
    assert linted.passed, linted.findings
    kinds = {node.rpartition("(")[2].rstrip(")") for node in linted.float_nodes}
    assert kinds <= {"HardSigmoid", "DequantizeLinear", "QuantizeLinear"}
