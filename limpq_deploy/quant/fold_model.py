"""A trained quantized model as integers: weight codes with BatchNorm folded into their scales, activation grids."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import FloatLayer, blocked_weights, fold_float, fold_weight_only
from limpq_deploy.export.graph.folding import FLOAT32_EXACT, BatchNormParams, IntegerLayer, fold
from limpq_deploy.export.graph.fp8_layers import fold_fp8
from limpq_deploy.export.qdq.base import AnyLayer, Layers
from limpq_deploy.export.records.placement import BitPair, LayerPlacement, Placement
from limpq_deploy.export.records.targets import in_float
from limpq_deploy.quant.modules import SwitchableBatchNorm
from limpq_deploy.quant.quantized_model import QuantizedModel


def integer_model(model: QuantizedModel, policy: dict[str, BitPair]) -> tuple[Layers, dict[str, QuantParams]]:
    """Codes of every layer and parameters of every activation quantizer that does something, by name. A layer that
    the policy keeps in float comes with its float weight, or integer weights alone.

    Raises ModelError, naming the tensor, where a scale is not positive and finite.
    """
    acts = _activations(model, policy)
    return dict(_layers(model, policy, acts)), acts


def integer_layers(model: QuantizedModel, policy: dict[str, BitPair]) -> Iterator[tuple[str, AnyLayer]]:
    """The layers of `integer_model` by name, each made when it is asked for."""
    yield from _layers(model, policy, _activations(model, policy))


def _layers(
    model: QuantizedModel, policy: dict[str, BitPair], acts: dict[str, QuantParams]
) -> Iterator[tuple[str, AnyLayer]]:
    placement = model.placement
    floats = placement.float_layers(policy)
    for placed in placement.layers:
        if placed.name in floats:
            weight, act = policy.get(placed.name, (placed.pinned_bits or 0, 0))
            if placement.weights_only:
                act = placement.quantizer(placed.input).bits or act
            yield placed.name, _float_layer(model, placed, (weight, act))
            continue
        module = model.quant_layer(placed.name)
        weight_scale = float(module.scales.scale(0).item())
        powers = module.folded_scales()
        read = acts[input_quantizer(placement, placed.input, acts)]
        folded: dict[str, Any] = {
            "name": placed.name,
            "weight_scale": weight_scale,
            "input_scale": read.scale[0],
            "powers": None if powers is None else _float64(powers),
            "bias": None if module.bias is None else _float64(module.bias),
            "batchnorm": None if placed.batchnorm is None else _batchnorm(model.batchnorm(placed.batchnorm)),
        }
        grid, codes = module.scales.grids[0], module.codes().cpu().numpy()
        if grid.fp8:
            yield placed.name, fold_fp8(**folded, codes=codes)
        else:
            yield placed.name, fold(**folded, codes=codes, grid=grid, input_grid=read.grid)


def _float_layer(model: QuantizedModel, placed: LayerPlacement, pair: BitPair) -> FloatLayer:
    module = model.quant_layer(placed.name)
    bits = max(pair)
    bias = None if module.bias is None else _float64(module.bias)
    batchnorm = None if placed.batchnorm is None else _batchnorm(model.batchnorm(placed.batchnorm))
    if in_float(pair[0]):
        return fold_float(name=placed.name, bits=bits, weight=_float64(module.weight), bias=bias, batchnorm=batchnorm)
    powers, blocks = module.folded_scales(), module.block_steps()
    if blocks is not None:
        codes = module.codes().cpu().numpy().astype(np.int8)
        return blocked_weights(
            name=placed.name, bits=bits, codes=codes, grid=module.scales.grids[0], scale=_float64(blocks), bias=bias
        )
    return fold_weight_only(
        name=placed.name,
        bits=bits,
        codes=module.codes().cpu().numpy(),
        grid=module.scales.grids[0],
        weight_scale=float(module.scales.scale(0).item()),
        bias=bias,
        batchnorm=batchnorm,
        powers=None if powers is None else _float64(powers),
    )


def input_quantizer(placement: Placement, name: str, acts: dict[str, QuantParams]) -> str:
    """The quantizer whose codes a layer really reads: an identity re-quantizer gives way to its parent."""
    if name in acts:
        return name
    parent = placement.quantizer(name).parent
    assert parent is not None
    return parent


def beyond_float32(placement: Placement, layers: Layers, acts: dict[str, QuantParams]) -> dict[str, int]:
    """Layers whose sums may exceed what float32 holds exactly, so that floats may be added otherwise than integers;
    and the bound of their sums, from their own weights and every code that may come in."""
    bounds = {
        placed.name: layer.largest_sum(acts[input_quantizer(placement, placed.input, acts)].grid)
        for placed in placement.layers
        if isinstance(layer := layers[placed.name], IntegerLayer)
    }
    return {name: bound for name, bound in bounds.items() if bound > FLOAT32_EXACT}


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
    return tensor.detach().double().cpu().numpy()
