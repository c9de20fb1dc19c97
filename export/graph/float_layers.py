"""Layers that compute in float, by the policy's wish: plain ones, and those with integer weights alone.

A Q/DQ file names them in its metadata under `FLOAT_LAYERS`, so that whoever reads the file (lint, reference, engine)
knows which float nodes are planned.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError, RecordError
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.export.graph.folding import BatchNormParams, channel_factors, column, folded_scales, require_finite

FLOAT_LAYERS = "limpq.float_layers"
"""Metadata key: a JSON list of the layers that compute in float as planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatLayer:
    """A layer with BatchNorm folded in that computes in float.

    ``bits``: of the widest tensor that stays in float, 16 or 32. ``weight`` float32, OIHW or OI; ``bias`` float64
    [O]. Where only the weight is quantized: ``codes`` int8, as ``weight``, ``scale`` float32 [O], or [O, blocks] where
    equal parts of a row have scales of their own, and ``weight`` = codes * scale; else both are None and
    ``weight_bits`` is ``bits``.
    """

    name: str
    bits: int
    weight_bits: int
    weight: NDArray[np.float32]
    bias: NDArray[np.float64]
    codes: NDArray[np.int8] | None = None
    scale: NDArray[np.float32] | None = None

    @property
    def block(self) -> int | None:
        """Weights in a row that share one of several scales of it; None: a row has one."""
        if self.scale is None or self.scale.ndim == 1:
            return None
        return int(self.weight.shape[1] // self.scale.shape[1])

    @property
    def float_bias(self) -> NDArray[np.float32]:
        """The bias as it is executed."""
        return self.bias.astype(np.float32)


def fold_float(
    *,
    name: str,
    bits: int,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    batchnorm: BatchNormParams | None,
) -> FloatLayer:
    """Fold a BatchNorm into a float weight: ``weight[c] * gamma[c] / sqrt(var[c] + eps)``.

    Raises ModelError for numbers that are not finite.
    """
    factor, real_bias = channel_factors(len(weight), bias, batchnorm)
    folded = (weight * column(factor, weight.ndim)).astype(np.float32)
    require_finite(name, folded, real_bias)
    return FloatLayer(name=name, bits=bits, weight_bits=bits, weight=folded, bias=real_bias)


def fold_weight_only(
    *,
    name: str,
    bits: int,
    codes: NDArray[Any],
    grid: QuantGrid,
    weight_scale: float,
    bias: NDArray[np.float64] | None,
    batchnorm: BatchNormParams | None,
    powers: NDArray[np.float64] | None = None,
) -> FloatLayer:
    """Fold a BatchNorm into the scales of integer weights, as `folding.fold` does; the bias stays a float.

    ``powers``: the folded scales themselves, as in `folding.fold`. Codes flip their sign where gamma is negative; a
    channel with gamma 0 has zero codes at the layer's own scale. Raises ModelError for numbers that are not finite and
    for a scale that is not positive in float32.
    """
    factor, real_bias = channel_factors(len(codes), bias, batchnorm)
    signed = (codes * column(np.sign(factor).astype(np.int8), codes.ndim)).astype(np.int8)
    scale = (folded_scales(weight_scale, factor) if powers is None else powers).astype(np.float32)
    require_finite(name, scale, real_bias, positive=(scale,))
    return FloatLayer(
        name=name,
        bits=bits,
        weight_bits=grid.bits,
        weight=signed.astype(np.float32) * column(scale, codes.ndim),
        bias=real_bias,
        codes=signed,
        scale=scale,
    )


def blocked_weights(
    *,
    name: str,
    bits: int,
    codes: NDArray[np.int8],
    grid: QuantGrid,
    scale: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
) -> FloatLayer:
    """A linear layer with integer weights [O, I] alone, and a scale for each block of a row [O, blocks].

    Raises ModelError for numbers that are not finite and for a scale that is not positive in float32.
    """
    single = scale.astype(np.float32)
    real_bias = np.zeros(len(codes)) if bias is None else bias
    require_finite(name, single, real_bias, positive=(single,))
    return FloatLayer(
        name=name,
        bits=bits,
        weight_bits=grid.bits,
        weight=codes.astype(np.float32) * np.repeat(single, codes.shape[1] // single.shape[1], axis=1),
        bias=real_bias,
        codes=codes,
        scale=single,
    )


def planned_float(model: onnx.ModelProto) -> tuple[str, ...]:
    """Layers that a file says compute in float by plan. Raises ModelError where its metadata is damaged."""
    for entry in model.metadata_props:
        if entry.key == FLOAT_LAYERS:
            try:
                names = parse_json(entry.value, FLOAT_LAYERS)
            except RecordError:
                names = None
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ModelError(f"the model has damaged metadata {FLOAT_LAYERS}; export it again")
            return tuple(names)
    return ()


def computes_in_floats(model: onnx.ModelProto) -> bool:
    """Whether all layers of a file compute in float by plan, so that its sums and pools do too."""
    layers = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    return bool(layers) and layers <= set(planned_float(model))
