"""Calls of a traced graph on tensors that have shapes and no values (torch's device "meta"): nothing is computed.

What has no such form is computed on zeros. What reads values (a branch, ``nonzero``) raises `ReadsValues`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.utils._python_dispatch import TorchDispatchMode

from limpq_deploy.model.hidden_state import without_hooks

READERS = ("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__")
"""Methods whose result is the value of a tensor."""

_READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class ReadsValues(Exception):
    """A result that depends on more than shapes; the text says how it is read."""


class _Seen(TorchDispatchMode):
    """Notes whether anything below draws random numbers; refuses what reads values, where ``strict``."""

    def __init__(self, *, strict: bool) -> None:
        super().__init__()
        self.strict = strict
        self.draws = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: that would import torch's compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        if self.strict and any(tag in func.tags for tag in _READS):
            raise ReadsValues(func.overloadpacket.__name__.lstrip("_"))
        return func(*args, **(kwargs or {}))


class OnMeta:
    """The calls of one model. ``root``: where modules and attributes are looked up."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._modules: dict[str, nn.Module] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        self.draws = False
        """Whether the last call drew random numbers."""

    def call(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        """The result of a node but placeholder and output. Raises ReadsValues, or what the call raises on zeros."""
        self.draws = False
        args, kwargs = map_arg((node.args, node.kwargs), lambda one: env[one])
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        if node.op == "call_method" and node.target in READERS:
            raise ReadsValues(str(node.target))
        if (same := self._normalised(node, args)) is not None:
            return same
        try:
            with torch.no_grad(), _Seen(strict=False) as seen:
                result = self._function(node, shadow=True)(*args, **kwargs)
        except Exception:
            args, kwargs = map_aggregate((args, kwargs), _zeros)
            with torch.no_grad(), _Seen(strict=True) as seen:
                result = map_aggregate(self._function(node, shadow=False)(*args, **kwargs), self.shadow_tensor)
        self.draws = seen.draws
        return result

    def _normalised(self, node: fx.Node, args: tuple[Any, ...]) -> Tensor | None:
        """A BatchNorm2d's result in evaluation mode, which torch takes long to say the shape of; None of others."""
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) is not nn.BatchNorm2d or module.training or not module.track_running_stats:
            return None
        image = args[0] if args else None
        fits = isinstance(image, Tensor) and image.dim() == 4 and image.shape[1] == module.num_features
        return torch.empty_like(image) if fits else None  # type: ignore[arg-type]

    def shadow_tensor(self, value: Any) -> Any:
        """A tensor's form without values, always the same one; anything else itself."""
        if not isinstance(value, Tensor) or value.is_meta:
            return value
        if id(value) not in self._tensors:
            self._tensors[id(value)] = value, _emptied(value)
        return self._tensors[id(value)][1]

    def module(self, name: str) -> nn.Module:
        """A submodule whose parameters and buffers have no values."""
        if name not in self._modules:
            self._modules[name] = self._shadow(self.root.get_submodule(name))
        return self._modules[name]

    def _attribute(self, name: str) -> Any:
        owner, _, own = name.rpartition(".")
        return self.shadow_tensor(getattr(self.root.get_submodule(owner), own))

    def _function(self, node: fx.Node, *, shadow: bool) -> Callable[..., Any]:
        if node.op == "call_module":
            name = str(node.target)
            return self.module(name) if shadow else without_hooks(self.root.get_submodule(name))
        if node.op == "call_method":
            return lambda itself, *args, **kwargs: getattr(itself, str(node.target))(*args, **kwargs)
        assert callable(node.target)
        return node.target

    def _shadow(self, module: nn.Module) -> nn.Module:
        found = copy.copy(without_hooks(module))
        for owned in ("_parameters", "_buffers"):
            tensors = {name: self.shadow_tensor(tensor) for name, tensor in getattr(module, owned).items()}
            found.__dict__[owned] = tensors
        found.__dict__["_modules"] = {
            name: None if child is None else self._shadow(child) for name, child in module._modules.items()
        }
        return found


def _emptied(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _zeros(value: Any) -> Any:
    return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, Tensor) and value.is_meta else value
