"""Run images through a model and look at what given submodules receive."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    with watching_inputs(modules, look), torch.no_grad():
        model(images_NCHW)


@contextlib.contextmanager
def watching_inputs(modules: Mapping[str, nn.Module], look: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Within it ``look(name, tensor)`` is called with the first input of each module, whenever it is called."""

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def before(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            look(name, args[0].detach())

        return before

    handles: Iterable[Any] = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Sampled:
    """A tensor seen batch by batch: its exact ends, and about ``limit`` values of it, drawn evenly by ``seed``."""

    def __init__(self, *, batches: int, limit: int = 200_000, seed: int = 0) -> None:
        self._each = max(1, limit // batches)
        self._room = torch.empty(batches * self._each)  # now: between tensors that come and go it would hold them apart
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: list[torch.Tensor] = []
        self._low, self._high = float("inf"), float("-inf")

    def add(self, values: torch.Tensor) -> None:
        """Take one batch in."""
        flat = values.detach().reshape(-1).float()
        self._low, self._high = min(self._low, flat.min().item()), max(self._high, flat.max().item())
        if flat.numel() > self._each:
            flat = flat[torch.randint(flat.numel(), (self._each,), generator=self._generator).to(flat.device)]
        room, self._room = self._room[: flat.numel()], self._room[flat.numel() :]
        self._drawn.append(room.copy_(flat) if len(room) == flat.numel() else flat.cpu().clone())

    def values(self) -> torch.Tensor:
        """What was drawn, and both ends: ``[K]``, float32."""
        return torch.cat([*self._drawn, torch.tensor([self._low, self._high])])


def sample_inputs(
    model: nn.Module, modules: Mapping[str, nn.Module], batches: Iterable[torch.Tensor], *, count: int, seed: int
) -> dict[str, torch.Tensor]:
    """Values that each module receives over ``count`` batches of images_NCHW, see `Sampled`; by name."""
    seen = {name: Sampled(batches=count, seed=seed + number) for number, name in enumerate(modules)}
    for images_NCHW in batches:
        observe_inputs(model, modules, images_NCHW, lambda name, values: seen[name].add(values))
    return {name: seen.pop(name).values() for name in modules}
