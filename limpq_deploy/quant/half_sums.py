"""A layer as targets compute it whose sums end in FP16 (`TargetSpec.half_sums`)."""

from collections.abc import Callable

import torch
from torch import nn

from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.rounding import to_codes
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.fp8_layers import Fp8Layer
from limpq_deploy.export.graph.half_sums import sum_factor, sum_step

Apply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class HalfSums(nn.Module):
    """Takes reals that lie on ``grid`` with ``scale``, multiplies codes, rounds their sum to FP16, scales it and adds
    the bias in float32 (`export.graph.half_sums`). ``apply``: the convolution or product, from input, weight, bias."""

    codes: torch.Tensor
    factor: torch.Tensor
    bias: torch.Tensor

    def __init__(self, apply: Apply, layer: IntegerLayer | Fp8Layer, scale: float, grid: QuantGrid) -> None:
        super().__init__()
        self.apply_weight, self.scale, self.grid = apply, scale, grid
        shape = (-1, *(1,) * (layer.codes.ndim - 2))
        self.register_buffer("codes", torch.from_numpy(layer.codes.astype("float32")) * sum_step(layer))
        self.register_buffer("factor", torch.from_numpy(sum_factor(layer)).view(shape))
        self.register_buffer("bias", torch.from_numpy(layer.float_bias).view(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = self.apply_weight(to_codes(x / self.scale, self.grid), self.codes, None)
        return sums.half().float() * self.factor + self.bias
