"""A torch model as a float ONNX template: BatchNorm folded, a marker node where each activation quantizer stands.

The template is what ``qdq`` turns into the target's dialect, and, with its markers removed, the float baseline. A layer
is found in it by its weight initializer, ``<layer>.weight``; see `markers` for the marker.
"""

import contextlib
import importlib.util
import io
import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils._pytree import tree_flatten_with_path

from limpq_deploy.calibration.errors import MissingExtra, ModelError
from limpq_deploy.export.graph.equations import write_equations
from limpq_deploy.export.graph.markers import MARKER_DOMAIN, MARKER_OP, is_marker
from limpq_deploy.export.graph.onnx_files import constants
from limpq_deploy.export.graph.opsets import lower_opset
from limpq_deploy.export.graph.pools import covers_image, image_sizes, write_ceil_padding
from limpq_deploy.export.graph.refilled import alone_in

INPUT = "images"
OUTPUT = "logits"
"""Name of the result of a model that gives one tensor; see `flatten_outputs` for others."""
_FAILED = re.compile(r"target=torch\.ops\.(\w+)\.(\w+)\.(\w+)\]")
"""How the exporter names the operator that it stops at."""

CALL = "call"
"""Attribute of a marker while it is exported."""
EXPORTER_MERGES = 1024
"""Tensors of up to so many numbers are one in the exported file where they are equal."""
OLDEST_OPSET = 18
"""The oldest that torch's exporter writes; older ones are made from it."""


class Marker(nn.Module):
    """Stands where an activation quantizer stands; exports as one node that carries its name. Where it stands on
    several edges, each has a node, which a number keeps: the exporter makes equal nodes that read one tensor one."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._calls = itertools.count()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attributes: dict[str, Any] = {"name": self.name, CALL: next(self._calls)}
        marked: torch.Tensor = torch.onnx.ops.symbolic(
            f"{MARKER_DOMAIN}::{MARKER_OP}", (x,), attributes, dtype=x.dtype, shape=x.shape, version=1
        )
        return marked


def fold_batchnorm(graph_module: fx.GraphModule, layers: dict[str, str | None]) -> None:
    """Fold each layer's BatchNorm (``layers``: layer name -> BatchNorm name or None) into it, in place.

    Every layer ends with a bias, so that there is one to replace by integers.
    """
    for name, norm_name in layers.items():
        layer = graph_module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        if norm_name is not None:
            norm = graph_module.get_submodule(norm_name)
            assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
            fused = fuse_conv_bn_eval(layer, norm) if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval(layer, norm)
            graph_module.set_submodule(name, fused)
            graph_module.set_submodule(norm_name, nn.Identity())
            layer = fused
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.weight.shape[0]))


def export_template(graph_module: fx.GraphModule, input_shape: tuple[int, ...], opset: int) -> onnx.ModelProto:
    """Export an evaluation-mode module with `Marker` submodules at an opset; the batch dimension is dynamic.

    Input ``images`` [batch, C, H, W] float32, output ``logits``, or those of `flatten_outputs`. Raises MissingExtra
    without onnxscript, ModelError for an operator that ONNX has no form for.
    """
    return export_and_alone(graph_module, input_shape, opset)[0]


def export_and_alone(
    graph_module: fx.GraphModule, input_shape: tuple[int, ...], opset: int
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """As `export_template`, and the module's tensors, by name, that stand for nothing else in the graph."""
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingExtra("exporting needs onnxscript, which is not installed; run: pip install 'limpq-deploy[train]'")
    graph_module.eval()
    names = flatten_outputs(graph_module)
    with _quiet(), torch.no_grad(), _distinct_weights(graph_module) as weights:
        images = torch.zeros(2, *input_shape)
        model, alone = _exported(graph_module, images, inputs=[INPUT], outputs=names, opset=max(opset, OLDEST_OPSET))
    _give_back(model, weights)
    _drop_calls(model)
    _with_biases(model)
    _with_global_pools(model)
    write_ceil_padding(model)
    write_equations(model)
    lower_opset(model, opset)
    return model, alone


def _exported(
    module: nn.Module, images: torch.Tensor, *, inputs: Sequence[str], outputs: Sequence[str], opset: int
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """What torch's exporter makes of a module, and `alone_in`. An operator that it has no form for is taken apart by
    torch's own decomposition, it alone: an attention of three dimensions becomes products and a softmax. Raises
    ModelError, naming it, for one that stays."""
    shapes = ({0: torch.export.Dim("batch")},)
    source: Any = module
    taken_apart: list[str] = []
    while True:
        try:
            program = torch.onnx.export(
                source,
                (images,),
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
        except Exception as error:
            name = _failed(error)
            if name is None:
                raise
            if not _can_be_taken_apart(name) or name in taken_apart:
                raise ModelError(
                    f"torch's exporter has no form in ONNX for the operator {name!r}; write that part of the model "
                    "with other functions"
                ) from error
            taken_apart.append(name)
            if source is module:
                source = torch.export.export(module, (images,), dynamic_shapes=shapes, strict=False)
            source = source.run_decompositions(
                {_operator(name): torch.export.default_decompositions()[_operator(name)]}
            )
            continue
        assert program is not None
        model = program.model_proto
        for value in program.model.graph.initializers.values():
            value.const_value = None  # rules of onnxscript's optimizer hold the last graph that they saw
        return model, alone_in(program)


def _failed(error: BaseException) -> str | None:
    """``aten.topk.default``: the operator that the exporter stopped at; None where it stopped for another reason."""
    for one in _causes(error):
        found = _FAILED.search(str(one))
        if found is not None:
            return ".".join(found.groups())
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _operator(name: str) -> Any:
    space, operator, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, space), operator), overload)


