"""Tiny integer networks, made with ONNX alone: templates with markers, their placement, layers and grids."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.folding import BatchNormParams, IntegerLayer, fold
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.placement import ActQuantizer, LayerPlacement, Placement
from limpq_deploy.export.records.targets import target_named


@dataclass
class Tensor:
    """A tensor of the template: its name, channels, and the quantizer whose codes it carries."""

    name: str
    channels: int
    quantizer: str | None = None


class TinyNet:
    """Writes a template node by node. Weights, BatchNorms (half of the gammas negative) and scales are random."""

    def __init__(self, seed: int, target: str = "onnxruntime") -> None:
        self.random = np.random.default_rng(seed)
        self.target = target_named(target)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.quantizers: list[ActQuantizer] = []
        self.placed: list[LayerPlacement] = []
        self.layers: dict[str, IntegerLayer] = {}
        self.acts: dict[str, QuantParams] = {}
        self.input = Tensor("images", 3)
        self.dead = 0.0
        """Share of channels whose gamma is 0."""
        self.pow2 = False
        """Whether all scales are powers of two."""

    def constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in {tensor.name for tensor in self.initializers}:
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def quantize(
        self,
        source: Tensor,
        name: str,
        bits: int,
        *,
        signed: bool = False,
        offset: bool = False,
        bound: float | None = None,
        parent: str | None = None,
        spread: float = 3.0,
    ) -> Tensor:
        """A marker, and unless the re-quantizer would do nothing, its grid and scale."""
        known = [entry.name for entry in self.quantizers]
        edge = sum(node.op_type == "Quantizer" and node.output[0].startswith(f"{name}_q") for node in self.nodes)
        output = f"{name}_q{edge}"
        self.nodes.append(helper.make_node("Quantizer", [source.name], [output], domain="limpq", name=output))
        self.nodes[-1].attribute.append(helper.make_attribute("name", name))
        if name not in known:
            quantizer = ActQuantizer(
                name=name, tensor=source.name, signed=signed, bits=bits, parent=parent, offset=offset, bound=bound
            )
            self.quantizers.append(quantizer)
            if parent is None or bits < self.acts[parent].grid.bits:
                grid = self.target.act_grid(bits, signed=signed, offset=offset)
                scale = spread * (0.7 + 0.6 * self.random.random()) / grid.qmax
                scale = 2.0 ** round(np.log2(scale)) if self.pow2 else scale
                self.acts[name] = QuantParams(grid=grid, scale=(float(np.float32(scale)),))
        return Tensor(output, source.channels, name if name in self.acts else parent)

    def layer(self, source: Tensor, name: str, weight: NDArray[np.float64], bits: int, batchnorm: bool) -> list[str]:
        assert source.quantizer is not None
        grid = self.target.weight_grid(bits)
        weight_scale = float(np.abs(weight).max() / grid.qmax)
        channels = len(weight)
        column = (slice(None),) + (None,) * (weight.ndim - 1)
        statistics = BatchNormParams(
            gamma=self.random.uniform(0.5, 1.5, channels) * self.random.choice([-1.0, 1.0], channels),
            beta=self.random.normal(0, 0.3, channels),
            mean=self.random.normal(0, 0.3, channels),
            var=self.random.uniform(0.5, 1.5, channels),
            eps=1e-5,
        )
        if self.dead:
            statistics.gamma[self.random.random(channels) < self.dead] = 0.0
        steps = np.full(channels, weight_scale)
        powers: NDArray[np.float64] | None = None
        if self.pow2:
            factor = np.abs(statistics.gamma) / np.sqrt(statistics.var + statistics.eps) if batchnorm else steps * 0
            factor = np.where(factor > 0, factor, 1.0)
            powers = np.exp2(np.round(np.log2(weight_scale * factor)))
            steps = powers / factor
        codes = np.clip(np.rint(weight / steps[column]), grid.qmin, grid.qmax).astype(np.int64)
        folded = fold(
            name=name,
            codes=codes,
            grid=grid,
            weight_scale=weight_scale,
            input_scale=self.acts[source.quantizer].scale[0],
            bias=None if batchnorm else self.random.normal(0, 0.3, channels),
            batchnorm=statistics if batchnorm else None,
            powers=powers,
            input_grid=self.acts[source.quantizer].grid,
        )
        self.layers[name] = folded
        bias = folded.float_bias if self.target.bias == "float32" else folded.bias_codes * folded.bias_scale
        self.placed.append(
            LayerPlacement(
                name=name,
                kind="conv" if codes.ndim == 4 else "linear",
                input=source.quantizer,
                macs=codes.size,
                num_weights=codes.size,
                out_channels=channels,
                pinned_bits=bits,
            )
        )
        return [
            source.name,
            self.constant(f"{name}.weight", folded.codes * folded.scale[column]),
            self.constant(f"{name}.bias", bias.astype(np.float32)),
        ]

    def conv(
        self,
        source: Tensor,
        name: str,
        channels: int,
        *,
        bits: int = 8,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        relu: bool = True,
    ) -> Tensor:
        depth = source.channels // groups
        weight = self.random.normal(0, 1.0, (channels, depth, kernel, kernel)) / np.sqrt(depth * kernel**2)
        pad = dilation * (kernel // 2)
        self.node(
            "Conv",
            self.layer(source, name, weight, bits, batchnorm=True),
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
            dilations=[dilation, dilation],
        )
        return Tensor(self.node("Relu", [name], f"{name}_relu") if relu else name, channels)

    def gemm(self, source: Tensor, name: str, classes: int, *, bits: int = 8) -> Tensor:
        weight = self.random.normal(0, 1.0, (classes, source.channels)) / np.sqrt(source.channels)
        inputs = self.layer(source, name, weight, bits, batchnorm=False)
        return Tensor(self.node("Gemm", inputs, name, transB=1), classes)

    def add(self, first: Tensor, second: Tensor, name: str, *, relu: bool = True) -> Tensor:
        self.node("Add", [first.name, second.name], name)
        return Tensor(self.node("Relu", [name], f"{name}_relu") if relu else name, first.channels)

    def maxpool(self, source: Tensor, name: str) -> Tensor:
        self.node("MaxPool", [source.name], name, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        return Tensor(name, source.channels, source.quantizer)

    def option_a(self, source: Tensor, name: str, channels: int) -> Tensor:
        """Every second pixel, zeros for the new channels."""
        one = [
            self.constant(f"{name}_{key}", np.array([0, 0] if key == "starts" else values, np.int64))
            for key, values in (("starts", []), ("ends", [2**62, 2**62]), ("axes", [2, 3]), ("steps", [2, 2]))
        ]
        self.node("Slice", [source.name, *one], f"{name}_slice")
        new = (channels - source.channels) // 2
        pads = self.constant(f"{name}_pads", np.array([0, new, 0, 0, 0, new, 0, 0], np.int64))
        return Tensor(self.node("Pad", [f"{name}_slice", pads], f"{name}_pad"), channels, source.quantizer)

    def mean(self, source: Tensor, name: str) -> Tensor:
        return Tensor(self.node("GlobalAveragePool", [source.name], name), source.channels)

    def flatten(self, source: Tensor, name: str) -> Tensor:
        return Tensor(self.node("Flatten", [source.name], name, axis=1), source.channels, source.quantizer)

    @property
    def placement(self) -> Placement:
        return Placement(
            model="tiny",
            target=self.target.name,
            input_shape=(3, 8, 8),
            layers=tuple(self.placed),
            quantizers=tuple(self.quantizers),
        )

    def template(self, logits: Tensor, size: int = 8) -> onnx.ModelProto:
        last = self.nodes[-1]
        last.output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", logits.channels])],
            self.initializers,
        )
        opset = self.target.opset if self.target.exportable else 21
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("limpq", 1)]
        ir_version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)

    def qdq(self, logits: Tensor, size: int = 8) -> onnx.ModelProto:
        return build_qdq(self.template(logits, size), self.placement, self.layers, self.acts, {"model": "tiny"})

    def images(self, count: int, size: int = 8, *, saturating: bool = False) -> NDArray[np.float32]:
        """Random images; ``saturating`` ones lie far outside every grid."""
        values = self.random.normal(0, 100.0 if saturating else 1.0, (count, 3, size, size))
        return values.astype(np.float32)


def residual_net(
    seed: int,
    *,
    weight_bits: tuple[int, int, int] = (8, 4, 3),
    act_bits: tuple[int, int, int] = (8, 4, 3),
    signed_stream: bool = False,
    pow2: bool = False,
) -> tuple[TinyNet, Tensor]:
    """Everything at once: a stem with MaxPool, a block with identity and re-quantized reader, a strided block with
    an option-A shortcut, a global pool and a Gemm."""
    net = TinyNet(seed)
    net.pow2 = pow2
    w0, w1, w2 = weight_bits
    a0, a1, a2 = act_bits
    images = net.quantize(net.input, "images", 8, signed=True)
    stem = net.quantize(net.conv(images, "stem", 8, bits=w0), "stem.out", 8)
    stem = net.maxpool(stem, "stem.pool")
    inner = net.quantize(stem, "block1.in", a1, parent="stem.out")
    hidden = net.quantize(net.conv(inner, "block1.conv1", 8, bits=w1), "block1.mid", a0)
    branch = net.quantize(net.conv(hidden, "block1.conv2", 8, bits=w2, relu=False), "block1.branch", 8, signed=True)
    total = net.add(branch, stem, "block1.add", relu=not signed_stream)
    stream = net.quantize(total, "block1.out", 8, signed=signed_stream)
    inner = net.quantize(stream, "block2.in", a2, signed=signed_stream, parent="block1.out")
    shortcut = net.option_a(stream, "block2.shortcut", 16)
    branch = net.quantize(
        net.conv(inner, "block2.conv", 16, bits=w1, stride=2, relu=False), "block2.branch", 8, signed=True
    )
    stream = net.quantize(net.add(branch, shortcut, "block2.add"), "block2.out", 8)
    pooled = net.quantize(net.mean(stream, "pool"), "pool.out", 8, spread=1.5)
    return net, net.gemm(net.flatten(pooled, "flat"), "head", 10)


def tensorrt_net(
    seed: int,
    *,
    target: str = "tensorrt",
    weight_bits: tuple[int, int, int] = (8, 4, 3),
    act_bits: tuple[int, int, int] = (8, 4, 3),
    signed_stream: bool = False,
    pow2: bool = False,
) -> tuple[TinyNet, Tensor]:
    """The same blocks as `residual_net`, quantized on edges: in front of layers, and on the identity input of an
    Add. The second block's stream has its quantizer on two edges."""
    net = TinyNet(seed, target)
    net.pow2 = pow2
    w0, w1, w2 = weight_bits
    a0, a1, a2 = act_bits
    images = net.quantize(net.input, "images", 8, signed=True)
    stem = net.maxpool(net.conv(images, "stem", 8, bits=w0), "stem.pool")
    stem = net.quantize(stem, "stem.carrier", 8)
    inner = net.quantize(stem, "block1.in", a1, parent="stem.carrier", spread=1.5)
    hidden = net.conv(inner, "block1.conv1", 8, bits=w1)
    branch = net.conv(net.quantize(hidden, "block1.mid", a0, spread=1.5), "block1.conv2", 8, bits=w2, relu=False)
    stream = net.add(branch, stem, "block1.add", relu=not signed_stream)
    inner = net.quantize(stream, "block2.carrier", 8, signed=signed_stream)
    inner = net.quantize(inner, "block2.in", a2, signed=signed_stream, parent="block2.carrier", spread=1.5)
    branch = net.conv(inner, "block2.conv", 16, bits=w1, stride=2, relu=False)
    shortcut = net.option_a(stream, "block2.shortcut", 16)
    stream = net.add(branch, net.quantize(shortcut, "block2.carrier", 8, signed=signed_stream), "block2.add")
    flat = net.flatten(net.mean(stream, "pool"), "flat")
    return net, net.gemm(net.quantize(flat, "pool.out", 8, spread=1.5), "head", 10)


