"""What all Q/DQ dialects share: one walk over the template, its checks, and the graph that comes out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.fp8_layers import Fp8Layer
from limpq_deploy.export.graph.markers import MARKER_DOMAIN, is_marker, marker_name
from limpq_deploy.export.graph.onnx_files import attribute, constants, copied_fields
from limpq_deploy.export.records.placement import ActQuantizer, Placement
from limpq_deploy.export.records.targets import FileForm, TargetSpec

AnyLayer = IntegerLayer | FloatLayer | Fp8Layer
Layers = Mapping[str, AnyLayer]
"""What a graph's layers compute with, by name."""

LAYER_OPS = ("Conv", "Gemm")
CODE_MOVERS = (
    *("MaxPool", "Flatten", "Reshape", "Slice", "Pad", "Identity", "Transpose", "Squeeze", "Unsqueeze"),
    *("Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
)
"""Operators that move or choose values and therefore act on codes as they act on reals."""


class Dialect(ABC):
    """Walks the template once, in its order, and writes the target's graph. A dialect says what a quantizer and a
    layer's constants look like."""

    def __init__(
        self,
        template: onnx.ModelProto,
        placement: Placement,
        layers: Layers,
        acts: Mapping[str, QuantParams],
        form: FileForm,
    ) -> None:
        self.template, self.placement, self.layers, self.acts, self.form = template, placement, layers, acts, form
        self.spec: TargetSpec = placement.spec
        self.fixed = constants(template.graph)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.edges: dict[str, int] = {}
        self.done: set[str] = set()

    def build(self) -> onnx.ModelProto:
        """The graph. Raises ModelError when template, placement, layers and acts do not fit together."""
        for node in self.template.graph.node:
            name = self._layer_of(node)
            if is_marker(node):
                self._marker(node)
            elif name is not None:
                self._layer(node, name)
            elif self._is_bounded_relu(node):
                self.bounded_relu(node)
            elif self._moves(node) and self.params_of(node.input[0]) is not None:
                self.move(node)
            else:
                self.other(node)
        self._require_all()
        self.finish()
        return self._model()

    @abstractmethod
    def quantize(self, source: str, result: str, name: str, suffix: str, params: QuantParams) -> None:
        """Write the quantizer ``name`` between template tensors; ``suffix`` tells its second and later edges apart."""

    @abstractmethod
    def pass_on(self, source: str, result: str, quantizer: ActQuantizer) -> None:
        """A marker without a grid: hand on the parent's codes; the reals, where only float layers read them; else raise
        ModelError."""

    @abstractmethod
    def layer_constants(self, layer: IntegerLayer | Fp8Layer) -> tuple[str, str]:
        """Write a layer's weight and bias; the names of the float tensors that its node reads."""

    @abstractmethod
    def float_constants(self, layer: FloatLayer) -> tuple[str, str]:
        """The same of a layer that computes in float."""

    @abstractmethod
    def move(self, node: onnx.NodeProto) -> None:
        """A node that moves the elements of a quantized tensor."""

    @abstractmethod
    def params_of(self, tensor: str) -> QuantParams | None:
        """Grid and scale of a template tensor's values; None where it is not quantized."""

    @abstractmethod
    def real(self, tensor: str) -> str:
        """The tensor of the written graph that holds a template tensor as reals."""

    def bounded_relu(self, node: onnx.NodeProto) -> None:
        """A ReLU6, which the template has as a Clip of reals between 0 and its bound."""
        self.other(node)

    def other(self, node: onnx.NodeProto) -> None:
        """Any other node: it works on reals."""
        self.copy(node, [self.real(tensor) for tensor in node.input])

    def layer_input(self, node: onnx.NodeProto, layer: AnyLayer) -> str:
        """The written tensor of reals that a layer's node reads."""
        return self.real(node.input[0])

    def only_floats_read(self, quantizer: ActQuantizer) -> bool:
        """Whether all layers that decide about a tensor compute in float, or nothing is quantized at all."""
        if self.placement.weights_only:
            return True
        deciding = self.placement.deciding(quantizer)
        return bool(deciding) and all(isinstance(self.layers.get(name), FloatLayer) for name in deciding)

    def finish(self) -> None:
        """Write what is left when all nodes are done."""
        return

    def _marker(self, node: onnx.NodeProto) -> None:
        name = marker_name(node)
        quantizer = next((entry for entry in self.placement.quantizers if entry.name == name), None)
        if quantizer is None:
            raise ModelError(f"the graph marks a quantizer {name!r} that the placement does not have; trace it again")
        params = self.acts.get(name)
        self.done.add(name)
        if params is None:
            self.pass_on(node.input[0], node.output[0], quantizer)
            return
        if params.axis is not None:
            raise ModelError(f"quantizer {name!r} is per channel; activations take one scale per tensor")
        edge = self.edges[name] = self.edges.get(name, 0) + 1
        self.quantize(node.input[0], node.output[0], name, "" if edge == 1 else f"_{edge}", params)

    def _layer(self, node: onnx.NodeProto, name: str) -> None:
        layer = self.layers.get(name)
        if layer is None:
            raise ModelError(f"layer {name!r} is in the graph but has no integer weights; export it again")
        if len(node.input) < 3:
            raise ModelError(f"layer {name!r} has no bias in the template; export it with one (zeros will do)")
        self._check_form(node, layer)
        if isinstance(layer, FloatLayer):
            weight, bias = self.float_constants(layer)
        else:
            params = self.params_of(node.input[0])
            if params is None:
                raise ModelError(f"layer {name!r} reads a tensor without a quantizer; its placement is incomplete")
            if params.grid.fp8 != isinstance(layer, Fp8Layer):
                raise ModelError(
                    f"layer {name!r} has weights and reads codes of different kinds, FP8 and integers; give it one "
                    "format"
                )
            self._check_scale(layer, params)
            weight, bias = self.layer_constants(layer)
        self.copy(node, [self.layer_input(node, layer), weight, bias], name)
        self.done.add(f"layer {name}")

    def _check_form(self, node: onnx.NodeProto, layer: AnyLayer) -> None:
        expected = self.fixed[node.input[1]].shape
        found = layer.weight.shape if isinstance(layer, FloatLayer) else layer.codes.shape
        if found != expected:
            raise ModelError(f"layer {layer.name!r} has weight codes {found}; the graph has {expected}")
        if node.op_type == "Gemm" and (
            not attribute(node, "transB", 0)
            or attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
        ):
            raise ModelError(f"layer {layer.name!r} is a Gemm with alpha, beta or transB = 0; expected x @ W.T + b")

    def _check_scale(self, layer: IntegerLayer | Fp8Layer, params: QuantParams) -> None:
        scale = np.float32(params.scale[0]) * layer.scale
        if not np.array_equal(scale.astype(np.float32), layer.bias_scale):
            raise ModelError(
                f"layer {layer.name!r} has a bias scale that is not input scale * weight scale; fold it again with the "
                "scale of the quantizer that it reads"
            )

    def copy(self, node: onnx.NodeProto, inputs: list[str], name: str | None = None) -> None:
        """The template's node with other inputs; ``name`` None keeps its own, where that is free."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = self.unique_name(node) if name is None else name
        copy.input[:] = inputs
        self.nodes.append(copy)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """An initializer, written once."""
        self.initializers.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        """A new node; the name of its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output

    def _layer_of(self, node: onnx.NodeProto) -> str | None:
        if node.op_type not in LAYER_OPS or len(node.input) < 2 or node.input[1] not in self.fixed:
            return None
        name = node.input[1].removesuffix(".weight")
        planned = self.placement.float_operators and name not in {layer.name for layer in self.placement.layers}
        return None if planned else name

    def unique_name(self, node: onnx.NodeProto) -> str:
        taken = {other.name for other in self.nodes} | self.layers.keys()
        return node.name if node.name and node.name not in taken else f"{node.output[0]}_{node.op_type.lower()}"

    def _moves(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Pad":
            return self._pads_codes(node)
        nearest = node.op_type == "Resize" and attribute(node, "mode", "nearest") == "nearest"
        return node.op_type in CODE_MOVERS or nearest

    def _pads_codes(self, node: onnx.NodeProto) -> bool:
        """Whether a Pad adds values that the tensor has, or zeros, which alone have a code."""
        mode = attribute(node, "mode", "constant")
        value = self.fixed.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
        zeros = value is not None and not np.any(value)
        return mode in ("edge", "reflect") or (mode == "constant" and zeros)

    def _is_bounded_relu(self, node: onnx.NodeProto) -> bool:
        bounds = [self.fixed.get(name) for name in node.input[1:]]
        return node.op_type == "Clip" and bounds[0] is not None and not np.any(bounds[0])

    def _require_all(self) -> None:
        wanted = [quantizer.name for quantizer in self.placement.quantizers if quantizer.name in self.acts]
        wanted += [f"layer {layer.name}" for layer in self.placement.layers]
        missing = [name for name in wanted if name not in self.done]
        if missing:
            raise ModelError(f"the graph lacks {', '.join(missing)} of the placement; trace model and placement again")

    def _model(self) -> onnx.ModelProto:
        model, graph = onnx.ModelProto(), self.template.graph
        copied_fields(self.template, model, without=("graph", "functions", "metadata_props"))
        copied_fields(graph, model.graph, without=("node", "initializer", "value_info"))
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used and tensor.name not in self.initializers]
        model.graph.initializer.extend([*kept, *self.initializers.values()])
        set_nodes(model, self.nodes)
        return model


def set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace a model's nodes by copies of these, without the exporter's notes."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.metadata_props[:]
        copy.doc_string = ""
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def drop_marker_domain(model: onnx.ModelProto) -> None:
    """Forget the markers' operator set, once no marker is left."""
    kept = [
        helper.make_opsetid(entry.domain, entry.version)
        for entry in model.opset_import
        if entry.domain != MARKER_DOMAIN
    ]
    del model.opset_import[:]
    model.opset_import.extend(kept)
