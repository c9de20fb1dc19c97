"""Q/DQ in the ONNX Runtime dialect, written into a float template.

A template is a float graph, BatchNorm folded, in which every activation quantizer of the `Placement` is a marker node
(domain ``limpq``, op ``Quantizer``, attribute ``name``). Each marker with a grid becomes

    QuantizeLinear -> (Clip on the codes, where the grid has fewer than 8 bits) -> codes -> DequantizeLinear

A marker that re-quantizes codes reads them through ``DequantizeLinear -> LeakyRelu(alpha = 1)``: that is the identity,
and ONNX Runtime turns the chain into one table of 256 entries (QLinearLeakyRelu); without the LeakyRelu the same codes
come out of two float nodes. MaxPool, Slice, Pad, Flatten and the like run on codes, between Clip and DequantizeLinear.
Weights are int8 with one scale per output channel, biases int32 at scale ``input scale * weight scale``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.params import QuantParams
from limpq_deploy.export.folding import IntegerLayer
from limpq_deploy.export.onnx_files import attribute, constants
from limpq_deploy.export.placement import Placement
from limpq_deploy.export.targets import TargetSpec

MARKER_DOMAIN, MARKER_OP = "limpq", "Quantizer"
LAYER_OPS = ("Conv", "Gemm")
CODE_MOVERS = ("MaxPool", "Flatten", "Reshape", "Slice", "Pad", "Identity", "Transpose", "Squeeze", "Unsqueeze")
"""Operators that move or choose values and therefore act on codes as they act on reals."""

IR_VERSION = 10


def is_marker(node: onnx.NodeProto) -> bool:
    """Whether the node marks the place of an activation quantizer."""
    return node.domain == MARKER_DOMAIN and node.op_type == MARKER_OP


def strip_markers(template: onnx.ModelProto) -> onnx.ModelProto:
    """The float model: the template without its quantizer markers."""
    model = onnx.ModelProto()
    model.CopyFrom(template)
    renamed: dict[str, str] = {}
    outputs = {output.name for output in model.graph.output}
    nodes = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        if not is_marker(node):
            nodes.append(node)
        elif node.output[0] in outputs:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.output[0]))
        else:
            renamed[node.output[0]] = node.input[0]
    _set_nodes(model, nodes)
    _set_opset(model, None)
    onnx.checker.check_model(model, full_check=True)
    return model


def build_qdq(
    template: onnx.ModelProto,
    placement: Placement,
    layers: Mapping[str, IntegerLayer],
    acts: Mapping[str, QuantParams],
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """The integer model as a Q/DQ graph. ``layers`` by layer name, ``acts`` by quantizer name.

    A re-quantizer without an entry in ``acts`` does nothing: its readers take the parent's codes. Raises ModelError
    when template, placement, layers and acts do not fit together, or when the target has another dialect.
    """
    spec = placement.spec
    if spec.clip != "integer" or spec.act_container != "uint8":
        raise ModelError(
            f"target {spec.name!r} needs another Q/DQ dialect than this version writes (uint8 codes, integer Clip); "
            "export for the target onnxruntime"
        )
    builder = _Builder(template, placement, layers, acts)
    model = builder.build()
    _set_opset(model, spec.opset)
    model.ir_version = IR_VERSION
    model.producer_name = "limpq-deploy"
    model.producer_version = ""
    model.doc_string = ""
    helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.checker.check_model(model, full_check=True)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codes:
    """A tensor that travels as codes: where they are, and the names of their scale and zero-point."""

    tensor: str
    scale: str
    zero_point: str
    params: QuantParams


class _Builder:
    """Walks the template once, in its order, and writes the integer graph."""

    def __init__(
        self,
        template: onnx.ModelProto,
        placement: Placement,
        layers: Mapping[str, IntegerLayer],
        acts: Mapping[str, QuantParams],
    ) -> None:
        self.template, self.placement, self.layers, self.acts = template, placement, layers, acts
        self.spec: TargetSpec = placement.spec
        self.fixed = constants(template.graph)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.codes: dict[str, _Codes] = {}
        self.dequantized: dict[str, str] = {}
        self.edges: dict[str, int] = {}
        self.done: set[str] = set()

    def build(self) -> onnx.ModelProto:
        for node in self.template.graph.node:
            if is_marker(node):
                self._marker(node)
            elif self._layer_of(node) is not None:
                self._layer(node)
            elif node.op_type in CODE_MOVERS and node.input[0] in self.codes:
                self._move(node)
            else:
                self._copy(node)
        self._require_all()
        outputs = {output.name for output in self.template.graph.output}
        for name in sorted(outputs & self.codes.keys()):
            self._add("Identity", [self._float(name)], name, name=f"{name}_identity")
        return self._model()

    def _marker(self, node: onnx.NodeProto) -> None:
        name = str(attribute(node, "name"))
        quantizer = next((entry for entry in self.placement.quantizers if entry.name == name), None)
        if quantizer is None:
            raise ModelError(f"the graph marks a quantizer {name!r} that the placement does not have; trace it again")
        source, result = node.input[0], node.output[0]
        params = self.acts.get(name)
        self.done.add(name)
        if params is None:
            if quantizer.parent is None or source not in self.codes:
                raise ModelError(f"quantizer {name!r} has no grid and scale, and there are no codes to pass on")
            self.codes[result] = self.codes[source]
            return
        if params.axis is not None:
            raise ModelError(f"quantizer {name!r} is per channel; activations take one scale per tensor")
        real = source
        edge = self.edges[name] = self.edges.get(name, 0) + 1
        suffix = "" if edge == 1 else f"_{edge}"
        if source in self.codes:
            real = self._add("LeakyRelu", [self._float(source)], f"{name}_table{suffix}", alpha=1.0)
        self.codes[result] = self._quantize(real, name, suffix, params)

    def _quantize(self, real: str, name: str, suffix: str, params: QuantParams) -> _Codes:
        grid = params.grid
        zero = self.spec.zero_point(signed=grid.signed)
        low, high = grid.qmin + zero, grid.qmax + zero
        scale = self._constant(f"{name}_scale", np.array(params.scale[0], np.float32))
        zero_point = self._constant(f"{name}_zero_point", np.array(zero, np.uint8))
        codes = f"{name}_codes{suffix}"
        if (low, high) == (0, 255):
            self._add("QuantizeLinear", [real, scale, zero_point], codes)
        else:
            wide = self._add("QuantizeLinear", [real, scale, zero_point], f"{name}_wide{suffix}")
            bounds = [
                self._constant(f"{name}_qmin", np.array(low, np.uint8)),
                self._constant(f"{name}_qmax", np.array(high, np.uint8)),
            ]
            self._add("Clip", [wide, *bounds], codes)
        return _Codes(tensor=codes, scale=scale, zero_point=zero_point, params=params)

    def _layer(self, node: onnx.NodeProto) -> None:
        name = self._layer_of(node) or ""
        layer = self.layers.get(name)
        if layer is None:
            raise ModelError(f"layer {name!r} is in the graph but has no integer weights; export it again")
        if node.input[0] not in self.codes:
            raise ModelError(f"layer {name!r} reads a tensor without a quantizer; its placement is incomplete")
        if len(node.input) < 3:
            raise ModelError(f"layer {name!r} has no bias in the template; export it with one (zeros will do)")
        self._check_layer(node, layer)
        weight = self._dequantized_constant(f"{name}.weight", layer.codes, layer.scale)
        bias = self._dequantized_constant(f"{name}.bias", layer.bias_codes, layer.bias_scale)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = name
        copy.input[:] = [self._float(node.input[0]), weight, bias]
        self.nodes.append(copy)
        self.done.add(f"layer {name}")

    def _check_layer(self, node: onnx.NodeProto, layer: IntegerLayer) -> None:
        expected = self.fixed[node.input[1]].shape
        if layer.codes.shape != expected:
            raise ModelError(f"layer {layer.name!r} has weight codes {layer.codes.shape}; the graph has {expected}")
        if node.op_type == "Gemm" and (
            not attribute(node, "transB", 0)
            or attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
        ):
            raise ModelError(f"layer {layer.name!r} is a Gemm with alpha, beta or transB = 0; expected x @ W.T + b")
        scale = np.float32(self.codes[node.input[0]].params.scale[0]) * layer.scale
        if not np.array_equal(scale.astype(np.float32), layer.bias_scale):
            raise ModelError(
                f"layer {layer.name!r} has a bias scale that is not input scale * weight scale; fold it again with the "
                "scale of the quantizer that it reads"
            )

    def _move(self, node: onnx.NodeProto) -> None:
        codes = self.codes[node.input[0]]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0] = codes.tensor
        copy.name = self._unique_name(node)
        if node.op_type == "Pad":
            value = self.fixed.get(node.input[2], None) if len(node.input) > 2 and node.input[2] else np.zeros(())
            if (
                value is None
                or np.any(value)
                or attribute(node, "mode", "constant") not in ("constant", "edge", "reflect")
            ):
                raise ModelError(f"node {node.name!r} pads with something else than zero; only zero has a code")
            if attribute(node, "mode", "constant") == "constant":
                rest = list(node.input[3:])
                copy.input[:] = [codes.tensor, node.input[1], codes.zero_point, *rest]
        self.nodes.append(copy)
        self.codes[node.output[0]] = _Codes(
            tensor=node.output[0], scale=codes.scale, zero_point=codes.zero_point, params=codes.params
        )

    def _copy(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = self._unique_name(node)
        copy.input[:] = [self._float(name) for name in node.input]
        self.nodes.append(copy)

    def _float(self, tensor: str) -> str:
        """Name of the tensor as reals: itself, or one DequantizeLinear for all readers of its codes."""
        codes = self.codes.get(tensor)
        if codes is None:
            return tensor
        if codes.tensor not in self.dequantized:
            stem = codes.tensor.removesuffix("_codes")
            self.dequantized[codes.tensor] = self._add(
                "DequantizeLinear", [codes.tensor, codes.scale, codes.zero_point], f"{stem}_dequantized"
            )
        return self.dequantized[codes.tensor]

    def _dequantized_constant(self, name: str, codes: NDArray[Any], scale: NDArray[np.float32]) -> str:
        inputs = [self._constant(f"{name}_codes", codes), self._constant(f"{name}_scale", scale)]
        if codes.dtype == np.int8:  # without it ONNX Runtime leaves a Gemm in floats (seen in 1.31.1)
            inputs.append(self._constant(f"{name}_zero_point", np.zeros(scale.shape, np.int8)))
        return self._add("DequantizeLinear", inputs, f"{name}_dequantized", axis=0)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.initializers.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def _add(self, op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output

    def _layer_of(self, node: onnx.NodeProto) -> str | None:
        if node.op_type not in LAYER_OPS or len(node.input) < 2 or node.input[1] not in self.fixed:
            return None
        return node.input[1].removesuffix(".weight")

    def _unique_name(self, node: onnx.NodeProto) -> str:
        taken = {other.name for other in self.nodes} | self.layers.keys()
        return node.name if node.name and node.name not in taken else f"{node.output[0]}_{node.op_type.lower()}"

    def _require_all(self) -> None:
        wanted = [quantizer.name for quantizer in self.placement.quantizers if quantizer.name in self.acts]
        wanted += [f"layer {layer.name}" for layer in self.placement.layers]
        missing = [name for name in wanted if name not in self.done]
        if missing:
            raise ModelError(f"the graph lacks {', '.join(missing)} of the placement; trace model and placement again")

    def _model(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.template)
        del model.graph.value_info[:], model.functions[:], model.metadata_props[:]
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, *self.initializers.values()])
        _set_nodes(model, self.nodes)
        return model


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.metadata_props[:]
        copy.doc_string = ""
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _set_opset(model: onnx.ModelProto, version: int | None) -> None:
    kept = [entry for entry in model.opset_import if entry.domain != MARKER_DOMAIN]
    for entry in kept:
        if entry.domain == "" and version is not None and entry.version != version:
            raise ModelError(f"the template has opset {entry.version}; the target takes {version}")
    copies = [helper.make_opsetid(entry.domain, entry.version) for entry in kept]
    del model.opset_import[:]
    model.opset_import.extend(copies)
