"""The LSQ operator: fake quantization with a learned scale (Esser et al., LSQ, ICLR 2020)."""

import math
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.rounding import to_codes, to_fp8
from limpq_deploy.quant.lsq_kernel import kernel

LOG_LIMIT = 60.0
"""A scale lies within e^-60 and e^60: float32 holds it and its inverse, and both gradients stay finite."""

LARGEST_EXPONENT = 100
"""A power of two lies within 2^-100 and 2^100, where float32 has all its bits."""

COMPILED = os.environ.get("LIMPQ_LSQ") == "compiled"
"""Whether torch.compile fuses the operator where the C kernel does not run; see docs/adr/0010."""


class _LsqFunction(torch.autograd.Function):
    """Forward ``round(clip(x / s)) * s``. Saved are ``x``, which the operation that made it mostly keeps anyway, and
    ``s``: backward divides again, and masks by the unrounded value, as in the paper (torch's own learnable
    fake-quantize masks the rounded value)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        grid: QuantGrid,
        axis: int | None,
        damping: float,
        overwrite: bool,
        gather: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scale)
        ctx.settings = grid, axis, damping, overwrite
        ctx.leaf = x if gather and x.is_leaf and x.requires_grad else None
        native = kernel() if _suits_kernel(x, scale, grid) else None
        if native is not None:
            return native.forward(x, scale, grid, axis)
        return _operation(_forward)(x, _along(scale, x, axis), grid.qmin, grid.qmax, grid.fp8)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (upstream,) = grad_outputs
        x, scale = ctx.saved_tensors
        grid, axis, damping, overwrite = ctx.settings
        native = kernel() if _suits_kernel(x, scale, grid) and upstream.dtype == x.dtype else None
        if native is not None:
            into = None if ctx.leaf is None else ctx.leaf.grad
            if into is not None and into.stride() == x.stride():
                _, grad_scale = native.backward(x, upstream, scale, grid, axis, overwrite=overwrite, into=into)
                grad_x = None
            else:
                grad_x, grad_scale = native.backward(x, upstream, scale, grid, axis, overwrite=overwrite)
        else:
            grad_x, slope = _operation(_backward)(x, _along(scale, x, axis), upstream, grid.qmin, grid.qmax, grid.fp8)
            others = [dim for dim in range(x.dim()) if dim != axis]
            grad_scale = slope.sum(others) if others else slope
        return grad_x, grad_scale.mul_(damping), None, None, None, None, None


def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    grid: QuantGrid,
    *,
    elements: int,
    axis: int | None = None,
    overwrite: bool = False,
    gather: bool = False,
) -> torch.Tensor:
    """Quantize and dequantize; gradients as in LSQ, on a grid of FP8 too: ``round`` is to the nearest number of E4M3.

    d/dx = 1 inside the grid, 0 outside. d/ds = (round(v) - v) inside, qmin or qmax outside, v = x / s, times
    ``lsq_grad_scale(elements, qmax)``. ``elements``: of a weight, all; of an activation, those of one image, so that
    the batch size does not change how fast a scale learns (the authors count the batch). ``scale``: positive; 0-d, or
    one for each index of ``axis`` (then ``elements`` are those of one index).

    Half precision is quantized in float32, which is the result's type. The result lies in memory as ``x`` does, where
    that is without gaps. ``overwrite``: the caller is sure that nothing else reads the gradient of the result, and the
    gradient of ``x`` may take its memory (a weight that one convolution reads). ``gather``: where ``x`` is a parameter
    that has a gradient already, this one may be added to it directly, unseen by autograd (and by hooks on ``x``).
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    damping = lsq_grad_scale(elements, grid.qmax)
    found: torch.Tensor = _LsqFunction.apply(x, scale, grid, axis, damping, overwrite, gather)
    return found


def lsq_grad_scale(elements: int, qmax: int) -> float:
    """``g = 1 / sqrt(elements * qmax)`` (Esser et al., LSQ, ICLR 2020)."""
    return 1 / math.sqrt(elements * qmax)


def quantize(x: torch.Tensor, scale: torch.Tensor, grid: QuantGrid) -> torch.Tensor:
    """Codes (as floats) of the same arithmetic as `fake_quantize`; ``scale`` 0-d, or [O] along axis 0."""
    return to_codes(x / _along(scale, x, 0 if scale.dim() else None), grid)


