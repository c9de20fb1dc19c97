"""torch.fx for networks as people write them: shapes are known (`tracer`), calls remember the user's line that made
them, and one graph stands for any number of images (`any_batch`)."""

import contextlib
import copy
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.foreign import cause, is_users, line_of
from limpq_deploy.model.any_batch import for_any_batch
from limpq_deploy.model.hidden_state import require_nothing_hidden, without_hooks
from limpq_deploy.model.lines import line, written_at
from limpq_deploy.model.node_by_node import does_not_run
from limpq_deploy.model.plain_modules import as_plain, take_apart
from limpq_deploy.model.tracer import ShapeTracer

__all__ = ["symbolic_trace", "written_at"]

CONSTANT = "_tensor_constant"
KEPT = (dict, list)
"""Containers whose content is kept."""
OWN = ("_parameters", "_buffers", "_modules")
BATCHES = (1, 3)
"""Numbers of images that a forward is traced for."""


def symbolic_trace(model: nn.Module, input_shape: tuple[int, ...]) -> fx.GraphModule:
    """Trace a model in evaluation mode for images of ``input_shape`` (C, H, W). Raises ModelError, naming the line that
    stops it."""
    require_nothing_hidden(model)
    draws, versions = _draws(), _versions(model)
    tracers = _traced_for_each(model, input_shape)
    if _versions(model) != versions:  # tables made at the first call are the same ones at the next
        for one in tracers:
            one.forget_constants()
        versions = _versions(model)
        tracers = _traced_for_each(model, input_shape)
    if _draws() != draws:
        again = _moved_at(model, input_shape, _draws)
        raise ModelError(
            f"the model's forward draws random numbers in evaluation mode, too{again}; expected a forward that gives "
            "one result: draw only where self.training is set"
        )
    if _versions(model) != versions:
        again = _moved_at(model, input_shape, lambda: _versions(model))
        raise ModelError(
            f"the model's forward writes into its own parameters or buffers in evaluation mode, too{again}; expected "
            "a forward that leaves the model as it is"
        )
    tracer = tracers[-1]
    if any(one.counted for one in tracers):
        _require_one_way(model, input_shape)
    for_any_batch((tracers[0].graph, tracer.graph), model, BATCHES)
    graph_module = fx.GraphModule(tracer.root, tracer.graph)
    _own_memory(graph_module)
    for one in tracers:
        one.forget_constants()
    for name in tracer.fused:
        take_apart(graph_module, name)
    for name in {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}:
        module = graph_module.get_submodule(name)
        if without_hooks(module) is not module:
            graph_module.set_submodule(name, without_hooks(module))
    for name, kind in tracer.plain.items():
        graph_module.set_submodule(name, as_plain(graph_module.get_submodule(name), kind))
    _norms_by_axes(graph_module, tracer)
    graph_module.recompile()
    return graph_module


def _require_one_way(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Raises ModelError for a forward that counts its calls and goes by the count: the last two of three calls, or of
    as many as still change a number, are another graph."""
    calls: list[list[tuple[str, str]]] = []
    changed = ""
    with _attributes_kept(model):
        before = _counts(model)
        for _ in range(3):
            with contextlib.suppress(Exception):  # what it kept of a trace may be of no use in the next
                tracer = _traced(model, BATCHES[-1], input_shape, keep=False)
                tracer.forget_constants()
                calls.append([(one.op, str(one.target)) for one in tracer.graph.nodes if one.op != "get_attr"])
            after = _counts(model)
            if after == before:
                break
            changed = next(name for name in {**after, **before} if after.get(name) != before.get(name))
            before = after
    if len(calls) > 1 and calls[-1] != calls[-2]:
        raise ModelError(
            f"the model's forward does something else at one call than at the next, and counts them in {changed!r}; "
            "expected a forward that gives one result: count where self.training is set"
        )


def _counts(model: nn.Module) -> dict[str, int]:
    """Whole numbers among a model's attributes."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is int
    }


def _own_memory(graph_module: fx.GraphModule) -> None:
    """Tensors of which several elements lie at one place (``expand``) get a place for each, so that they can be
    loaded."""
    for name in {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}:
        owner, _, own = name.rpartition(".")
        module = graph_module.get_submodule(owner)
        held = getattr(module, own)
        if not isinstance(held, nn.Parameter) and 0 in held.stride():
            setattr(module, own, held.contiguous())


