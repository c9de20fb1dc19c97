"""torch.fx with two additions: calls remember the line of the user's that made them, and timm's own modules become
plain ones: its fused BatchNorm comes apart into a BatchNorm2d and an activation, its Linear is an nn.Linear."""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from limpq_deploy.calibration.errors import ModelError

TORCH = Path(torch.__file__).parent


def symbolic_trace(model: nn.Module) -> fx.GraphModule:
    """Trace a model in evaluation mode. Raises ModelError, naming the line that stops it."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except ModelError:
        raise
    except Exception as error:
        where = _line(traceback.extract_tb(error.__traceback__))
        raise ModelError(
            f"the model cannot be traced: {str(error).splitlines()[0]}{where}; "
            "its forward must not branch on tensor values"
        ) from error
    graph_module = fx.GraphModule(tracer.root, graph)
    for name in tracer.fused:
        _take_apart(graph_module, name)
    for name in tracer.linears:
        graph_module.set_submodule(name, _plain_linear(graph_module.get_submodule(name)))
    graph_module.recompile()
    return graph_module


def written_at(node: fx.Node) -> str:
    """`` (file.py:12)``: the line that made a call, for a sentence; empty where it is not known."""
    found = [line for line in (node.stack_trace or "").splitlines() if line.strip().startswith("File ")]
    for line in reversed(found):
        path, number = line.split('"')[1], line.split("line ")[1].split(",")[0]
        if not _is_machinery(path):
            return f" ({Path(path).name}:{number})"
    return ""


class _Tracer(fx.Tracer):
    """``fused``: names of modules that are a BatchNorm2d with an activation behind it; ``linears``: timm's own."""

    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.fused: list[str] = []
        self.linears: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Linear) and type(m).__module__ == "timm.layers.linear":
            self.linears.append(module_qualified_name)
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _is_fused(m):
            return super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        self.fused.append(name)
        result = self.create_proxy("call_module", name, args, kwargs)
        for part in (m.drop, m.act):
            result = part(result)  # type: ignore[operator]
        return result


def _is_fused(module: nn.Module) -> bool:
    """A BatchNorm2d by inheritance with a ``drop`` and an ``act``: timm's BatchNormAct2d."""
    parts = (getattr(module, "drop", None), getattr(module, "act", None))
    return (
        isinstance(module, nn.BatchNorm2d)
        and type(module) is not nn.BatchNorm2d
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
    graph_module.set_submodule(name, _plain_norm(fused))


def _plain_norm(fused: nn.Module) -> nn.BatchNorm2d:
    """A BatchNorm2d with the parameters and statistics of a fused one."""
    assert isinstance(fused, nn.BatchNorm2d)
    plain = nn.BatchNorm2d(
        fused.num_features,
        eps=fused.eps,
        momentum=fused.momentum,
        affine=fused.affine,
        track_running_stats=fused.track_running_stats,
    ).train(fused.training)
    plain.weight, plain.bias = fused.weight, fused.bias
    plain._buffers.update(fused._buffers)
    return plain


def _plain_linear(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None).train(layer.training)
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain


def _line(frames: traceback.StackSummary) -> str:
    """The innermost line that is neither torch's nor this module's."""
    for frame in reversed(frames):
        if not _is_machinery(frame.filename):
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def _is_machinery(path: str) -> bool:
    return Path(path).is_relative_to(TORCH) or Path(path) == Path(__file__)
