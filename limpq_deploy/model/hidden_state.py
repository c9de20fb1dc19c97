"""What changes a module's results and does not show in its type: hooks, and a forward set on one module."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn
from torch.nn.modules import module as torch_module

from limpq_deploy.calibration.errors import ModelError

HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
}
GLOBAL_HOOKS = {
    "_global_forward_hooks": "a forward hook",
    "_global_forward_pre_hooks": "a forward pre-hook",
    "_global_backward_hooks": "a backward hook",
    "_global_backward_pre_hooks": "a backward pre-hook",
}


def require_nothing_hidden(model: nn.Module) -> None:
    """Raises ModelError, which names module and hook, where a result depends on more than modules and weights."""
    for sentence in _hidden(model):
        raise ModelError(sentence)


def _hidden(model: nn.Module) -> Iterator[str]:
    for attribute, kind in GLOBAL_HOOKS.items():
        for hook in getattr(torch_module, attribute, {}).values():
            yield (
                f"torch has {kind} for all modules ({name_of(hook)}), which no graph shows; remove it before the model "
                "is made"
            )
    if type(model).__call__ is not nn.Module.__call__ and not isinstance(model, fx.GraphModule):
        yield (
            f"the model ({type(model).__name__}) has a __call__ of its own ({name_of(type(model).__call__)}), which "
            "the tracer does not follow; write what it does into the forward"
        )
    for name, module in model.named_modules():
        shown = f"module {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        for attribute, kind in HOOKS.items():
            for number, hook in getattr(module, attribute, {}).items():
                if module is not model and _is_followed(module, attribute, number):
                    continue
                yield (
                    f"{shown} has {kind} ({name_of(hook)}), which no graph shows; write what it does into the forward, "
                    "or remove it"
                )
        for own in _methods(module) if module is model or type(module).__module__.startswith("torch.nn") else ():
            yield (
                f"{shown} has a {own} of its own, set on this one module ({name_of(vars(module)[own])}); write it into "
                "the module's class"
            )


def _is_followed(module: nn.Module, attribute: str, number: int) -> bool:
    """Whether the tracer runs a hook: one around a forward that takes no named arguments, written in Python."""
    named = (f"{attribute}_with_kwargs", f"{attribute}_always_called")
    own = getattr(module, attribute)[number]
    written = hasattr(getattr(own, "__func__", own), "__code__")
    forward = attribute in ("_forward_hooks", "_forward_pre_hooks")
    return forward and written and not any(number in getattr(module, one, {}) for one in named)


def hooked(module: nn.Module, call: Callable[[tuple[Any, ...]], Any], args: tuple[Any, ...]) -> Any:
    """What ``call(args)`` gives between a module's hooks, as torch runs them."""
    for before in module._forward_pre_hooks.values():
        changed = before(module, args)
        args = args if changed is None else changed if isinstance(changed, tuple) else (changed,)
    result = call(args)
    for after in module._forward_hooks.values():
        changed = after(module, args, result)
        result = result if changed is None else changed
    return result


def without_hooks(module: nn.Module) -> nn.Module:
    """The module itself where it has none around its forward; else one of the same parts that has none."""
    if not module._forward_hooks and not module._forward_pre_hooks:
        return module
    found = copy.copy(module)
    found.__dict__.update(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())
    return found


def _methods(module: nn.Module) -> list[str]:
    """Methods of its class that a module has another function for. Of other modules than torch's and the outermost one
    the tracer follows the function itself."""
    return [
        name for name, value in vars(module).items() if callable(value) and callable(getattr(type(module), name, 0))
    ]


def name_of(hook: object) -> str:
    """``watch (file.py:12)``, or the class of a hook that is no function."""
    function = getattr(hook, "__func__", hook)
    code = getattr(function, "__code__", None)
    if code is None:
        return type(hook).__name__
    return f"{function.__qualname__}, {code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"  # type: ignore[attr-defined]
