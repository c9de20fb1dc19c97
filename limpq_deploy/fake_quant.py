"""The LSQ operator: fake quantization with a learned scale (Esser et al., LSQ, ICLR 2020)."""

import math
from typing import Any

import torch
from torch import nn

from limpq_deploy.calibration.grid import QuantGrid


class _LsqFunction(torch.autograd.Function):
    """Forward ``round(clip(x / s)) * s``. One tensor is saved, ``x / s``: the mask of both gradients comes from it,
    unrounded, as in the paper (torch's own learnable fake-quantize masks the rounded value)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int, gradient: float) -> torch.Tensor:
        steps = x / scale
        ctx.save_for_backward(steps)
        ctx.grid = qmin, qmax, gradient
        return steps.clamp(qmin, qmax).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (grad,) = grad_outputs
        (steps,) = ctx.saved_tensors
        qmin, qmax, gradient = ctx.grid
        clipped = steps.clamp(qmin, qmax)
        inside = clipped == steps
        grad_x = grad * inside if ctx.needs_input_grad[0] else None
        grad_scale = None
        if ctx.needs_input_grad[1]:
            slope = clipped.round_().sub_(steps * inside)
            grad_scale = torch.dot(grad.reshape(-1), slope.reshape(-1)).mul_(gradient)
        return grad_x, grad_scale, None, None, None


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, grid: QuantGrid, *, elements: int) -> torch.Tensor:
    """Quantize and dequantize, per tensor; gradients as in LSQ.

    d/dx = 1 inside the grid, 0 outside. d/ds = (round(v) - v) inside, qmin or qmax outside, v = x / s, times
    ``lsq_grad_scale(elements, qmax)``. ``elements``: of a weight, all; of an activation, those of one image, so that
    the batch size does not change how fast a scale learns (the authors count the batch). ``scale``: 0-d, positive.
    """
    gradient = lsq_grad_scale(elements, grid.qmax)
    return _LsqFunction.apply(x, scale, grid.qmin, grid.qmax, gradient)


def lsq_grad_scale(elements: int, qmax: int) -> float:
    """``g = 1 / sqrt(elements * qmax)`` (Esser et al., LSQ, ICLR 2020)."""
    return 1 / math.sqrt(elements * qmax)


def quantize(x: torch.Tensor, scale: torch.Tensor, grid: QuantGrid) -> torch.Tensor:
    """Integer codes (as floats) of the same arithmetic as `fake_quantize`."""
    return (x / scale).clamp(grid.qmin, grid.qmax).round()


class LearnedScales(nn.Module):
    """One learned scale for each of several grids of one tensor.

    The parameter is ``log_scale`` [len(grids)], ``scale = exp(log_scale)``: a scale is positive whatever the optimizer
    does, and a step is relative, so that large and small scales learn at one pace (Jain et al., TQT, MLSys 2020, learn
    log2). ``first`` keeps the scales before training.
    """

    log_scale: nn.Parameter
    first: torch.Tensor

    def __init__(self, grids: tuple[QuantGrid, ...]) -> None:
        super().__init__()
        self.grids = grids
        self.log_scale = nn.Parameter(torch.zeros(len(grids)))
        self.register_buffer("first", torch.ones(len(grids)))

    def initialise(self, scales: list[float]) -> None:
        """Start from these scales, one per grid."""
        with torch.no_grad():
            self.first.copy_(torch.tensor(scales))
            self.log_scale.copy_(self.first.log())

    def scale(self, index: int) -> torch.Tensor:
        """The 0-d scale of one grid."""
        return self.log_scale[index].exp()
