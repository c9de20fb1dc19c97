"""Outputs of a quantized model with one tensor at another bit-width: only what stands behind that tensor is
computed."""

import contextlib
from collections import ChainMap
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import fx, nn

from limpq_deploy.calibration.batchnorm import batchnorms
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.model.place import QUANTIZERS
from limpq_deploy.quant.quantized_model import QuantizedModel


@dataclass(frozen=True, slots=True)
class TensorAt:
    """A tensor of the model: the weight of the layer ``name``, or the activation quantizer ``name``."""

    kind: Literal["weight", "act"]
    name: str


def searched_tensors(placement: Placement) -> tuple[TensorAt, ...]:
    """Weights and inputs of the searched layers; a quantizer that several layers read comes once, one of a single width
    not at all."""
    weights = [TensorAt("weight", layer.name) for layer in placement.searched]
    inputs = dict.fromkeys(layer.input for layer in placement.searched)
    acts = [name for name in inputs if placement.quantizer(name).bits is None]
    return (*weights, *(TensorAt("act", name) for name in acts))


class Variants:
    """One batch through a quantized model, and again with single tensors changed.

    The model's active bit-widths are the base. Values in front of a changed tensor are those of the base; the rest of
    the graph is computed anew, on average half of it in a chain. Of the base no more is kept than is read from there
    on. BatchNorm works as the model's mode says, see `batch_statistics`.
    """

    def __init__(self, model: QuantizedModel, images_NCHW: torch.Tensor) -> None:
        self.model = model
        self.outputs = model(images_NCHW)
        self._images_NCHW = images_NCHW
        self._order = list(model.graph.graph.nodes)
        self._interpreter = fx.Interpreter(model.graph)
        place = {node: at for at, node in enumerate(self._order)}
        self._last = {node: max((place[user] for user in node.users), default=at) for node, at in place.items()}

    def each(self, tensors: Iterable[TensorAt], bits: Sequence[int]) -> Iterator[tuple[TensorAt, int, Any]]:
        """(tensor, bits, what the model gives with this tensor at these bits and all else as in the base), in the order
        in which the network computes them; the BatchNorm behind a weight goes along."""
        first: dict[int, list[TensorAt]] = {}
        for tensor in tensors:
            first.setdefault(self._first(tensor), []).append(tensor)
        base: dict[fx.Node, Any] = {}
        self._interpreter.args_iter = iter((self._images_NCHW,))
        for at in range(max(first, default=-1) + 1):
            for tensor, width in product(first.get(at, ()), bits):
                with self._changed(tensor, width) as names:
                    found = self._from(at, base, names)
                yield tensor, width, found
            for node in self._order[at : at + 1]:
                if node not in base:
                    base[node] = self._run(node, base)
                self._forget(base, node, at)

    def _first(self, tensor: TensorAt) -> int:
        """Where the network first computes with a tensor; behind its end, if nowhere."""
        names = self._modules(tensor)
        calls = (at for at, node in enumerate(self._order) if node.op == "call_module" and node.target in names)
        return next(calls, len(self._order))

    def _from(self, at: int, base: dict[fx.Node, Any], names: Container[Any]) -> Any:
        """The outputs, all in front of a place being in the base; so is, from now on, what stands behind it beside what
        changes."""
        values, touched = dict[fx.Node, Any](), set[fx.Node]()
        result = self.outputs
        for place, node in enumerate(self._order[at:], at):
            if (node.op == "call_module" and node.target in names) or not touched.isdisjoint(node.all_input_nodes):
                touched.add(node)
                values[node] = result = self._run(node, ChainMap(values, base))
                self._forget(values, node, place)
            elif node not in base:
                base[node] = self._run(node, base)
        return result if self._order[-1] in touched else self.outputs

    def _run(self, node: fx.Node, values: Any) -> Any:
        self._interpreter.env = values
        return self._interpreter.run_node(node)

    def _forget(self, values: dict[fx.Node, Any], node: fx.Node, at: int) -> None:
        """What nobody reads behind a node goes."""
        for one in (node, *node.all_input_nodes):
            if self._last[one] <= at:
                values.pop(one, None)

    def _modules(self, tensor: TensorAt) -> dict[str, Any]:
        """What works at the tensor's width, by its name in the graph."""
        if tensor.kind == "act":
            return {f"{QUANTIZERS}.{tensor.name}": self.model.act_quantizer(tensor.name)}
        modules: dict[str, Any] = {tensor.name: self.model.quant_layer(tensor.name)}
        batchnorm = self.model.placement.layer(tensor.name).batchnorm
        return modules if batchnorm is None else modules | {batchnorm: self.model.batchnorm(batchnorm)}

    @contextlib.contextmanager
    def _changed(self, tensor: TensorAt, bits: int) -> Iterator[Container[Any]]:
        """Set the width; gives the names of what computes something else now."""
        modules = self._modules(tensor)
        before = {name: module.active for name, module in modules.items()}
        try:
            for module in modules.values():
                module.active = bits
            yield modules
        finally:
            for name, module in modules.items():
                module.active = before[name]


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Every BatchNorm uses the batch's own statistics and leaves its running ones alone; the rest is in evaluation
    mode. All modes and momenta are put back."""
    modes = [(module, module.training) for module in model.modules()]
    norms = batchnorms(model)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
