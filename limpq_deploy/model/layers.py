"""A model traced once: which layers there are, what they cost, and which tensor each of them reads.

Shapes: images NCHW; MACs are counted from output shapes, for one image.
"""

import copy
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional as F

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.blockers import Blockers
from limpq_deploy.model.canonical import canonicalise
from limpq_deploy.model.functional_layers import make_modules
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.operations import Kind, operation, relu_bounds
from limpq_deploy.model.out_of_place import write_out_of_place
from limpq_deploy.model.shapes import note_shapes
from limpq_deploy.model.tied import require_untied
from limpq_deploy.model.tracing import symbolic_trace

Lowest = Literal["zero", "near", "free"]
"""Negative values of a tensor: none; few and small beside the positive ones, as behind a SiLU; any."""


FOLDED: tuple[Kind, ...] = ("layer", "batchnorm")
"""Kinds whose parameters are rewritten when a BatchNorm is folded: each call needs its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """``macs`` for one image; ``num_weights`` without the bias."""

    name: str
    kind: Literal["conv", "linear"]
    macs: int
    num_weights: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """A layer that can be quantized. ``source``: graph node that makes the float tensor it reads (through ``through``
    nodes such as MaxPool or Flatten, which act on codes). ``batchnorm``: module that follows it, to be folded."""

    name: str
    kind: Literal["conv", "linear"]
    source: str
    macs: int
    num_weights: int
    out_channels: int
    batchnorm: str | None


@dataclass(frozen=True)
class TracedModel:
    """A traced float model in evaluation mode. ``kinds`` by node name; ``layers`` in execution order."""

    graph_module: fx.GraphModule
    kinds: dict[str, Kind]
    layers: tuple[LayerSpec, ...]
    input_shape: tuple[int, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> "TracedModel":
        """Modules and graph are copied; what was looked up of the old nodes is not (and would recurse along them)."""
        return TracedModel(copy.deepcopy(self.graph_module, memo), dict(self.kinds), self.layers, self.input_shape)

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """By name, in execution order."""
        return {node.name: node for node in self.graph_module.graph.nodes}

    def node(self, name: str) -> fx.Node:
        return self.nodes[name]

    @property
    def outputs(self) -> int:
        """How many logits the model gives. Raises ModelError where its result is no [N, classes]."""
        node = next(reversed(self.graph_module.graph.nodes)).all_input_nodes[0]
        shape = tuple(node.meta["tensor_meta"].shape)
        if len(shape) != 2:
            raise ModelError(
                f"the model gives a tensor of shape {list(shape)} for one image{written_at(node)}; expected logits "
                "[1, classes]: flatten them in the forward"
            )
        return int(shape[1])

    def source(self, node: fx.Node) -> fx.Node:
        """The node that makes this float tensor, behind nodes that only move its elements."""
        while self.kinds[node.name] == "through":
            node = tensor_inputs(node, self.kinds)[0]
        return node

    def lowest(self, node: fx.Node) -> Lowest:
        """What negative values this tensor has, by construction."""
        return self._lowest[node.name]

    @cached_property
    def _lowest(self) -> dict[str, Lowest]:
        """Of every tensor; each looks at those before it once."""
        found: dict[str, Lowest] = {}
        for node in self.nodes.values():
            if self.kinds[node.name] != "shape":
                found[node.name] = self._lowest_of(node, found)
        return found

    def _lowest_of(self, node: fx.Node, known: dict[str, Lowest]) -> Lowest:
        kind, before = self.kinds[node.name], tensor_inputs(node, self.kinds)
        if kind in ("relu", "gate"):
            return "zero"
        if kind == "mul":
            gates = [tensor for tensor in before if self.kinds[self.source(tensor).name] == "gate"]
            before = [tensor for tensor in before if tensor not in gates] or before
            if any(gate.all_input_nodes[0] in before for gate in gates):
                return "near"
        found = {known[tensor.name] for tensor in before}
        if kind in ("through", "pool", "concat") or (kind == "mul" and len(before) == 1):
            return next(lowest for lowest in ("free", "near", "zero") if lowest in found)
        return "zero" if kind in ("add", "mul") and found == {"zero"} else "free"

    def bound(self, node: fx.Node) -> float | None:
        """Upper bound of a tensor's values that its own operation cuts at (ReLU6); None where it has none."""
        return relu_bounds(node, self.graph_module)[1] if self.kinds[node.name] == "relu" else None


def trace(model: nn.Module, input_shape: tuple[int, ...]) -> TracedModel:
    """Trace a model for one image of ``input_shape`` (C, H, W).

    Raises ModelError when the model cannot be traced, when a layer on the path has no integer form here, or when the
    graph has a shape that the exporter cannot fold; the sentence names the layer.
    """
    return assembled(*prepared(model, input_shape))


