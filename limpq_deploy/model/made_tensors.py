"""Tensors that a forward makes and then writes images into: ``out = torch.zeros(n, 8, h, w); out[:, ::2] = x``.

torch.fx knows proxies alone: what is written into a real tensor is lost to it. Here the tensor becomes a copy in the
graph as soon as a proxy is written into it, and whatever names it from then on gets that copy's proxy.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from limpq_deploy.calibration.errors import ModelError


class MadeTensors(TorchFunctionMode):
    """While a model is traced. ``copied``: gives a proxy of a copy of a tensor; ``here``: the user's line."""

    def __init__(self, copied: Callable[[Tensor], fx.Proxy], here: Callable[[], str]) -> None:
        super().__init__()
        self._copied, self._here = copied, here
        self._shown: dict[int, tuple[Tensor, fx.Proxy]] = {}
        self._storages: set[int] = set()

    def proxy_of(self, one: Any) -> Any:
        """The proxy of a tensor that was written into, and anything else as it is. Raises ModelError for another view
        of such a tensor, which would not show what was written."""
        if not self._shown or not isinstance(one, Tensor) or isinstance(one, fx.Proxy):
            return one
        if id(one) in self._shown:
            return self._shown[id(one)][1]
        if not one.is_meta and one.untyped_storage()._cdata in self._storages:
            raise ModelError(
                f"the model's forward writes into a view of a tensor that it made{self._here()}; write into the tensor "
                "itself, as in x[:, 0] = y"
            )
        return one

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rest: tuple[Any, ...] = args[1:]
        kwargs = kwargs or {}
        if self._shown:
            rest, kwargs = map_aggregate((rest, kwargs), self.proxy_of)
        name = getattr(func, "__name__", "")
        writes = name == "__setitem__" or (name.startswith("__i") and name != "__index__" and name != "__invert__")
        writes |= name.endswith("_") and not name.endswith("__")
        if writes and args and _is_real(args[0]) and _holds_proxies((rest, kwargs)):
            self._show(args[0], assigned=args[-1] if name == "__setitem__" else None)
        if _is_real(kwargs.get("out")) and _holds_proxies((args, kwargs)):
            self._show(kwargs["out"], assigned=None)
            kwargs = {**kwargs, "out": self.proxy_of(kwargs["out"])}
        if func is torch.empty:  # what happens to be in memory would be part of the graph
            return func(*args, **kwargs).zero_()
        if not self._shown:
            return func(*args, **kwargs)
        args = (*map_aggregate(args[:1], self.proxy_of), *rest)
        if args and isinstance(args[0], fx.Proxy):  # methods of tensors take no proxy; its own do what they do
            if name == "__get__":
                return getattr(args[0], func.__self__.__name__)  # type: ignore[attr-defined]
            if func is getattr(Tensor, name, None):
                return getattr(args[0], name)(*rest, **kwargs)
        return func(*args, **kwargs)

    def _show(self, tensor: Tensor, assigned: Any) -> None:
        """``x[:, 0] += y`` writes into a view of ``x``, and then what that gives (``assigned``) into ``x`` itself."""
        storage = tensor.untyped_storage()._cdata
        if id(tensor) in self._shown:
            return
        if storage in self._storages:
            made = assigned.node.args[:1] if isinstance(assigned, fx.Proxy) else ()
            views = [key for key, (_, proxy) in self._shown.items() if made == (proxy.node,)]
            if not views:
                self.proxy_of(tensor)
            for view in views:
                del self._shown[view]
        self._storages.add(storage)
        self._shown[id(tensor)] = tensor, self._copied(tensor)


def _is_real(one: Any) -> bool:
    return isinstance(one, Tensor) and not isinstance(one, fx.Proxy | nn.Parameter) and not one.is_meta


def _holds_proxies(values: Any) -> bool:
    found = False

    def look(one: Any) -> Any:
        nonlocal found
        found |= isinstance(one, fx.Proxy)
        return one

    map_aggregate(values, look)
    return found