def _norms_by_axes(graph_module: fx.GraphModule, tracer: ShapeTracer) -> None:
    """SyncBatchNorm is that of vectors and signals as it is that of images."""
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and tracer.plain.get(str(node.target)) is nn.BatchNorm2d:
            value = tracer.values.get(node)
            if isinstance(value, torch.Tensor) and value.dim() < 4:
                graph_module.get_submodule(str(node.target)).__class__ = nn.BatchNorm1d


def _traced_for_each(model: nn.Module, input_shape: tuple[int, ...]) -> list[ShapeTracer]:
    """A trace for each of `BATCHES`; ``squeeze`` without an axis takes the same ones away in all."""
    one, several = BATCHES
    try:
        last = _traced(model, several, input_shape)
    except ModelError:
        _traced(model, one, input_shape)  # what one image has of it is told first
        raise
    return [_traced(model, one, input_shape, tuple(last.squeezed)), last]


def _traced(
    model: nn.Module,
    batch: int,
    input_shape: tuple[int, ...],
    squeezes: tuple[tuple[int, ...], ...] | None = None,
    *,
    keep: bool = True,
) -> ShapeTracer:
    """``keep`` False: what the forward remembers is there afterwards."""
    tracer = ShapeTracer((batch, *input_shape), model, squeezes)
    try:
        with _attributes_kept(model) if keep else contextlib.nullcontext():
            before = _counts(model)
            tracer.trace(model)
            tracer.counted = _counts(model) != before
    except ModelError:
        raise
    except Exception as error:
        inputs = [str(node.target) for node in tracer.graph.nodes if node.op == "placeholder"]
        if len(inputs) > 1:
            raise takes_several(inputs) from error
        if error is tracer.failed or isinstance(error, AssertionError):
            raise does_not_run(error, batch, input_shape) from error
        raise ModelError(f"the model cannot be traced: {cause(error)}{line_of(error)}; {_remedy(error)}") from error
    return tracer


def takes_several(names: list[str]) -> ModelError:
    """A forward that wants tensors beside the images."""
    return ModelError(
        f"the model takes {len(names)} tensors ({', '.join(names)}); expected one, the images: give the others "
        "defaults, or write a module that makes them"
    )


@contextlib.contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Behind it modules have the attributes that they had, and dicts and lists among them what they held: what a
    forward remembers of one call (a table of biases for each device) is not there in the next. Parameters and
    buffers are left as they are: a new one is found by `_versions`."""
    held = [
        (
            vars(module),
            dict(vars(module)),
            [(one, copy.copy(one)) for name, one in vars(module).items() if isinstance(one, KEPT) and name not in OWN],
        )
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for now, before, containers in held:
            constants = {name: value for name, value in now.items() if name.startswith(CONSTANT)}  # torch.fx's own
            now.clear()
            now.update(before | constants)
            for one, content in containers:
                one.clear()
                one.extend(content) if isinstance(one, list) else one.update(content)


def _remedy(error: Exception) -> str:
    text = str(error)
    if "does not support item assignment" in text:
        return "it writes into part of a tensor: make the whole one anew, with torch.cat or torch.where"
    if "dynamo-optimized" in text:
        return "take torch.compile off its forward and off the functions that it calls"
    if isinstance(error, TypeError) and "missing" in text:
        return "its forward must take the images alone, or have defaults for the rest"
    if "TracedTensor" in text:
        return "what it calls there takes real tensors alone: write it with torch's functions"
    return "mend the forward, or see all of it with --debug"


def _draws() -> tuple[object, ...]:
    """The states of the generators that a forward may draw from."""
    numpys = np.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpys["key"].tobytes(), numpys["pos"]


def _moved_at(model: nn.Module, input_shape: tuple[int, ...], look: Callable[[], object]) -> str:
    """`` (file.py:12)``: the user's line behind which ``look`` gives something else; the model is traced again."""
    start = look()
    passed, moved = [""], [""]

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if not is_users(path):
            return None
        if moved == [""] and look() != start:
            moved[:] = passed[-1:]
        passed[:] = [(_callers_line(frame) if event == "return" else line(frame)) or passed[0]]
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        _traced(model, BATCHES[0], input_shape).forget_constants()
    finally:
        sys.settrace(before)
    return moved[0] or passed[0]


def _callers_line(frame: FrameType) -> str:
    """Where the user's call stands that a frame returns to, and whose line goes on; empty behind the forward itself."""
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename != __file__:
        if is_users(Path(caller.f_code.co_filename)):
            return line(caller)
        caller = caller.f_back
    return ""


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    """Each parameter and buffer, and how often it was written into."""
    tensors = (*model.parameters(), *model.buffers())
    return [(id(tensor), tensor._version) for tensor in tensors if not tensor.is_inference()]