def prepared(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[fx.GraphModule, set[str]]:
    """The traced graph in few operations, shapes noted, and the names of its global pools; `assembled` makes a
    TracedModel of them. Raises ModelError where the model cannot be traced."""
    was_training = model.training
    model.eval()
    try:
        graph_module = symbolic_trace(model, input_shape)
        write_out_of_place(graph_module, input_shape)
        make_modules(graph_module)
        canonicalise(graph_module)
        global_pools = note_shapes(graph_module, input_shape)
    finally:
        model.train(was_training)
    graph_module.graph.eliminate_dead_code()
    return graph_module, global_pools


def assembled(graph_module: fx.GraphModule, global_pools: set[str]) -> TracedModel:
    """What each node of a prepared graph is. Raises Blocked with everything that stops it."""
    blockers = Blockers()
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    with blockers.noting(inputs[0], str(inputs[0].target)):
        _require_images_alone(inputs)
    kinds = _kinds(graph_module, global_pools, blockers)
    layers = [node for node in graph_module.graph.nodes if kinds.get(node.name) == "layer"]
    if not any(_is_layer(node, graph_module) for node in graph_module.graph.nodes):
        blockers.add("the model has no Conv2d or Linear layer; there is nothing to quantize")
    folded = Counter(str(node.target) for node in graph_module.graph.nodes if kinds.get(node.name) in FOLDED)
    for name, calls in folded.items():
        if calls > 1:
            blockers.add(f"layer {name!r} is called {calls} times; each call needs a module of its own")
    blockers.raise_found()
    require_untied({name: graph_module.get_submodule(name) for name in folded})
    traced = TracedModel(graph_module, kinds, (), tuple(inputs[0].meta["tensor_meta"].shape[1:]))
    return replace(traced, layers=tuple(_layer(node, traced) for node in layers))


def _require_images_alone(inputs: list[fx.Node]) -> None:
    names = [str(node.target) for node in inputs]
    if len(names) > 1:
        raise ModelError(
            f"the model takes {len(names)} tensors ({', '.join(names)}); expected one, the images: give the others "
            "defaults, or write a module that makes them"
        )


def tensor_inputs(node: fx.Node, kinds: dict[str, Kind]) -> list[fx.Node]:
    """The tensors that a node reads, in argument order."""
    return [before for before in node.all_input_nodes if kinds[before.name] != "shape"]


def _kinds(graph_module: fx.GraphModule, global_pools: set[str], blockers: Blockers) -> dict[str, Kind]:
    """Of all nodes by name, but of those that ``blockers`` note."""
    kinds: dict[str, Kind] = {}
    for node in graph_module.graph.nodes:
        with blockers.noting(node, operation(node, graph_module)[1]):
            kinds[node.name] = _kind(node, graph_module, global_pools)
    return kinds


def _kind(node: fx.Node, graph_module: fx.GraphModule, global_pools: set[str]) -> Kind:
    if node.op == "placeholder":
        return "input"
    if node.op == "output":
        if not isinstance(node.args[0], fx.Node):
            result = type(node.args[0]).__name__.removeprefix("immutable_")  # torch.fx's dict and list
            raise ModelError(f"the model returns a {result} in evaluation mode; expected one tensor, the logits")
        return "output"
    kind, described = operation(node, graph_module)
    shown = node.meta.get("tensor_meta")
    if isinstance(shown, tuple | list) and any(isinstance(one, TensorMetadata) for one in shown):
        raise ModelError(
            f"{described}{written_at(node)} gives {len(shown)} tensors at once, which has no integer form here; take "
            "each as a slice, as in x[:, :8]"
        )
    if not isinstance(shown, TensorMetadata):
        return "shape"
    if node.op == "get_attr":
        raise ModelError(
            f"the model's own tensor {str(node.target)!r} is used by itself{written_at(node)}, which has no integer "
            "form here; expected parameters and buffers in the layers of torch.nn that they belong to"
        )
    if kind is None:
        raise ModelError(f"layer {described} has no integer form here{written_at(node)}")
    described += written_at(node)
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        raise ModelError(f"layer {described} pads with {module.padding_mode!r}; only zero padding is supported")
    if kind == "pool" and node.name not in global_pools:
        shape = "x".join(map(str, node.meta["tensor_meta"].shape[2:])) or "vectors"
        raise ModelError(
            f"{described} pools to {shape}; only global average pools (1x1, over all pixels) are supported"
        )
    if kind == "batchnorm":
        _require_foldable(node, described, graph_module)
    if node.target is F.pad:
        _require_zeros(node, described)
    if kind == "relu" and relu_bounds(node, graph_module)[0] != 0:
        raise ModelError(f"{described} cuts at {relu_bounds(node, graph_module)[0]:g}; only a cut at 0 is supported")
    if kind == "add":
        _require_sum(node, described)
    if kind == "mul":
        _require_product(node, described)
    if kind == "concat" and _dim(node) == 0:
        raise ModelError(f"{described} concatenates images; only tensors of one image can be concatenated")
    return kind


def _require_foldable(node: fx.Node, described: str, graph_module: fx.GraphModule) -> None:
    if not _is_layer(node.all_input_nodes[0], graph_module):
        raise ModelError(f"layer {described} does not follow a convolution; such a BatchNorm cannot be folded")
    norm = graph_module.get_submodule(str(node.target))
    if not (norm.affine and norm.track_running_stats):
        raise ModelError(
            f"layer {described} has affine={norm.affine} and track_running_stats={norm.track_running_stats}; "
            "expected both, so that it can be folded"
        )


def _require_zeros(node: fx.Node, described: str) -> None:
    """Of a call of ``F.pad(input, pad, mode="constant", value=None)``."""
    given = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
    mode, value = given.get("mode", "constant"), given.get("value") or 0
    if mode != "constant" or value != 0:
        how = repr(mode) if mode != "constant" else f"the value {value}"
        raise ModelError(f"{described} pads with {how}; only zero padding is supported")


def _require_sum(node: fx.Node, described: str) -> None:
    addends = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]
    if len(addends) != 2:
        raise ModelError(f"{described} adds a constant; only sums of two tensors are supported")
    if node.kwargs.get("alpha", 1) != 1:
        raise ModelError(f"{described} adds {node.kwargs['alpha']} times a tensor; only plain sums are supported")
    shapes = [tuple(value.meta["tensor_meta"].shape[1:]) for value in addends if "tensor_meta" in value.meta]
    if len(set(shapes)) != 1:
        shown = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise ModelError(f"{described} adds tensors of {shown}; only sums of tensors of one shape are supported")