def _can_be_taken_apart(name: str) -> bool:
    return _operator(name) in torch.export.default_decompositions()


@contextlib.contextmanager
def _distinct_weights(graph_module: fx.GraphModule) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Within it no two small weights are equal: the exporter would make them one, and a layer is found by its own.
    Gives those that were changed, by name."""
    seen: set[bytes] = set()
    held: dict[str, NDArray[np.float32]] = {}
    for name, module in graph_module.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.weight.numel() <= EXPORTER_MERGES:
            numbers = module.weight.numpy().copy()
            while module.weight.numpy().tobytes() in seen:
                held.setdefault(f"{name}.weight", numbers)
                module.weight.add_(1)
            seen.add(module.weight.numpy().tobytes())
    try:
        yield held
    finally:
        for name, numbers in held.items():
            graph_module.get_parameter(name).copy_(torch.from_numpy(numbers))


def _give_back(model: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))


def _drop_calls(model: onnx.ModelProto) -> None:
    for node in filter(is_marker, model.graph.node):
        kept = [one for one in node.attribute if one.name != CALL]
        del node.attribute[:]
        node.attribute.extend(kept)


def flatten_outputs(graph_module: fx.GraphModule) -> list[str]:
    """Let a graph give its tensors as one tuple, in place, and name them: ``logits`` where it gave a single one, else
    by the keys and places on the way to each, as in ``out`` and ``boxes_0``."""
    node = next(reversed(graph_module.graph.nodes))
    given = node.args[0]
    if isinstance(given, fx.Node):
        return [OUTPUT]
    leaves = [
        ("_".join(str(getattr(key, "key", getattr(key, "idx", ""))) for key in path), leaf)
        for path, leaf in tree_flatten_with_path(_plain(given))[0]
        if isinstance(leaf, fx.Node)
    ]
    node.args = (tuple(leaf for _, leaf in leaves),)
    graph_module.recompile()
    return [f"output_{name}" if name[:1].isdigit() else name for name, _ in leaves]


def _plain(value: Any) -> Any:
    """Containers of torch.fx as Python's."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _with_biases(model: onnx.ModelProto) -> None:
    """Give every Conv and Gemm a bias ``<layer>.bias``: the exporter drops those that are all zero."""
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 2 and node.input[1] in weights:
            name = node.input[1].removesuffix(".weight") + ".bias"
            channels = weights[node.input[1]].dims[0]
            zeros = numpy_helper.from_array(np.zeros(channels, np.float32), name)
            model.graph.initializer.append(zeros)
            node.input.append(name)


def _with_global_pools(model: onnx.ModelProto) -> None:
    """Write every average over the whole image as GlobalAveragePool; one over windows stays.

    Where the exporter dropped the spatial dims a Flatten follows; behind the pool's quantizer, if that is its only
    reader, so that it acts on codes.
    """
    fixed = constants(model.graph)
    readers = [name for node in model.graph.node for name in node.input]
    quantized = {node.input[0]: node for node in model.graph.node if is_marker(node)}
    sizes = image_sizes(model)
    nodes: list[onnx.NodeProto] = []
    flat_markers: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "AveragePool" and covers_image(node, sizes.get(node.input[0], [])):
            nodes.append(helper.make_node("GlobalAveragePool", node.input[:1], node.output, name=node.name))
        elif node.op_type == "ReduceMean" and _spatial(node, fixed):
            flat = node.output[0]
            keeps = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
            pooled = flat if keeps else f"{flat}_pooled"
            nodes.append(helper.make_node("GlobalAveragePool", node.input[:1], [pooled], name=node.name))
            if keeps:
                continue
            if flat in quantized and readers.count(flat) == 1:
                quantized[flat].input[0] = pooled
                flat_markers.add(quantized[flat].output[0])
            else:
                nodes.append(helper.make_node("Flatten", [pooled], [flat], name=f"{node.name}_flatten"))
        elif is_marker(node) and node.output[0] in flat_markers:
            flat = node.output[0]
            node.output[0] = f"{flat}_pooled"
            nodes.append(node)
            nodes.append(helper.make_node("Flatten", [node.output[0]], [flat], name=f"{node.name}_flatten"))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _spatial(node: onnx.NodeProto, fixed: Mapping[str, NDArray[Any]]) -> bool:
    axes = fixed.get(node.input[1]) if len(node.input) > 1 else None
    return axes is not None and {int(axis) % 4 for axis in axes} == {2, 3}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and version warnings; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