class LearnedScales(nn.Module):
    """One learned scale for each of several grids of one tensor.

    The parameter is ``log_scale`` [len(grids)], ``scale = exp(log_scale)``, the logarithm held within `LOG_LIMIT`: a
    scale is positive and finite whatever the optimizer does, and a step is relative, so that large and small scales
    learn at one pace (Jain et al., TQT, MLSys 2020, learn log2). ``first`` keeps the scales before training.
    `require_finite_gradients` keeps NaN out. ``pow2``: scales are the powers of two next to what is learned.
    """

    log_scale: nn.Parameter
    first: torch.Tensor

    def __init__(self, grids: tuple[QuantGrid, ...], *, pow2: bool = False) -> None:
        super().__init__()
        self.grids = grids
        self.pow2 = pow2
        self.log_scale = nn.Parameter(torch.zeros(len(grids)))
        self.register_buffer("first", torch.ones(len(grids)))

    def initialise(self, scales: list[float]) -> None:
        """Start from these scales, one per grid."""
        with torch.no_grad():
            self.first.copy_(torch.tensor(scales))
            self.log_scale.copy_(self.first.log())

    def scale(self, index: int) -> torch.Tensor:
        """The 0-d scale of one grid."""
        log_scale = self.log_scale[index].clamp(-LOG_LIMIT, LOG_LIMIT)
        return nearest_power(log_scale) if self.pow2 else log_scale.exp()

    def folded_powers(self, index: int, factor_O: torch.Tensor, octaves_O: torch.Tensor) -> torch.Tensor:
        """The powers of two next to ``scale * factor`` [O], one for each channel's factor (0 counts as 1), times
        2^octaves."""
        factor = torch.where(factor_O > 0, factor_O, 1.0)
        return nearest_power(self.log_scale[index].clamp(-LOG_LIMIT, LOG_LIMIT) + factor.log(), octaves_O)

    def values(self) -> list[float]:
        """All scales as they are now."""
        log_scale = self.log_scale.detach().clamp(-LOG_LIMIT, LOG_LIMIT)
        return (nearest_power(log_scale) if self.pow2 else log_scale.exp()).tolist()


def nearest_power(log_scale: torch.Tensor, octaves: torch.Tensor | float = 0.0) -> torch.Tensor:
    """2^k, with k the integer next to log2 of a scale that is given by its logarithm, plus whole ``octaves``; exact,
    from the bits of a float.

    Gradients go straight through the rounding, d 2^k / d log_scale = 2^k (Jain et al., TQT, MLSys 2020, who round up).
    """
    exponent = ((log_scale.detach() / math.log(2)).round() + octaves).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    if log_scale.dtype == torch.float64:
        power = ((exponent.long() + 1023) << 52).view(torch.float64)
    else:
        power = ((exponent.int() + 127) << 23).view(torch.float32)
    return power * (log_scale - log_scale.detach()).exp()


def require_finite_gradients(model: nn.Module) -> None:
    """Raise ModelError that names the first quantizer (in the model's order) whose scale has a gradient that is not
    finite: one optimizer step with it would make the scale NaN for ever. One reduction over all of them."""
    named = [
        (name, module.log_scale.grad)
        for name, module in model.named_modules()
        if isinstance(module, LearnedScales) and module.log_scale.grad is not None
    ]
    if not named or bool(torch.cat([grad for _, grad in named]).isfinite().all()):
        return
    name, grad = next((name, grad) for name, grad in named if not grad.isfinite().all())
    quantizer = name.removeprefix("graph.").removesuffix(".scales")
    raise ModelError(
        f"the gradient of the scale of {quantizer!r} became {grad[~grad.isfinite()][0].item()}; lower the learning "
        "rates, or look for weights and images that are not finite"
    )


def _suits_kernel(x: torch.Tensor, scale: torch.Tensor, grid: QuantGrid) -> bool:
    return (
        not grid.fp8 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and scale.dtype == x.dtype
    )


def _along(scale: torch.Tensor, x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """The scale, in a shape that broadcasts along ``axis``."""
    return scale if axis is None else scale.view([-1 if dim == axis else 1 for dim in range(x.dim())])


def _forward(x: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int, fp8: bool) -> torch.Tensor:
    clipped = (x / scale).clamp_(qmin, qmax)
    return (to_fp8(clipped) if fp8 else clipped.round_()).mul_(scale)


def _backward(
    x: torch.Tensor, scale: torch.Tensor, upstream: torch.Tensor, qmin: int, qmax: int, fp8: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """d/dx, and per element d/ds before damping and summation."""
    steps = x / scale
    clipped = steps.clamp(qmin, qmax)
    inside = clipped == steps
    grad = upstream * inside
    rounded = to_fp8(clipped) if fp8 else clipped.round()
    return grad, upstream * (rounded - steps * inside)


@cache
def _operation(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True) if COMPILED else function
