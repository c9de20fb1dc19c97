"""A model traced once: which layers there are, what they cost, and which tensor each of them reads.

Shapes: images NCHW; MACs are counted from output shapes, for one image.
"""

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional as F

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.average_pools import is_windows
from limpq_deploy.model.blockers import Blockers
from limpq_deploy.model.canonical import canonicalise
from limpq_deploy.model.constants import take_up
from limpq_deploy.model.convolutions_per_image import write_products
from limpq_deploy.model.functional_layers import make_modules
from limpq_deploy.model.functions import is_function, lowest_of
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.lone_batchnorms import give_layers, scales
from limpq_deploy.model.node_names import rename_reserved
from limpq_deploy.model.operations import Kind, Lowest, float_result, operation, relu_bounds
from limpq_deploy.model.out_of_place import write_out_of_place
from limpq_deploy.model.paddings import call_pads
from limpq_deploy.model.separate_calls import separate_calls
from limpq_deploy.model.shapes import note_shapes
from limpq_deploy.model.successive_means import join_means
from limpq_deploy.model.tied import name_apart, require_untied
from limpq_deploy.model.token_layers import read_rows
from limpq_deploy.model.tracing import symbolic_trace, takes_several
from limpq_deploy.model.transposed_convolutions import write_convolutions

NO_TENSOR: tuple[Kind, ...] = ("shape", "constant")
"""Kinds of nodes whose results do not depend on the values of images."""

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
    nodes such as MaxPool or Flatten, which act on codes). ``batchnorm``: module that follows it, to be folded;
    ``scales``: the layer is there for the BatchNorm's sake alone."""

    name: str
    kind: Literal["conv", "linear"]
    source: str
    macs: int
    num_weights: int
    out_channels: int
    batchnorm: str | None
    scales: bool = False