def _require_product(node: fx.Node, described: str) -> None:
    """Two tensors of one shape, or one of them a number for each channel."""
    factors = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]
    if len(factors) != 2:
        raise ModelError(f"{described} multiplies by a constant; put it into the weights of a layer")
    shapes = [tuple(value.meta["tensor_meta"].shape[1:]) for value in factors if "tensor_meta" in value.meta]
    whole = max(shapes)
    if len(shapes) != 2 or any(shape not in (whole, (whole[0],) + (1,) * (len(whole) - 1)) for shape in shapes):
        shown = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise ModelError(
            f"{described} multiplies tensors of {shown}; expected one shape, or one number for each channel"
        )


def _dim(node: fx.Node) -> int:
    """Axis of a concatenation, from 0."""
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    assert isinstance(given, int)
    return given % len(node.meta["tensor_meta"].shape)


def _is_layer(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    return node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), nn.Conv2d | nn.Linear)


def layer_costs(graph_module: fx.GraphModule) -> tuple[LayerCost, ...]:
    """Of every layer of a prepared graph, in execution order, whatever else is in it."""
    return tuple(_cost(node, graph_module) for node in graph_module.graph.nodes if _is_layer(node, graph_module))


def _cost(node: fx.Node, graph_module: fx.GraphModule) -> LayerCost:
    module = graph_module.get_submodule(str(node.target))
    output, weight = node.meta["tensor_meta"].shape, module.weight
    assert isinstance(weight, torch.Tensor)
    positions = int(torch.Size(output[1:]).numel()) // weight.shape[0]
    return LayerCost(
        name=str(node.target),
        kind="conv" if isinstance(module, nn.Conv2d) else "linear",
        macs=positions * weight.numel(),
        num_weights=weight.numel(),
    )


def _layer(node: fx.Node, traced: TracedModel) -> LayerSpec:
    cost = _cost(node, traced.graph_module)
    return LayerSpec(
        name=cost.name,
        kind=cost.kind,
        source=traced.source(tensor_inputs(node, traced.kinds)[0]).name,
        macs=cost.macs,
        num_weights=cost.num_weights,
        out_channels=traced.graph_module.get_submodule(cost.name).weight.shape[0],  # type: ignore[index, arg-type]
        batchnorm=_batchnorm_after(node, traced),
    )


def _batchnorm_after(node: fx.Node, traced: TracedModel) -> str | None:
    followers = [user for user in node.users if traced.kinds[user.name] == "batchnorm"]
    if not followers:
        return None
    if len(node.users) > 1:
        raise ModelError(f"layer {node.target!r} feeds a BatchNorm and something else; its BatchNorm cannot be folded")
    return str(followers[0].target)
