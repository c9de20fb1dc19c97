"""Python while a model is traced: what a forward calls takes proxies for what they stand for."""

import builtins
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.fx import _symbolic_trace as torch_fx
from torch.utils import checkpoint as checkpoints

TRACED_THROUGH = ("torchvision.",)
"""Libraries whose functions hide from torch.fx what can be traced where shapes are known."""

KEEPING = ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl")
"""What a checkpoint runs around a forward, torch 2.13 and before, and since: it keeps the inputs, which are proxies."""

PYTHONS = builtins.isinstance


@contextlib.contextmanager
def knowing(value_of: Callable[[Any], Any]) -> Iterator[None]:
    """``value_of``: what a proxy stands for, None of anything else.

    Within it ``isinstance`` takes the proxy of a tensor for a tensor (a ``__class__`` of the proxy's own would be
    believed by torch's C++, too), a user's autograd function is what its forward computes, a scripted function is the
    one that was scripted, a checkpoint keeps nothing, and what torchvision hides from torch.fx is traced through.
    """
    function: Any = torch.autograd.Function
    check, apply = builtins.isinstance, function.__dict__["apply"]
    scripted = torch.jit.ScriptFunction.__call__
    keeping = {name: getattr(checkpoints, name) for name in KEEPING if hasattr(checkpoints, name)}
    hidden = {
        key: names
        for key, names in torch_fx._wrapped_fns_to_patch.items()
        if str(names.get("__name__")).startswith(TRACED_THROUGH) and key[1] != "stochastic_depth"
    }

    def isinstance_(one: Any, kinds: Any, /) -> bool:
        return check(one, kinds) or (check(one, fx.Proxy) and check(value_of(one), kinds))

    def proxied(*values: Any) -> bool:
        return any(check(one, fx.Proxy) for one in values)

    def unscripted(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = getattr(self, "_torchdynamo_inline", None) if proxied(*args, *kwargs.values()) else None
        return scripted(self, *args, **kwargs) if own is None else own(*args, **kwargs)

    def applied(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        if not proxied(*args, *kwargs.values()):
            return apply.__get__(None, cls)(*args, **kwargs)
        split = cls.setup_context is not torch.autograd.Function.setup_context
        return cls.forward(*args, **kwargs) if split else cls.forward(_Context(), *args, **kwargs)

    try:
        builtins.isinstance = isinstance_
        function.apply = classmethod(applied)
        torch.jit.ScriptFunction.__call__ = unscripted  # type: ignore[method-assign]
        for name in keeping:
            setattr(checkpoints, name, lambda *_, **__: iter((None,)))
        for key in hidden:
            del torch_fx._wrapped_fns_to_patch[key]
        yield
    finally:
        builtins.isinstance = check
        torch.jit.ScriptFunction.__call__ = scripted  # type: ignore[method-assign]
        for name, generator in keeping.items():
            setattr(checkpoints, name, generator)
        function.apply = apply
        torch_fx._wrapped_fns_to_patch.update(hidden)


@contextlib.contextmanager
def not_knowing() -> Iterator[None]:
    """Within it ``isinstance`` is Python's own again. What torch imports while it computes would keep the other one: a
    compiler that does cannot export an LSTM any more."""
    knows = builtins.isinstance
    builtins.isinstance = PYTHONS
    try:
        yield
    finally:
        builtins.isinstance = knows


class _Context:
    """What an autograd function's forward keeps for its backward: nothing."""

    def save_for_backward(self, *_: Any) -> None: ...

    def mark_non_differentiable(self, *_: Any) -> None: ...

    def set_materialize_grads(self, _: bool) -> None: ...
