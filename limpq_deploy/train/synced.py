"""BatchNorm over the batch of all processes: statistics of a share of it would train another network."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from limpq_deploy.train.device import at_least_float32
from limpq_deploy.train.processes import count


def synced_batchnorm() -> contextlib.AbstractContextManager[Any]:
    """Within it `torch.nn.functional.batch_norm`, in training, sees all processes' images; whatever module calls it.

    torch's SyncBatchNorm does the same for `nn.BatchNorm2d`, and on GPUs only.
    """
    return _Synced() if count() > 1 else contextlib.nullcontext()


class _Synced(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """As `torch.nn.functional.batch_norm`; x is NC..."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    normalised, mean, var, number = _Normalise.apply(x, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = var * (number / (number - 1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    shape = (1, -1, *(1,) * (x.dim() - 2))
    if weight is not None:
        normalised = normalised * weight.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(x.dtype)


class _Normalise(torch.autograd.Function):
    """``y = (x - mean) / sqrt(var + eps)`` with mean and (biased) variance of each channel over all processes.

    ``dx = (dy - mean(dy) - y * mean(dy * y)) / sqrt(var + eps)``, the means again over all processes, whose losses add
    up to the loss of the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        values = at_least_float32(x)
        dims = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(values, dim=dims, unbiased=False)
        mine = values.numel() // values.shape[1]
        sums = torch.stack([mean, var + mean.square(), torch.ones_like(mean)]).double() * mine
        distributed.all_reduce(sums)
        number = sums[2]
        mean64 = sums[0] / number
        var64 = (sums[1] / number - mean64.square()).clamp_(min=0)
        shape = (1, -1, *(1,) * (x.dim() - 2))
        inverse = (var64 + eps).rsqrt().to(values.dtype).view(shape)
        y = (values - mean64.to(values.dtype).view(shape)) * inverse
        ctx.save_for_backward(y, inverse, number)
        ctx.dims = dims
        ctx.mark_non_differentiable(mean64, var64, number)
        return y, mean64, var64, number

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        dy = grad_outputs[0]
        y, inverse, number = ctx.saved_tensors
        sums = torch.stack([dy.sum(ctx.dims), (dy * y).sum(ctx.dims)]).double()
        distributed.all_reduce(sums)
        first, second = ((total / number).to(dy.dtype).view(inverse.shape) for total in sums)
        return (dy - first - y * second) * inverse, None
