"""Models whose weights nobody reads: made without the minutes that random numbers for them take."""

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

RANDOM = ("normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_")
FILLS = (*RANDOM, "zero_", "fill_", "copy_", "erfinv_", "mul_", "div_", "add_", "sub_", "clamp_")
"""Methods that give a tensor its first numbers."""


class Unfilled(TorchFunctionMode):
    """Within it the parameters of new modules keep whatever their memory holds; their shapes are right."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if name in FILLS and isinstance(args[0], nn.Parameter):
            return args[0]
        if name in RANDOM:  # zeros, for torch draws again what lies outside of its bounds
            return args[0].zero_()
        return func(*args, **kwargs)
