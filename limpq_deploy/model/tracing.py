"""torch.fx with three additions: calls remember the line of the user's that made them, ``x += y`` is what it is, and
modules that are plain ones but for their type become plain: timm's fused BatchNorm comes apart into a BatchNorm2d and
an activation, its Linear and classes that change nothing of torch's are torch's."""

import copy
import inspect
import random
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.foreign import cause, is_users, line_of, line_of_stack
from limpq_deploy.model.hidden_state import require_nothing_hidden
from limpq_deploy.model.operations import AUGMENTED, MODULE_KINDS

TORCH = Path(torch.__file__).parent
WRITTEN_AT = "written_at"
"""Where a node's meta holds its line. torch.fx's own record of it imports torch's compiler, which takes seconds."""
HARMLESS = {
    *("__init__", "__module__", "__doc__", "__repr__", "__constants__", "__annotations__", "__qualname__"),
    *("__firstlineno__", "__static_attributes__", "extra_repr", "reset_parameters", "__jit_unused_properties__"),
}
"""What a class may define and still compute what its base class does."""


def symbolic_trace(model: nn.Module) -> fx.GraphModule:
    """Trace a model in evaluation mode. Raises ModelError, naming the line that stops it."""
    require_nothing_hidden(model)
    tracer = _Tracer()
    before = _draws(), _versions(model)
    try:
        graph = tracer.trace(model)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the model cannot be traced: {cause(error)}{line_of(error)}; {_remedy(error)}") from error
    if _draws() != before[0]:
        raise ModelError(
            f"the model's forward draws random numbers in evaluation mode, too{_moved_at(model, _draws)}; expected a "
            "forward that gives one result: draw only where self.training is set"
        )
    if _versions(model) != before[1]:
        raise ModelError(
            "the model's forward writes into its own parameters or buffers in evaluation mode, too"
            f"{_moved_at(model, lambda: _versions(model))}; expected a forward that leaves the model as it is"
        )
    graph_module = fx.GraphModule(tracer.root, graph)
    for name in tracer.fused:
        _take_apart(graph_module, name)
    for name, kind in tracer.plain.items():
        graph_module.set_submodule(name, _as_plain(graph_module.get_submodule(name), kind))
    graph_module.recompile()
    return graph_module


def _remedy(error: Exception) -> str:
    if "does not support item assignment" in str(error):
        return "it writes into part of a tensor: make the whole one anew, with torch.cat or torch.where"
    if "dynamo-optimized" in str(error):
        return "take torch.compile off its forward and off the functions that it calls"
    if isinstance(error, TypeError) and "missing" in str(error):
        return "its forward must take the images alone, or have defaults for the rest"
    if isinstance(error, fx.proxy.TraceError | TypeError) or "Proxy" in str(error):
        return "its forward must not branch on tensor values"
    return "mend the forward, or see all of it with --debug"


def _draws() -> tuple[object, ...]:
    """The states of the generators that a forward may draw from."""
    numpys = np.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpys["key"].tobytes(), numpys["pos"]


def _moved_at(model: nn.Module, look: Callable[[], object]) -> str:
    """`` (file.py:12)``: the user's line behind which ``look`` gives something else; the model is traced again."""
    start = look()
    passed, moved = [""], [""]

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if not is_users(path):
            return None
        if moved == [""] and look() != start:
            moved[:] = passed[-1:]
        passed[:] = [(_callers_line(frame) if event == "return" else _line(frame)) or passed[0]]
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        _Tracer().trace(model)
    finally:
        sys.settrace(before)
    return moved[0] or passed[0]


def _line(frame: FrameType) -> str:
    return f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def _callers_line(frame: FrameType) -> str:
    """Where the user's call stands that a frame returns to, and whose line goes on; empty behind the forward itself."""
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename != __file__:
        if is_users(Path(caller.f_code.co_filename)):
            return _line(caller)
        caller = caller.f_back
    return ""


def _versions(model: nn.Module) -> list[int]:
    """How often each parameter and buffer was written into."""
    return [tensor._version for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_inference()]


def written_at(node: fx.Node) -> str:
    """`` (file.py:12)``: the line that made a call, for a sentence; empty where it is not known."""
    return str(node.meta.get(WRITTEN_AT, ""))


