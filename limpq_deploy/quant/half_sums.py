"""Sums of integer products rounded to float16, as a target's file asks (`TargetSpec.half_sums`)."""

import torch
from torch import nn

from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.records.targets import TargetSpec


class HalfSums:
    """``f32(f16(2^-p * sum)) * factor + bias`` of a layer's product, as `export.qdq.tensorrt_rtx` writes it."""

    def __init__(self, layer: IntegerLayer, *, axis: int) -> None:
        """``axis``: of the output's channels, counted from the end."""
        self.step = layer.half_step
        self.unit_O = torch.from_numpy(layer.bias_scale)
        self.bias_O = torch.from_numpy(layer.float_bias)
        self.shape = (-1, *(1,) * (-axis - 1))

    def __call__(self, product: torch.Tensor) -> torch.Tensor:
        """``product``: of reals on their grids, without bias: whole numbers of units but for float32 rounding."""
        unit, bias = (values.to(product.device).reshape(self.shape) for values in (self.unit_O, self.bias_O))
        sums = ((product / unit).round() * self.step).half().float()
        return sums * (unit / self.step) + bias


def half_sums(layer: IntegerLayer | FloatLayer, module: nn.Module, target: TargetSpec) -> HalfSums | None:
    """What a layer's product goes through on the target; None where bias and scales are all there is."""
    if not target.half_sums or isinstance(layer, FloatLayer):
        return None
    return HalfSums(layer, axis=-1 if isinstance(module, nn.Linear) else -(layer.codes.ndim - 1))