@dataclass(frozen=True)
class TracedModel:
    """A traced float model in evaluation mode. ``kinds`` by node name; ``layers`` in execution order; ``reasons``: why
    each node of kind ``float`` has no integer form, a sentence with the user's line."""

    graph_module: fx.GraphModule
    kinds: dict[str, Kind]
    layers: tuple[LayerSpec, ...]
    input_shape: tuple[int, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TracedModel":
        """Modules and graph are copied; what was looked up of the old nodes is not (and would recurse along them)."""
        return TracedModel(
            copy.deepcopy(self.graph_module, memo), dict(self.kinds), self.layers, self.input_shape, self.reasons
        )

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """By name, in execution order."""
        return {node.name: node for node in self.graph_module.graph.nodes}

    def node(self, name: str) -> fx.Node:
        return self.nodes[name]

    @property
    def outputs(self) -> int:
        """How many logits the model gives. Raises ModelError where its result is no [N, classes]."""
        given = next(reversed(self.graph_module.graph.nodes)).args[0]
        if not isinstance(given, fx.Node):
            result = type(given).__name__.removeprefix("immutable_")  # torch.fx's dict and list
            raise ModelError(f"the model returns a {result} in evaluation mode; expected one tensor, the logits")
        node = given
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
            if self.kinds[node.name] not in NO_TENSOR:
                found[node.name] = self._lowest_of(node, found)
        return found

    def _lowest_of(self, node: fx.Node, known: dict[str, Lowest]) -> Lowest:
        kind, before = self.kinds[node.name], tensor_inputs(node, self.kinds)
        if kind in ("relu", "gate"):
            return "zero"
        if kind == "function":
            return lowest_of(node, self.graph_module)
        if kind == "float":
            passed, own = float_result(node, self.graph_module)
            if own is not None or passed is None:
                return own or "free"
            kind = passed
        if kind == "mul":
            gates = [tensor for tensor in before if self.kinds[self.source(tensor).name] == "gate"]
            before = [tensor for tensor in before if tensor not in gates] or before
            if any(gate.all_input_nodes[0] in before for gate in gates):
                return "near"
        found = {known[tensor.name] for tensor in before}
        if found and (kind in ("through", "pool", "concat") or (kind == "mul" and len(before) == 1)):
            return next(lowest for lowest in ("free", "near", "zero") if lowest in found)
        return "zero" if kind in ("add", "mul") and found == {"zero"} else "free"

    def bound(self, node: fx.Node) -> float | None:
        """Upper bound of a tensor's values that its own operation cuts at (ReLU6); None where it has none."""
        is_relu = operation(node, self.graph_module)[0] == "relu"
        return relu_bounds(node, self.graph_module)[1] if is_relu else None


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
        graph_module = written_graph(model, input_shape)
        make_modules(graph_module)
        call_pads(graph_module)
        canonicalise(graph_module)
        join_means(graph_module)
        write_products(graph_module, input_shape)
        rename_reserved(graph_module)
        global_pools = note_shapes(graph_module, input_shape)
        write_convolutions(graph_module)
        read_rows(graph_module)
        take_up(graph_module)
        give_layers(graph_module)
    finally:
        model.train(was_training)
    graph_module.graph.eliminate_dead_code()
    return graph_module, global_pools


def written_graph(model: nn.Module, input_shape: tuple[int, ...]) -> fx.GraphModule:
    """What a model in evaluation mode computes, out of place, with its own parameters and no others."""
    graph_module = symbolic_trace(model, input_shape)
    write_out_of_place(graph_module, input_shape)
    return graph_module


def assembled(graph_module: fx.GraphModule, global_pools: set[str]) -> TracedModel:
    """What each node of a prepared graph is. Raises Blocked with everything that stops it."""
    blockers = Blockers()
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    with blockers.noting(inputs[0], str(inputs[0].target)):
        _require_images_alone(inputs)
    kinds, reasons = _kinds(graph_module, global_pools)
    layers = [node for node in graph_module.graph.nodes if kinds[node.name] == "layer"]
    if not any(is_layer(node, graph_module) for node in graph_module.graph.nodes):
        blockers.add("the model has no Conv2d or Linear layer; there is nothing to quantize")
    elif not layers:
        for node in graph_module.graph.nodes:
            if is_layer(node, graph_module):
                with blockers.noting(node, operation(node, graph_module)[1]):
                    why = reasons.get(node.name, f"layer {node.target}{written_at(node)} reads nothing of the images")
                    raise ModelError(f"{why}, and no other layer can be quantized")
    blockers.raise_found()
    folded = [node for node in graph_module.graph.nodes if kinds[node.name] in FOLDED]
    unread = [node for node in graph_module.graph.nodes if kinds[node.name] == "constant"]
    separate_calls(graph_module, [*folded, *(node for node in unread if is_layer(node, graph_module))])
    modules = {str(node.target): graph_module.get_submodule(str(node.target)) for node in folded}
    require_untied(modules)
    name_apart(graph_module, modules)
    traced = TracedModel(graph_module, kinds, (), tuple(inputs[0].meta["tensor_meta"].shape[1:]), reasons)
    return replace(traced, layers=tuple(_layer(node, traced) for node in layers))


def _require_images_alone(inputs: list[fx.Node]) -> None:
    if len(inputs) > 1:
        raise takes_several([str(node.target) for node in inputs])


def tensor_inputs(node: fx.Node, kinds: dict[str, Kind]) -> list[fx.Node]:
    """The tensors of the images that a node reads, in argument order."""
    return [before for before in node.all_input_nodes if kinds[before.name] not in NO_TENSOR]


def _kinds(graph_module: fx.GraphModule, global_pools: set[str]) -> tuple[dict[str, Kind], dict[str, str]]:
    """Of all nodes by name; and why those of kind ``float`` have no integer form."""
    kinds: dict[str, Kind] = {}
    reasons: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        try:
            kinds[node.name] = _kind(node, graph_module, global_pools, kinds)
        except ModelError as error:
            kinds[node.name], reasons[node.name] = "float", str(error)
    return kinds, reasons


def _kind(node: fx.Node, graph_module: fx.GraphModule, global_pools: set[str], kinds: Mapping[str, Kind]) -> Kind:
    """Of a node behind those of ``kinds``. Raises ModelError, which says why, where it has no integer form."""
    if node.op in ("placeholder", "output"):
        return "input" if node.op == "placeholder" else "output"
    kind, described = operation(node, graph_module)
    shown = node.meta.get("tensor_meta")
    several = isinstance(shown, tuple | list) and any(isinstance(one, TensorMetadata) for one in shown)
    if not isinstance(shown, TensorMetadata) and not several:
        return "shape"
    before = [kinds[one.name] for one in node.all_input_nodes]
    if all(one in NO_TENSOR for one in before):
        return "constant"
    described += written_at(node)
    if not isinstance(shown, TensorMetadata):
        raise ModelError(f"{described} gives several tensors at once, which has no integer form here")
    if kind in (None, "add", "mul", "relu") and _is_table(node, graph_module):
        return "function"
    if kind is None:
        raise ModelError(f"layer {described} has no integer form here")
    if not shown.dtype.is_floating_point:
        raise ModelError(f"{described} gives no real numbers, which has no integer form here")
    if "constant" in before and node.target is not torch.index_select:
        raise ModelError(f"{described} takes a tensor of the model's own, which has no integer form here")
    if node.target is operator.getitem and not _cuts(node):
        raise ModelError(f"{described} takes other than slices of a tensor, which has no integer form here")
    if kind == "pool" and node.name not in global_pools and not is_windows(node, graph_module):
        shape = "x".join(map(str, node.meta["tensor_meta"].shape[2:])) or "vectors"
        raise ModelError(
            f"{described} pools to {shape}; only averages over whole images or windows of one size are supported"
        )
    if kind == "batchnorm":
        _require_foldable(node, described, graph_module, kinds)
    if node.target is F.pad:
        _require_codes(node, described)
    if kind == "relu" and relu_bounds(node, graph_module)[0] != 0:
        raise ModelError(f"{described} cuts at {relu_bounds(node, graph_module)[0]:g}; only a cut at 0 is supported")
    if kind == "add":
        _require_sum(node, described)
    if kind == "mul":
        _require_product(node, described)
    if kind == "concat" and _dim(node) == 0:
        raise ModelError(f"{described} concatenates images; only tensors of one image can be concatenated")
    return kind


def _is_table(node: fx.Node, graph_module: nn.Module) -> bool:
    relu = operation(node, graph_module)[0] == "relu" and relu_bounds(node, graph_module)[0] == 0
    return not relu and node.meta["tensor_meta"].dtype.is_floating_point and is_function(node, graph_module)


def _cuts(node: fx.Node) -> bool:
    """Whether ``x[...]`` takes slices and single places of one tensor, along axes that are known."""
    source, index = node.args
    one = isinstance(source, fx.Node) and isinstance(source.meta.get("tensor_meta"), TensorMetadata)
    return one and all(
        place is None or place is Ellipsis or isinstance(place, int | slice | fx.Node)
        for place in (index if isinstance(index, tuple) else (index,))
    )


def _require_foldable(node: fx.Node, described: str, graph_module: fx.GraphModule, kinds: Mapping[str, Kind]) -> None:
    layer = node.all_input_nodes[0]
    if kinds[layer.name] != "layer":
        raise ModelError(f"layer {described} does not follow a convolution; such a BatchNorm cannot be folded")
    if len(layer.users) > 1:
        raise ModelError(
            f"layer {described} follows {layer.target!r}, which something else reads, too; it cannot be folded"
        )
    norm = graph_module.get_submodule(str(node.target))
    if not (norm.affine and norm.track_running_stats):
        raise ModelError(
            f"layer {described} has affine={norm.affine} and track_running_stats={norm.track_running_stats}; "
            "expected both, so that it can be folded"
        )


def _require_codes(node: fx.Node, described: str) -> None:
    """Of what a call of ``F.pad(input, pad, mode="constant", value=None)`` pads with."""
    given = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
    value = given.get("value") or 0
    if given.get("mode", "constant") == "constant" and value != 0:
        raise ModelError(f"{described} pads with the value {value}; only zeros and numbers of its own are supported")


def _require_sum(node: fx.Node, described: str) -> None:
    addends = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]
    if len(addends) != 2:
        raise ModelError(f"{described} adds a constant; only sums of two tensors are supported")
    if node.kwargs.get("alpha", 1) != 1:
        raise ModelError(f"{described} adds {node.kwargs['alpha']} times a tensor; only plain sums are supported")
    _require_ranks(addends, described, "adds")


