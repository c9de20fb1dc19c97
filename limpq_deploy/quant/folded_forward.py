"""A trained model that computes with the weights and biases of its integers, as the exported file does."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.qdq.base import AnyLayer, Layers
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import TargetSpec
from limpq_deploy.quant.fold_model import integer_layers
from limpq_deploy.quant.half_sums import Apply, HalfSums
from limpq_deploy.quant.modules import ActFakeQuant
from limpq_deploy.quant.quantized_model import QuantizedModel


@contextlib.contextmanager
def folded_forward(model: QuantizedModel, layers: Layers) -> Iterator[None]:
    """Within it layers multiply by ``codes * scale`` and add the bias as it is exported, and BatchNorms do nothing;
    where the target's sums are of FP16, they are rounded here too.

    ``layers``: of `integer_model`. What is left between the model and the file is the order of float32 sums; with
    scales that are powers of two and sums below 2^24 steps, nothing.
    """
    with _replaced(model, layers.items()):
        yield


@contextlib.contextmanager
def _replaced(model: QuantizedModel, layers: Iterable[tuple[str, AnyLayer]]) -> Iterator[None]:
    """`folded_forward`, which holds one layer's integers at a time where they are made one by one."""
    norms = [model.batchnorm(placed.batchnorm) for placed in model.placement.layers if placed.batchnorm is not None]
    try:
        _hand_over(model, layers)
        for norm in norms:
            norm.folded = True
        yield
    finally:
        for placed in model.placement.layers:
            model.quant_layer(placed.name).exported = None
        for norm in norms:
            norm.folded = False


def _hand_over(model: QuantizedModel, layers: Iterable[tuple[str, AnyLayer]]) -> None:
    for name, layer in layers:
        module, read = model.quant_layer(name), _read_by(model, name)
        found = exported_layer(
            module.apply_weight, layer, model.placement.spec, None if read is None else read.active_params()
        )
        module.exported = found.to(module.weight.device).__call__


class Exported(nn.Module):
    """A layer with weight and bias as its file means them."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, apply: Apply, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        super().__init__()
        self.apply_weight = apply
        self.register_buffer("weight", torch.from_numpy(weight))
        self.register_buffer("bias", torch.from_numpy(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.apply_weight(x, self.weight, self.bias)


def exported_layer(apply: Apply, layer: AnyLayer, target: TargetSpec, read: QuantParams | None) -> nn.Module:
    """A layer as the target's file computes it. ``read``: grid and scale of what it reads; None for floats."""
    if target.half_sums and not isinstance(layer, FloatLayer):
        assert read is not None, f"{layer.name} multiplies codes and reads none"
        return HalfSums(apply, layer, read.scale[0], read.grid)
    return Exported(apply, *real_values(layer, target))


def _read_by(model: QuantizedModel, layer: str) -> ActFakeQuant | None:
    """The quantizer whose codes a layer reads; None where it reads floats."""
    found: ActFakeQuant | None = model.act_quantizer(model.placement.layer(layer).input)
    while found is not None and found.passes:
        found = found.above[0] if found.above else None
    return found


def as_recorded(model: QuantizedModel, policy: Mapping[str, BitPair]) -> contextlib.AbstractContextManager[None]:
    """Within it the model computes as its accuracy is recorded: as exported, where its target is.

    Raises what `integer_model` raises.
    """
    if not model.placement.spec.exportable:
        return contextlib.nullcontext()
    return _replaced(model, integer_layers(model, dict(policy)))


def real_values(layer: AnyLayer, target: TargetSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a layer as the target's file means them, float32."""
    if isinstance(layer, FloatLayer):
        return layer.weight, layer.float_bias
    column = (slice(None),) + (None,) * (layer.codes.ndim - 1)
    weight = layer.codes.astype(np.float32)
    weight *= layer.scale[column]
    if isinstance(layer, IntegerLayer) and target.bias == "int32":
        return weight, layer.rounded_bias
    return weight, layer.float_bias
