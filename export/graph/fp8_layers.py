"""Layers in FP8 (E4M3): a BatchNorm folded into the scales, codes that are numbers of the format."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.graph.folding import (
    BatchNormParams,
    channel_factors,
    column,
    folded_scales,
    require_finite,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Layer:
    """A layer whose products are FP8 x FP8.

    ``codes``: numbers of E4M3 as float32, OIHW or OI; ``scale`` float32 [O], so that real weight = codes * scale.
    ``bias_scale`` float32 [O] = float32(input scale * scale), the real of one product of codes. ``bias`` float64 [O].
    """

    name: str
    codes: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias_scale: NDArray[np.float32]
    bias: NDArray[np.float64]

    @property
    def float_bias(self) -> NDArray[np.float32]:
        """The bias as it is executed."""
        return self.bias.astype(np.float32)


def fold_fp8(
    *,
    name: str,
    codes: NDArray[np.float32],
    weight_scale: float,
    input_scale: float,
    bias: NDArray[np.float64] | None,
    batchnorm: BatchNormParams | None,
    powers: NDArray[np.float64] | None = None,
) -> Fp8Layer:
    """Fold a BatchNorm into the scales of FP8 weights, as `folding.fold` does; the bias stays a float.

    ``powers``: the folded scales themselves, as in `folding.fold`. Codes flip their sign where gamma is negative; a
    channel with gamma 0 has zero codes at the layer's own scale. Raises ModelError for numbers that are not finite and
    for a scale that is not positive in float32.
    """
    factor, real_bias = channel_factors(len(codes), bias, batchnorm)
    scale = (folded_scales(weight_scale, factor) if powers is None else powers).astype(np.float32)
    bias_scale = np.float32(input_scale) * scale
    require_finite(name, scale, bias_scale, real_bias, positive=(scale, bias_scale))
    return Fp8Layer(
        name=name,
        codes=(codes * column(np.sign(factor), codes.ndim)).astype(np.float32),
        scale=scale,
        bias_scale=bias_scale,
        bias=real_bias,
    )
