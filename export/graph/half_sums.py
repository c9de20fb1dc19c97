"""Layers whose sums end in FP16: by which power of two they are scaled, so that none can overflow.

sum[c]    = f16(2^-p * (q_x . q_w[c]))
result[c] = f32(sum[c]) * factor[c] + bias[c]         factor = f32(s_x * s_w[c]) * 2^p
"""

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.numbers.formats import LARGEST_FP8
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.fp8_layers import Fp8Layer

LARGEST_SUM = 2.0**15
"""Largest result of a layer's product; FP16 holds 65,504."""

LARGEST_CODE = 128
"""Of int8."""


def sum_step(layer: IntegerLayer | Fp8Layer) -> float:
    """2^-p: the largest power of two, up to 1, by which no sum of products with codes passes `LARGEST_SUM`."""
    largest = LARGEST_FP8 if isinstance(layer, Fp8Layer) else LARGEST_CODE
    sums = np.abs(layer.codes.astype(np.float64)).reshape(len(layer.codes), -1).sum(1) * largest
    return float(2.0 ** min(np.floor(np.log2(LARGEST_SUM / max(float(sums.max(initial=1)), 1))), 0.0))


def sum_factor(layer: IntegerLayer | Fp8Layer) -> NDArray[np.float32]:
    """The real of a step of each channel's sum, [O]."""
    factor: NDArray[np.float32] = layer.bias_scale / np.float32(sum_step(layer))
    return factor
