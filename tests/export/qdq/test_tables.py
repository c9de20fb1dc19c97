"""Functions of codes as tables of 256 entries."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from limpq_deploy.export.graph.onnx_files import constants
from limpq_deploy.export.qdq.tables import evaluated


def test_a_chain_of_nodes_is_evaluated_at_every_value() -> None:
    nodes = [helper.make_node("Mul", ["x", "two"], ["d"]), helper.make_node("Tanh", ["d"], ["y"])]
    values = np.linspace(-3, 3, 256, dtype=np.float32)
    found = evaluated(nodes, "x", "y", values, {"two": np.array([2], np.float32)}, 21)
    np.testing.assert_allclose(found, np.tanh(2 * values), rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("operator", "looked_up"), [("Elu", True), ("Relu", False), ("LeakyRelu", False)])
def test_the_file_has_a_table_or_the_runtimes_own_kernel(tiny_net: Any, operator: str, looked_up: bool) -> None:
    net = tiny_net(0)
    images = net.quantize(net.input, "images", 8, signed=True)
    before = net.quantize(net.conv(images, "conv", 4, relu=False), "before", 8, signed=True)
    name = net.node(operator, [before.name], "curve")
    behind = net.quantize(type(before)(name, 4), "behind", 5, signed=operator != "Relu")
    last = net.conv(behind, "last", 4, relu=False)
    pooled = net.quantize(net.mean(net.quantize(last, "out", 8, signed=True), "mean"), "pool", 8, signed=True)
    model = net.qdq(net.gemm(net.flatten(pooled, "flat"), "head", 3))
    operators = [node.op_type for node in model.graph.node]
    assert ("Gather" in operators) == looked_up
    assert ("LeakyRelu" in operators) != looked_up
    assert operator not in operators or operator == "LeakyRelu"
    if looked_up:
        table = constants(model.graph)["behind_codes_table"]
        grid = net.acts["behind"].grid
        assert (table.dtype, table.shape) == (np.uint8, (256,))
        assert table.min() >= 128 + grid.qmin
        assert table.max() <= 128 + grid.qmax
        assert [node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"] == [TensorProto.INT32]
