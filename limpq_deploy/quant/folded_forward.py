"""A trained model that computes with the weights and biases of its integers, as the exported file does."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.qdq.base import AnyLayer, Layers
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import TargetSpec
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.quantized_model import QuantizedModel


@contextlib.contextmanager
def folded_forward(model: QuantizedModel, layers: Layers) -> Iterator[None]:
    """Within it layers multiply by ``codes * scale`` and add the bias as it is exported, and BatchNorms do nothing.

    ``layers``: of `integer_model`. What is left between the model and the file is the order of float32 sums; with
    scales that are powers of two and sums below 2^24 steps, nothing.
    """
    norms = [model.batchnorm(placed.batchnorm) for placed in model.placement.layers if placed.batchnorm is not None]
    for name, layer in layers.items():
        module = model.quant_layer(name)
        module.exported = tuple(  # type: ignore[assignment]
            torch.from_numpy(values).to(module.weight.device) for values in real_values(layer, model.placement.spec)
        )
    for norm in norms:
        norm.folded = True
    try:
        yield
    finally:
        for name in layers:
            model.quant_layer(name).exported = None
        for norm in norms:
            norm.folded = False


def as_recorded(model: QuantizedModel, policy: Mapping[str, BitPair]) -> contextlib.AbstractContextManager[None]:
    """Within it the model computes as its accuracy is recorded: as exported, where its target is.

    Raises what `integer_model` raises.
    """
    if not model.placement.spec.exportable:
        return contextlib.nullcontext()
    return folded_forward(model, integer_model(model, dict(policy))[0])


def real_values(
    layer: AnyLayer, target: TargetSpec
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a layer as the target's file means them, float32."""
    if isinstance(layer, FloatLayer):
        return layer.weight, layer.float_bias
    column = (slice(None),) + (None,) * (layer.codes.ndim - 1)
    weight = layer.codes.astype(np.float32) * layer.scale[column]
    rounded = isinstance(layer, IntegerLayer) and target.bias == "int32"
    return weight, layer.rounded_bias if rounded else layer.float_bias
