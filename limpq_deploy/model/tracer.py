"""A torch.fx tracer that knows shapes: every proxy of a tensor has its shape and type, and whatever a forward asks of
these is a number of Python's: ``H, W = x.shape[-2:]``, ``len(x)``, ``if``, ``assert`` and ``max`` on sizes, ``for y in
x.chunk(2)``. A graph is traced for so many images; `any_batch` makes of two such graphs one for any number.

A forward that takes another way by a tensor's values is refused with its line.
"""

import inspect
import operator
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.hidden_state import hooked
from limpq_deploy.model.knowing_proxies import knowing, not_knowing
from limpq_deploy.model.lines import note_line, written_at
from limpq_deploy.model.made_tensors import MadeTensors
from limpq_deploy.model.node_by_node import float_type
from limpq_deploy.model.on_meta import OnMeta, ReadsValues
from limpq_deploy.model.plain_modules import is_fused, plain_kind
from limpq_deploy.model.results import plain_nest
from limpq_deploy.model.traced_tensor import TracedTensor, branches, cpus, here

TORCH = Path(torch.__file__).parent
MADE_BY_SHAPE = ("new_zeros", "new_ones", "new_full", "new_tensor")
"""Methods that take of a tensor its type only: what they make is a constant."""


OF_THE_TYPE = ("to", "type_as")
"""Methods that take of other tensors their type only."""


SQUEEZES = (torch.squeeze, "squeeze")
ASSERTIONS = (torch._assert, torch._assert_async)


