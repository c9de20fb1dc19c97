"""A model with the structure that a policy has on a target, and with scales that nobody learned: for timing alone.

How long a graph takes depends on its nodes, types and shapes, not on its numbers. So a policy's latency can be measured
before a second of training: weights are the template's own, rounded to their grids, and every activation has a range of
`RANGE`. Largest weight codes are those of the grid, as a runtime may choose kernels by them.
"""

from collections.abc import Mapping

import numpy as np
import onnx

from limpq_deploy.calibration.numbers.float8 import nearest_fp8
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import blocked_weights, fold_float, fold_weight_only
from limpq_deploy.export.graph.folding import fold
from limpq_deploy.export.graph.fp8_layers import fold_fp8
from limpq_deploy.export.graph.onnx_files import constants
from limpq_deploy.export.qdq.base import AnyLayer
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.placement import BLOCKED_BITS, BitPair, LayerPlacement, Placement
from limpq_deploy.export.records.targets import in_float

RANGE = 4.0
"""Largest real that an activation's grid holds."""

KEY = "limpq.stand_in"
"""Metadata that mark a file as no model to be used."""


def timing_graph(
    template: onnx.ModelProto, placement: Placement, policy: Mapping[str, BitPair], *, name: str = "stand-in"
) -> onnx.ModelProto:
    """The target's graph for a policy of the searched layers. Raises ModelError as `build_qdq` does."""
    fixed = constants(template.graph)
    acts = {
        quantizer: QuantParams(grid=grid, scale=(float(np.float32(RANGE / grid.qmax)),))
        for quantizer, grid in placement.act_grids(policy).items()
    }
    floats = placement.float_layers(policy)
    layers: dict[str, AnyLayer] = {}
    for layer in placement.layers:
        weight = fixed[f"{layer.name}.weight"].astype(np.float64)
        bias = fixed[f"{layer.name}.bias"].astype(np.float64) if f"{layer.name}.bias" in fixed else None
        bits = layer.pinned_bits or policy[layer.name][0]
        if in_float(bits):
            layers[layer.name] = fold_float(
                name=layer.name, bits=max(policy[layer.name]), weight=weight, bias=bias, batchnorm=None
            )
            continue
        carried = max(*policy.get(layer.name, ()), placement.quantizer(layer.input).bits or 0, 0)
        grid = placement.spec.weight_grid(bits)
        scale = float(np.abs(weight).max(initial=0.0)) / grid.qmax or 1.0
        if grid.fp8:
            layers[layer.name] = fold_fp8(
                name=layer.name,
                codes=nearest_fp8(weight / scale),
                weight_scale=scale,
                input_scale=acts[_read(placement, layer, acts)].scale[0],
                bias=bias,
                batchnorm=None,
            )
            continue
        codes = np.clip(np.rint(weight / scale), grid.qmin, grid.qmax).astype(np.int64)
        if layer.name in floats and layer.block is not None and grid.bits <= BLOCKED_BITS:
            layers[layer.name] = blocked_weights(
                name=layer.name,
                bits=carried,
                codes=codes.astype(np.int8),
                grid=grid,
                scale=np.full((len(codes), codes.shape[1] // layer.block), scale),
                bias=bias,
            )
        elif layer.name in floats:
            layers[layer.name] = fold_weight_only(
                name=layer.name,
                bits=carried,
                codes=codes,
                grid=grid,
                weight_scale=scale,
                bias=bias,
                batchnorm=None,
            )
        else:
            layers[layer.name] = fold(
                name=layer.name,
                codes=codes,
                grid=grid,
                weight_scale=scale,
                input_scale=acts[_read(placement, layer, acts)].scale[0],
                bias=_held(bias, scale),
                batchnorm=None,
            )
    return build_qdq(template, placement, layers, acts, {KEY: name})


def _read(placement: Placement, layer: LayerPlacement, acts: Mapping[str, QuantParams]) -> str:
    """The quantizer whose codes a layer reads: an identity re-quantizer gives way to its parent."""
    if layer.input in acts:
        return layer.input
    parent = placement.quantizer(layer.input).parent
    assert parent is not None
    return parent


def _held(bias: np.ndarray | None, scale: float) -> np.ndarray | None:
    """A bias that an accumulator of int32 holds at any scale of ours."""
    return None if bias is None else np.clip(bias, -(2.0**20) * scale, 2.0**20 * scale)