@pytest.fixture
def tiny_net() -> type[TinyNet]:
    return TinyNet


@pytest.fixture
def residual() -> Any:
    """The function `residual_net`: (seed, ...) -> (net, logits)."""
    return residual_net


@pytest.fixture
def edges() -> Any:
    """The function `tensorrt_net`: (seed, ...) -> (net, logits)."""
    return tensorrt_net


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Write a model to a file of its own: (model) -> path."""
    count = iter(range(1000))

    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / f"model{next(count)}.onnx"
        onnx.save(model, path)
        return path

    return save


@pytest.fixture(scope="session")
def searched_net() -> tuple[onnx.ModelProto, Placement]:
    """Template and placement of the residual net, its blocks' convolutions and what they read for a policy to
    decide."""
    net, logits = residual_net(0)
    reads = {"block1.conv1": "block1.in", "block1.conv2": "block1.mid", "block2.conv": "block2.in"}
    readers = {quantizer: layer for layer, quantizer in reads.items()}
    placement = net.placement
    return net.template(logits), replace(
        placement,
        layers=tuple(
            replace(layer, pinned_bits=None, input=reads[layer.name]) if layer.name in reads else layer
            for layer in placement.layers
        ),
        quantizers=tuple(
            replace(one, bits=None, layers=(readers[one.name],)) if one.name in readers else one
            for one in placement.quantizers
        ),
    )
