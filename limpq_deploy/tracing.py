"""torch.fx with two additions: calls remember the line of the user's that made them, and timm's fused BatchNorm
modules come apart into a plain BatchNorm and an activation."""

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
        graph_module.set_submodule(name, _plain(graph_module.get_submodule(name)))
    return graph_module


def written_at(node: fx.Node) -> str:
    """`` (file.py:12)``: the line that made a call, for a sentence; empty where it is not known."""
    found = [line for line in (node.stack_trace or "").splitlines() if line.strip().startswith("File ")]
    for line in reversed(found):
        path, number = line.split('"')[1], line.split("line ")[1].split(",")[0]
        if not _is_torch(path):
            return f" ({Path(path).name}:{number})"
    return ""


class _Tracer(fx.Tracer):
    """``fused``: names of modules that are a BatchNorm2d with an activation behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.fused: list[str] = []

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


def _plain(fused: nn.Module) -> nn.BatchNorm2d:
    """A BatchNorm2d with the parameters, statistics and children of a fused one."""
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
    for name, child in fused.named_children():
        plain.add_module(name, child)
    return plain


def _line(frames: traceback.StackSummary) -> str:
    """The innermost line that is not torch's, nor this module's."""
    for frame in reversed(frames):
        if not _is_torch(frame.filename) and Path(frame.filename) != Path(__file__):
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def _is_torch(path: str) -> bool:
    return Path(path).is_relative_to(TORCH)
