"""Layers that compute in float, executed alone: each as a model of one layer, by the runtime that is compared with.

The runtime is free to sum floats in any order, but takes the same one for the same layer, whatever surrounds it: its
kernel is chosen by the layer's own shape, and its activation function works on finished sums. That the results are
equal bit by bit is therefore an observation about a runtime, not a promise; where they are not, the codes behind such a
layer differ, and the comparison says so.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.reference.islands import Kinds, Run, Sessions
from limpq_deploy.export.runtimes.base import Runtime

Execute = Callable[[NDArray[np.float32]], NDArray[np.float32]]
ExecuteFloats = Callable[[onnx.ModelProto], Execute]
"""From a model of one layer to what runs it."""


def on_runtime(runtime: Runtime, *, threads: int | None = None) -> ExecuteFloats:
    """Execute float layers on a runtime, with as many threads as the session that they are compared with."""

    def execute(model: onnx.ModelProto) -> Execute:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            path.write_bytes(model.SerializeToString())
            return runtime.load(path, threads=threads).run

    return execute


@runtime_checkable
class TakesFeeds(Protocol):
    """A session that runs models of several inputs and results."""

    def run_feeds(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]: ...


def islands_on(runtime: Runtime, *, threads: int | None = None) -> Sessions:
    """Execute islands on a runtime, with as many threads as the session that they are compared with."""

    def open_model(model: onnx.ModelProto, _: Kinds) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "island.onnx"
            path.write_bytes(_with_types(model).SerializeToString())
            session = runtime.load(path, threads=threads)
        if not isinstance(session, TakesFeeds):
            raise ModelError(f"the runtime {runtime.name} runs models of one input only; an island has several")
        return session.run_feeds

    return Sessions(open_model)


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of its results: floats, where onnx cannot tell (behind a GroupNormalization)."""
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    del typed.graph.output[:]
    known = {value.name: value for value in shape_inference.infer_shapes(typed).graph.value_info}
    for value in model.graph.output:
        real = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None)
        typed.graph.output.append(known.get(value.name, real))
    return typed


def layer_alone(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    """A Conv or Gemm as a model of its own, from reals to reals, with its constants in the form of the file."""
    makers = {output: maker for maker in model.graph.node for output in maker.output}
    nodes = [makers[name] for name in node.input[1:] if name in makers]
    names = {name for one in (*nodes, node) for name in one.input}
    rank = 4 if node.op_type == "Conv" else 2
    graph = helper.make_graph(
        [*nodes, node],
        "layer",
        [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [None] * rank)],
        [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [None] * rank)],
        [tensor for tensor in model.graph.initializer if tensor.name in names],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
