"""A model made valid for an older operator set, and still the same function."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.opsets import lower_opset

IMAGES = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)


def model_of(node: onnx.NodeProto, opset: int, **constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "c", "h", "w"])],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def computed(model: onnx.ModelProto) -> Any:
    found: Any = ReferenceEvaluator(model).run(None, {"x": IMAGES})
    return found[0]


NODES: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "axes of a mean": (helper.make_node("ReduceMean", ["x", "axes"], ["y"]), {"axes": [1]}),
    "all axes of a mean": (helper.make_node("ReduceMean", ["x"], ["y"]), {}),
    "axes of a padding": (
        helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"]),
        {"pads": [1, 0, 2, 3], "axes": [-1, 2]},
    ),
    "a padding of every axis": (
        helper.make_node("Pad", ["x", "pads"], ["y"]),
        {"pads": [0, 1, 0, 0, 0, 0, 2, 0]},
    ),
    "axes of a largest": (helper.make_node("ReduceMax", ["x", "axes"], ["y"]), {"axes": [1, -1]}),
    "an even split": (helper.make_node("Split", ["x"], ["y", "z"], axis=-1, num_outputs=2), {}),
    "a split with a smaller last part": (helper.make_node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2), {}),
    "a resize": (
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", axes=[0, 1, 2, 3]),
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "what did not change": (helper.make_node("Relu", ["x"], ["y"]), {}),
}


@pytest.mark.parametrize("case", NODES)
def test_an_older_form_is_valid_and_computes_the_same(case: str) -> None:
    node, constants = NODES[case]
    model = model_of(node, 18, **constants)
    expected = computed(model)
    lower_opset(model, 17)
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    np.testing.assert_array_equal(computed(model), expected)


def test_a_resize_that_smooths_is_refused_by_name() -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], name="shrink", mode="linear", antialias=1)
    model = model_of(node, 18, scales=np.array([1, 1, 0.5, 0.5], np.float32))
    with pytest.raises(ModelError, match="node 'shrink' \\(Resize\\)"):
        lower_opset(model, 17)


def test_an_operator_without_an_older_form_is_refused_by_name() -> None:
    model = model_of(helper.make_node("Gelu", ["x"], ["y"], name="bend"), 20)
    with pytest.raises(ModelError, match=r"'bend' \(Gelu\) has no form in opset 17"):
        lower_opset(model, 17)


def test_the_same_opset_leaves_the_nodes_alone() -> None:
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"])
    model = model_of(node, 21, pads=[1, 1], axes=[2])
    lower_opset(model, 21)
    assert model.graph.node[0] == node
    assert (model.opset_import[0].version, model.ir_version) == (21, 10)
