"""A trained quantized model as integers: weight codes with BatchNorm folded into their scales, activation grids."""

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.params import QuantParams
from limpq_deploy.export.folding import BatchNormParams, IntegerLayer, fold
from limpq_deploy.export.placement import BitPair, Placement
from limpq_deploy.quantized import QuantizedModel, SwitchableBatchNorm


def integer_model(
    model: QuantizedModel, policy: dict[str, BitPair]
) -> tuple[dict[str, IntegerLayer], dict[str, QuantParams]]:
    """Integers of every layer and parameters of every activation quantizer that does something, by name.

    Raises ModelError, naming the tensor, where a scale is not positive and finite.
    """
    placement = model.placement
    acts = _activations(model, policy)
    layers = {}
    for placed in placement.layers:
        module = model.quant_layer(placed.name)
        weight_scale = float(module.scales.scale(0).item())
        layers[placed.name] = fold(
            name=placed.name,
            codes=module.codes().numpy().astype(np.int64),
            grid=module.scales.grids[0],
            weight_scale=weight_scale,
            input_scale=acts[input_quantizer(placement, placed.input, acts)].scale[0],
            bias=None if module.bias is None else _float64(module.bias),
            batchnorm=None if placed.batchnorm is None else _batchnorm(model.batchnorm(placed.batchnorm)),
        )
    return layers, acts


def input_quantizer(placement: Placement, name: str, acts: dict[str, QuantParams]) -> str:
    """The quantizer whose codes a layer really reads: an identity re-quantizer gives way to its parent."""
    if name in acts:
        return name
    parent = placement.quantizer(name).parent
    assert parent is not None
    return parent


def _activations(model: QuantizedModel, policy: dict[str, BitPair]) -> dict[str, QuantParams]:
    acts = {}
    for name, grid in model.placement.act_grids(policy).items():
        scale = float(model.act_quantizer(name).scales.scale(0).item())
        if not (np.isfinite(scale) and scale > 0):
            raise ModelError(f"activation quantizer {name!r} has a scale of {scale}; it must be positive and finite")
        acts[name] = QuantParams(grid=grid, scale=(scale,))
    return acts


def _batchnorm(norm: SwitchableBatchNorm) -> BatchNormParams:
    return BatchNormParams(
        gamma=_float64(norm.weight[0]),
        beta=_float64(norm.bias[0]),
        mean=_float64(norm.running_mean[0]),
        var=_float64(norm.running_var[0]),
        eps=norm.eps,
    )


def _float64(tensor: torch.Tensor | nn.Parameter) -> np.ndarray:
    return tensor.detach().double().numpy()
