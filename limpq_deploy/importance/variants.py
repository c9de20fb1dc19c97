"""Outputs of a quantized model with one tensor at another bit-width: only what stands behind that tensor is
computed."""

import contextlib
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass
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
    the graph is computed anew, on average half of it in a chain. BatchNorm works as the model's mode says, see
    `batch_statistics`.
    """

    def __init__(self, model: QuantizedModel, images_NCHW: torch.Tensor) -> None:
        self.model = model
        self._graph = model.graph
        self._interpreter = fx.Interpreter(self._graph)
        self._order = list(self._graph.graph.nodes)
        self._base: dict[fx.Node, Any] = {}
        self._interpreter.args_iter = iter((images_NCHW,))
        for node in self._order:
            self._base[node] = self._run(node, self._base)
        self.outputs = self._base[self._order[-1]]

    def outputs_with(self, tensor: TensorAt, bits: int) -> Any:
        """What the model gives with ``tensor`` at ``bits`` and all else as in the base; the BatchNorm behind a weight
        goes along."""
        with self._changed(tensor, bits) as targets:
            values: dict[fx.Node, Any] = {}
            for node in self._order:
                touched = node.target in targets or any(source in values for source in node.all_input_nodes)
                if touched:
                    values[node] = self._run(node, ChainMap(values, self._base))
        return values.get(self._order[-1], self.outputs)

    def _run(self, node: fx.Node, values: Any) -> Any:
        self._interpreter.env = values
        return self._interpreter.run_node(node)

    @contextlib.contextmanager
    def _changed(self, tensor: TensorAt, bits: int) -> Iterator[frozenset[str]]:
        """Set the width; gives the modules whose result changes."""
        modules: dict[str, Any] = {}
        if tensor.kind == "act":
            modules[f"{QUANTIZERS}.{tensor.name}"] = self.model.act_quantizer(tensor.name)
        else:
            modules[tensor.name] = self.model.quant_layer(tensor.name)
            batchnorm = self.model.placement.layer(tensor.name).batchnorm
            if batchnorm is not None:
                modules[batchnorm] = self.model.batchnorm(batchnorm)
        before = {name: module.active for name, module in modules.items()}
        try:
            for module in modules.values():
                module.active = bits
            yield frozenset(modules)
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
