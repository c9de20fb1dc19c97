"""Run images through a model and look at what given submodules receive."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn


def observe_inputs(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    images_NCHW: torch.Tensor,
    look: Callable[[str, torch.Tensor], None],
) -> None:
    """Call ``look(name, tensor)`` with the first input of each module, in execution order, for one batch."""

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def before(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            look(name, args[0].detach())

        return before

    handles: Iterable[Any] = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            model(images_NCHW)
    finally:
        for handle in handles:
            handle.remove()
