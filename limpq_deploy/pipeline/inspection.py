"""What would become of a network: looked at, neither trained nor run; no data."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.placement import FloatOperator, Placement
from limpq_deploy.export.records.targets import DEFAULT, TargetSpec, target_named
from limpq_deploy.model.blockers import Blocked
from limpq_deploy.model.given_model import copied, in_float32, plain, unwrap
from limpq_deploy.model.islands import operator_name
from limpq_deploy.model.layers import LayerCost, TracedModel, assembled, layer_costs, prepared
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.place import edges_by_source, place
from limpq_deploy.model.zoo import create_model, known_info
from limpq_deploy.model.zoo.unfilled import Unfilled
from limpq_deploy.model.zoo.weights import load_weights
from limpq_deploy.train.cost_estimate import TrainingSeconds, estimate_training

UNIFORM = (2, 3, 4, 5, 6, 8)
"""Widths of the uniform policies that are told."""
COMPUTES = ("add", "mul", "concat", "gate", "pool")
"""Kinds that compute something, beside layers and what is fused into them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedLayer:
    """``kind``: "conv" or "linear". ``macs`` for one image. ``input_bits``: of its activation quantizer, None where a
    policy decides or there is none. ``runs_in``: what its products are computed in."""

    name: str
    kind: str
    macs: int
    num_weights: int
    input_bits: int | None
    weight_bits: int | None
    runs_in: Literal["integer", "float"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformCost:
    """A policy of ``bits`` in every searched layer. ``gbitops``: 1e9 BitOps for one image, ``mib``: size of all
    weights; pinned layers are counted in both. ``compression_ratio``: against 32 bits."""

    bits: int
    gbitops: float
    mib: float
    compression_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """``accepted``: `build` takes the network for this target. ``why``: what stops it, a sentence each.

    ``integer_macs_share``: of all multiply-accumulates, those that run in integers; 0 where the network is refused.
    ``quantizers``: how many activations are quantized. ``seconds`` that the inspection took.
    """

    model: str
    target: str
    input_shape: tuple[int, ...]
    accepted: bool
    why: tuple[str, ...]
    layers: tuple[InspectedLayer, ...] = ()
    float_operators: tuple[FloatOperator, ...] = ()
    quantizers: int = 0
    integer_macs_share: float = 0.0
    uniform: tuple[UniformCost, ...] = ()
    training: TrainingSeconds | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    format: Literal["limpq.inspection/1"] = field(default="limpq.inspection/1")


def inspect(
    model: str | nn.Module | Callable[[], nn.Module],
    *,
    target: str | None = None,
    weights: str | Path | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Inspection:
    """Look at a network without data and without training: a name or ``module:factory`` as in `build`, a function that
    makes a module, or a module, which stays as it is.

    ``input_shape``: (C, H, W) of an image; None: as its name or its ``preprocess`` says. ``target``: what is to run it.
    The answer has ``accepted``, ``why`` not, ``layers`` with MACs of one image, ``float_operators`` and
    ``integer_macs_share`` (0 to 1). What stops the network is in the answer.

    Raises LimpqError where there is no network to look at: an unknown name, weights that do not fit.

    Examples:
        >>> found = limpq_deploy.inspect(net, input_shape=(1, 16, 16))
        >>> found.accepted, [layer.name for layer in found.layers]
        (True, ['conv1', 'conv2', 'fc'])
    """
    network = model if isinstance(model, str | nn.Module) else model()
    file = None if weights is None else Path(weights)
    return judged(looked_at(network, weights=file, input_shape=input_shape), target)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedAt:
    """A network traced, for no target yet. ``graph_module`` and ``pools`` as `layers.prepared` gives them, or
    ``refused``. ``since``: when it began."""

    name: str
    input_shape: tuple[int, ...]
    notes: tuple[str, ...]
    since: float
    graph_module: fx.GraphModule | None = None
    pools: frozenset[str] = frozenset()
    refused: ModelError | None = None


def looked_at(
    model: str | nn.Module, *, weights: Path | None = None, input_shape: tuple[int, ...] | None = None
) -> LookedAt:
    """The first part of `inspect`, which is the same for every target."""
    start = time.monotonic()
    name = model if isinstance(model, str) else type(model).__name__
    module, shape, notes = _made(model, weights, input_shape)
    found = LookedAt(name=name, input_shape=shape, notes=notes, since=start)
    try:
        graph_module, pools = prepared(module, shape)
    except ModelError as error:
        return replace(found, refused=error)
    return replace(found, graph_module=graph_module, pools=frozenset(pools))


def judged(looked: LookedAt, target: str | None = None) -> Inspection:
    """The second part of `inspect`: what a target makes of the network."""
    spec = DEFAULT if target is None else target_named(target)
    layers: tuple[LayerCost, ...] = ()
    try:
        if looked.graph_module is None:
            assert looked.refused is not None
            raise looked.refused
        layers = layer_costs(looked.graph_module)
        traced = assembled(looked.graph_module, set(looked.pools))
        placement = place(traced, spec, model=looked.name)
    except ModelError as error:
        return Inspection(
            model=looked.name,
            target=spec.name,
            input_shape=looked.input_shape,
            accepted=False,
            why=error.reasons if isinstance(error, Blocked) else (str(error),),
            layers=tuple(_refused(layer) for layer in layers),
            notes=looked.notes,
            seconds=time.monotonic() - looked.since,
        )
    shown = tuple(_placed(layer, placement) for layer in layers)
    return Inspection(
        model=looked.name,
        target=spec.name,
        input_shape=looked.input_shape,
        accepted=True,
        why=(),
        layers=shown,
        float_operators=(*placement.float_operators, *_float_operators(traced, spec)),
        quantizers=len(placement.quantizers),
        integer_macs_share=1 - placement.float_share,
        uniform=tuple(_uniform(placement, bits) for bits in UNIFORM),
        training=estimate_training(placement.macs),
        notes=looked.notes,
        seconds=time.monotonic() - looked.since,
    )


def _made(
    model: str | nn.Module, weights: Path | None, input_shape: tuple[int, ...] | None
) -> tuple[nn.Module, tuple[int, ...], tuple[str, ...]]:
    """The plain module, its image's shape, and notes. Weights of a library's model that nobody reads stay unfilled."""
    if isinstance(model, str):
        unread = weights is None and known_info(model) is not None
        with Unfilled() if unread else contextlib.nullcontext():
            module, info = create_model(model)
        shape = input_shape or (info.preprocess.shape if info.preprocess is not None else None)
    else:
        module = unwrap(copied(model))
        own = getattr(module, "preprocess", None)
        shape = input_shape or getattr(own, "shape", None)
    if shape is None:
        raise ModelError(
            f"{model if isinstance(model, str) else type(model).__name__} does not say what images it takes; give "
            "--input-shape C,H,W, or the module a 'preprocess'"
        )
    formats = in_float32(module)
    loaded = load_weights(module, weights, None) if weights is not None else ()
    found = plain(module)
    return found.model, tuple(shape), (*formats, *loaded, *found.notes)


def _refused(layer: LayerCost) -> InspectedLayer:
    return InspectedLayer(
        name=layer.name,
        kind=layer.kind,
        macs=layer.macs,
        num_weights=layer.num_weights,
        input_bits=None,
        weight_bits=None,
        runs_in="float",
    )


def _placed(layer: LayerCost, placement: Placement) -> InspectedLayer:
    placed = {one.name: one for one in placement.layers}.get(layer.name)
    if placed is None:
        return _refused(layer)
    return InspectedLayer(
        name=layer.name,
        kind=layer.kind,
        macs=layer.macs,
        num_weights=layer.num_weights,
        input_bits=placement.quantizer(placed.input).bits,
        weight_bits=placed.pinned_bits,
        runs_in="integer",
    )


def _float_operators(traced: TracedModel, target: TargetSpec) -> list[FloatOperator]:
    quantized = {edge.consumer for edges in edges_by_source(traced, target).values() for edge in edges}
    return [
        FloatOperator(name=node.name, operator=operator_name(node, traced.graph_module), why=_why(node, target))
        for node in traced.graph_module.graph.nodes
        if traced.kinds[node.name] in COMPUTES and node.name not in quantized
    ]


def _why(node: fx.Node, target: TargetSpec) -> str:
    return f"{target.name} computes it in its float type: none of its inputs carries a quantizer{written_at(node)}"


def _uniform(placement: Placement, bits: int) -> UniformCost:
    widths = {layer.name: layer.pinned_bits or bits for layer in placement.layers}
    acts = {layer.name: placement.quantizer(layer.input).bits or bits for layer in placement.pinned}
    size = sum(layer.num_weights * widths[layer.name] for layer in placement.layers)
    return UniformCost(
        bits=bits,
        gbitops=sum(layer.macs * widths[layer.name] * acts.get(layer.name, bits) for layer in placement.layers) / 1e9,
        mib=size / 2**23,
        compression_ratio=32 * sum(layer.num_weights for layer in placement.layers) / size,
    )