def _augmented(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


class _Name(fx.Proxy):
    """A tensor while a model is traced. torch.fx takes ``x += y`` for ``x = x + y``, although it changes what every
    other name of ``x`` shows; and it forgets ``x.data = y``, which is refused here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise ModelError(f"the model's forward sets {name!r} of a tensor{self._here()}; make a new tensor instead")
        super().__setattr__(name, value)

    def _here(self) -> str:
        return line_of_stack(traceback.extract_stack())


for _operator in AUGMENTED:
    setattr(_Name, f"__{_operator.__name__}__", _augmented(_operator))


class _Tracer(fx.Tracer):
    """``fused``: names of modules that are a BatchNorm2d with an activation behind it; ``plain``: those that are, by
    inheritance, one of torch's own, and which."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: list[str] = []
        self.plain: dict[str, type[nn.Module]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kind = _plain_kind(m)
        if kind is not None:
            self.plain[module_qualified_name] = kind
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and _is_machinery(frame.f_code.co_filename):
            frame = None if frame.f_code is symbolic_trace.__code__ else frame.f_back
        if frame is not None:
            node.meta[WRITTEN_AT] = f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
        if torch.is_autocast_enabled("cpu"):
            raise ModelError(
                f"the model's forward computes under autocast{written_at(node)}, which no graph shows; leave it out: "
                "the model is compared in float32, and training has a setting of its own"
            )
        return node

    def create_args_for_root(self, root_fn: Any, *_: Any, **__: Any) -> tuple[Any, list[Any]]:
        """One tensor, the images: other arguments have their defaults, as where the model itself is called."""
        names = (*inspect.signature(root_fn).parameters, "images")
        return root_fn, [self.root, self.create_proxy("placeholder", names[1], (), {})]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Name(node, self)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _is_fused(m):
            return super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        self.fused.append(name)
        result = self.create_proxy("call_module", name, args, kwargs)
        for part in (m.drop, m.act):
            result = part(result)  # type: ignore[operator]
        return result


def _plain_kind(module: nn.Module) -> type[nn.Module] | None:
    """Which supported module of torch's this is by inheritance, where no class in between changes what it does."""
    kind = type(module)
    if kind in MODULE_KINDS or isinstance(module, nn.Sequential):
        return None
    if kind.__module__ == "timm.layers.linear" and isinstance(module, nn.Linear):
        return nn.Linear
    own = {*module._parameters, *module._buffers}
    for base in kind.__mro__:
        if base in MODULE_KINDS:
            added = {name for one in kind.__mro__[: kind.__mro__.index(base)] for name in vars(one)}
            changed = {
                name
                for name in added - HARMLESS
                if hasattr(base, name)
                or name in own
                or name.startswith("__get")
                or isinstance(getattr(kind, name), property)
            }
            return None if changed else base
    return None


def _is_fused(module: nn.Module) -> bool:
    """timm's BatchNormAct2d: a BatchNorm2d by inheritance that calls a ``drop`` and an ``act`` behind it."""
    parts = (getattr(module, "drop", None), getattr(module, "act", None))
    return (
        isinstance(module, nn.BatchNorm2d)
        and type(module).__module__.startswith("timm.layers.")
        and all(isinstance(part, nn.Module) for part in parts)
    )


def _take_apart(graph_module: fx.GraphModule, name: str) -> None:
    """A plain BatchNorm2d in place of a fused module, whose parts move beside it: ``bn1.act`` becomes ``bn1_act``."""
    fused = graph_module.get_submodule(name)
    for part, module in fused.named_children():
        for node in graph_module.graph.nodes:
            if node.op == "call_module" and node.target == f"{name}.{part}":
                graph_module.add_submodule(f"{name}_{part}", module)
                node.target = f"{name}_{part}"
    graph_module.set_submodule(name, _as_plain(fused, nn.BatchNorm2d))


def _as_plain(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """``module`` as one of its base class ``kind``, with the same parameters and buffers."""
    plain = copy.copy(module)
    plain.__class__ = kind
    plain._modules = {}
    return plain


@cache
def _is_machinery(path: str) -> bool:
    return Path(path).is_relative_to(TORCH) or Path(path) == Path(__file__)