def _require_product(node: fx.Node, described: str) -> None:
    factors = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]
    if len(factors) != 2:
        raise ModelError(f"{described} multiplies by a constant; put it into the weights of a layer")
    _require_ranks(factors, described, "multiplies")


def _require_ranks(tensors: list[fx.Node], described: str, what: str) -> None:
    """Of two tensors whose shapes are broadcast: the images stay the first axis of both."""
    shapes = [tuple(value.meta["tensor_meta"].shape) for value in tensors if "tensor_meta" in value.meta]
    if len(shapes) != 2 or len(shapes[0]) != len(shapes[1]):
        shown = " and ".join("x".join(map(str, shape[1:])) for shape in shapes)
        raise ModelError(f"{described} {what} tensors of {shown}; expected as many axes in both")


def _dim(node: fx.Node) -> int:
    """Axis of a concatenation, from 0."""
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    assert isinstance(given, int)
    return given % len(node.meta["tensor_meta"].shape)


def is_layer(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    return node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), nn.Conv2d | nn.Linear)


def layer_costs(graph_module: fx.GraphModule) -> tuple[LayerCost, ...]:
    """Of every layer of a prepared graph, in execution order, whatever else is in it."""
    return tuple(_cost(node, graph_module) for node in graph_module.graph.nodes if is_layer(node, graph_module))


def _cost(node: fx.Node, graph_module: fx.GraphModule) -> LayerCost:
    module = graph_module.get_submodule(str(node.target))
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return LayerCost(
        name=str(node.target),
        kind="conv" if isinstance(module, nn.Conv2d) else "linear",
        macs=layer_macs(node, graph_module),
        num_weights=weight.numel(),
    )


def layer_macs(node: fx.Node, graph_module: fx.GraphModule) -> int:
    """Multiply-accumulates of a call of Conv2d or Linear, for the one image that shapes were noted for."""
    weight = graph_module.get_submodule(str(node.target)).weight
    assert isinstance(weight, torch.Tensor)
    return node.meta["tensor_meta"].shape.numel() // weight.shape[0] * weight.numel()


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
        scales=scales(cost.name, traced.graph_module.get_submodule(cost.name)),
    )


def _batchnorm_after(node: fx.Node, traced: TracedModel) -> str | None:
    followers = [user for user in node.users if traced.kinds[user.name] == "batchnorm"]
    return str(followers[0].target) if followers else None