class ShapeTracer(fx.Tracer):
    """``images``: their shape, [N, C, H, W]. ``fused``: names of modules that are a BatchNorm2d with an activation
    behind it; ``plain``: those that are one of torch's own, and which.
    ``counted``: whether whole numbers among the model's attributes changed.
    ``failed``: what the last call raised that did not run on these images. ``squeezed``: the axes that each
    ``x.squeeze()`` takes away; ``squeezes``: those of a trace for several images, which hold for one, too."""

    def __init__(
        self, images: tuple[int, ...], root: nn.Module, squeezes: tuple[tuple[int, ...], ...] | None = None
    ) -> None:
        super().__init__()
        self.images = images
        self.counted = False
        self.squeezes = squeezes
        self.squeezed: list[tuple[int, ...]] = []
        self.fused: list[str] = []
        self.plain: dict[str, type[nn.Module]] = {}
        self.values: dict[fx.Node, Any] = {}
        self._parts: dict[fx.Node, None] = {}
        self._hung: dict[str, None] = {}
        self._on_meta = OnMeta(root)
        self._computing = False
        self.failed: Exception | None = None
        self._type = float_type(root)
        self._names = {id(one): name for name, one in root.named_parameters(remove_duplicate=False)}
        self._made = MadeTensors(self._copied, here)
        self._owned = {id(one) for one in (*root.parameters(), *root.buffers())}
        self._parameters: dict[int, Any] = {}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with knowing(lambda one: one._value if type(one) is TracedTensor else None), self._made:
            graph = super().trace(root, concrete_args)
        for node in reversed(list(graph.nodes)):
            if not node.users and (node.op == "get_attr" or node in self._parts):
                graph.erase_node(node)
        return graph

    def forget_constants(self) -> None:
        """Take off the model what torch.fx hung there: tensors that its forward made."""
        for name in self._hung:
            if hasattr(self.root, name):  # another trace of one model may have hung the same tensor there
                delattr(self.root, name)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.RReLU):  # a LeakyReLU in evaluation mode
            return False
        kind = plain_kind(m)
        if kind is not None:
            self.plain[module_qualified_name] = kind
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._computing or not isinstance(attr_val, nn.Parameter) or id(attr_val) not in self._names:
            return attr_val
        if id(attr_val) not in self._parameters:
            self._parameters[id(attr_val)] = self.create_proxy("get_attr", self._names[id(attr_val)], (), {})
        return self._parameters[id(attr_val)]

    def create_arg(self, a: Any) -> Any:
        a = self._made.proxy_of(a)
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, np.generic):  # torch.fx would write its repr, a name that no graph knows
            return a.item()
        if (nest := plain_nest(a)) is not a:  # torch.fx would write a call of the class
            return self.create_arg(nest)
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a.grad_fn is not None:
            raise ModelError(
                f"the model's forward computes with parameters in a way that no graph shows{here()}; read them as "
                "attributes of their modules, as in self.weight"
            )
        made = super().create_arg(a)
        if isinstance(a, Tensor) and isinstance(made, fx.Node) and str(made.target).startswith("_tensor_constant"):
            self._hung[str(made.target)] = None
        return made

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        note_line(node, _is_machinery, ShapeTracer.trace.__code__)
        if node.op == "get_attr":
            self.values[node] = self._computed(node)
        if torch.is_autocast_enabled("cpu"):
            raise ModelError(
                f"the model's forward computes under autocast{written_at(node)}, which no graph shows; leave it out: "
                "the model is compared in float32, and training has a setting of its own"
            )
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        if kind == "call_method" and target in OF_THE_TYPE and not isinstance(args[0], fx.Proxy):
            return self._like_images(target, args, kwargs)
        if target in ASSERTIONS:
            return None
        if target is F.rrelu and not _bound(F.rrelu, args, kwargs)["training"]:
            given = _bound(F.rrelu, args, kwargs)
            slope = (given["lower"] + given["upper"]) / 2
            target, args, kwargs = F.leaky_relu, (given["input"], slope, given["inplace"]), {}
        squeezes = kind != "call_module" and target in SQUEEZES
        if squeezes and len(args) == 1 and not kwargs and isinstance(args[0], fx.Proxy):
            args = (args[0], self._axes_of_one(self.values[args[0].node]))
            if not args[1]:
                return args[0]
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if kind not in ("call_module", "call_function", "call_method"):
            return proxy
        node = proxy.node
        if kind == "call_method" and target in MADE_BY_SHAPE:
            made = getattr(torch.zeros((), dtype=self.values[args[0].node].dtype), target)(*args[1:], **_on_cpu(kwargs))
            self.graph.erase_node(node)
            return made
        try:
            return self._handed(proxy, self._computed(node))
        except Exception:  # which the forward may catch, and take another way
            self.graph.erase_node(node)
            raise

    def _axes_of_one(self, tensor: Tensor) -> tuple[int, ...]:
        """The axes that a ``squeeze`` takes away where there are several images: theirs stays."""
        known = () if self.squeezes is None else self.squeezes[len(self.squeezed) : len(self.squeezed) + 1]
        axes = tuple(axis for axis, size in enumerate(tensor.shape) if size == 1)
        self.squeezed.append(known[0] if known else axes)
        return self.squeezed[-1]

    def _copied(self, tensor: Tensor) -> Any:
        """A tensor that the forward made, as it is now, to be written into."""
        return self.create_proxy("call_method", "clone", (tensor.clone(),), {})

    def _like_images(self, target: str, args: Any, kwargs: Any) -> Tensor:
        """A tensor of the model's own in the type of the images' (``self.mean.to(x)``): a constant, too."""

        def typed(one: Any) -> Any:
            return torch.empty((), dtype=one.dtype) if type(one) is TracedTensor else one

        others = {name: typed(one) for name, one in _on_cpu(kwargs).items()}
        return getattr(args[0], target)(*map(typed, args[1:]), **others)

    def _computed(self, node: fx.Node) -> Any:
        self._computing = True
        try:
            with not_knowing(), torch._C.DisableTorchFunction():
                return self._on_meta.call(node, self.values)
        except ReadsValues as error:
            raise branches(str(error), written_at(node)) from error
        except Exception as error:
            self.failed = error
            raise
        finally:
            self._computing = False

    def _handed(self, proxy: fx.Proxy, value: Any) -> Any:
        """What the forward gets of a call's result: tensors as proxies, whatever holds them, and all else as it is."""
        node = proxy.node
        self.values[node] = value
        if isinstance(value, Tensor):
            return proxy
        if isinstance(value, tuple | list) and any(isinstance(one, Tensor | tuple | list) for one in value):
            parts = []
            for number, one in enumerate(value):
                part = fx.Tracer.create_proxy(self, "call_function", operator.getitem, (proxy, number), {})
                self._parts[part.node] = None
                parts.append(self._handed(part, one))
            return _like(value, parts)
        if _is_plain(value):
            del self.values[node]
            self._parts.pop(node, None)
            self.graph.erase_node(node)
            return cpus(value)
        return proxy

    def create_args_for_root(self, root_fn: Any, *_: Any, **__: Any) -> tuple[Any, list[Any]]:
        """The images, and other tensors that have no default, all of the images' shape."""
        names = [
            name
            for number, (name, one) in enumerate(inspect.signature(root_fn).parameters.items())
            if number == 1 or (number > 1 and one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD)
        ]
        arguments = []
        for name in names or ["images"]:
            proxy = self.create_proxy("placeholder", name, (), {})
            self.values[proxy.node] = torch.empty(self.images, dtype=self._type, device="meta")
            arguments.append(proxy)
        return root_fn, [self.root, *arguments]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TracedTensor(node, self)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._computing:
            return forward(*args, **kwargs)
        if self.submodule_paths is not None and m not in self.submodule_paths:
            _require_no_numbers(m, self._owned)
            return forward(*args, **kwargs)
        name = self.path_of_module(m)
        if not is_fused(m) and not self.is_leaf_module(m, name):
            return super().call_module(m, forward, args, kwargs)
        return hooked(m, lambda given: self._leaf(m, name, forward, given, kwargs), args)

    def _leaf(self, m: nn.Module, name: str, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_fused(m):
            return super().call_module(m, forward, args, kwargs)
        self.fused.append(name)
        result = self.create_proxy("call_module", name, args, kwargs)
        for part in (m.drop, m.act):
            result = part(result)  # type: ignore[operator]
        return result


def _require_no_numbers(module: nn.Module, owned: set[int]) -> None:
    """Of its own, of a module that the model does not hold: ``nn.ReLU()(x)`` is what it computes, and a part of an
    nn.Sequential, ``self.body[:2](x)``, holds the model's modules. ``owned``: ids of the model's tensors."""
    if any(id(one) not in owned for one in (*module.parameters(), *module.buffers())):
        raise ModelError(
            f"the model's forward calls a {type(module).__name__} that is no submodule of the model{here()}, so that "
            "state_dict() and eval() do not reach it; make it in __init__, and keep it as an attribute or in an "
            "nn.ModuleList or nn.ModuleDict instead of a plain list or dict"
        )


def _bound(function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _like(value: Any, parts: list[Any]) -> Any:
    """A tuple, list or named result of torch's (``max`` along an axis) that holds ``parts``."""
    if hasattr(value, "_fields"):
        return type(value)(*parts)
    return type(value)(parts) if type(value).__module__ == "torch.return_types" or isinstance(value, tuple) else parts


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device)


def _on_cpu(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "device"}


@cache
def _is_machinery(path: str) -> bool:
    return Path(path).is_relative_to(TORCH) or Path(path) in MACHINERY


MACHINERY = {
    Path(__file__),
    *(Path(one.__code__.co_filename) for one in (note_line, MadeTensors.proxy_of, hooked, here)),
}
