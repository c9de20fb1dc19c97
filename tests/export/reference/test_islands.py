"""How a graph is cut into what the reference computes and what is executed apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from limpq_deploy.export.reference.foreign_file import ON_CODES_OR_REALS
from limpq_deploy.export.reference.islands import Executed, Island, divided

from .foreign_nets import Graph


def nothing_runs(model: onnx.ModelProto, values: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    raise AssertionError("only the cutting is looked at")


def cut(model: onnx.ModelProto, *ruled: str, integers: tuple[str, ...] = ()) -> list[Any]:
    executed = Executed(
        integers=frozenset((*ruled, *integers)), to_reals=frozenset(), unsigned=frozenset(), constants={}, kinds={}
    )
    return divided(model, ruled, executed, ON_CODES_OR_REALS, nothing_runs)[0]


def shown(steps: list[Any]) -> list[Any]:
    return [step.operators if isinstance(step, Island) else step.op_type for step in steps]


def test_float_operators_that_read_each_other_are_one_island() -> None:
    net = Graph([1, 4, 8, 8])
    source = net.pair("x", 0.03, 128)
    weight = net.weight(4, 4, 1, 1)
    total = net.node("Relu", net.node("Add", net.node("Conv", source, weight), source))
    steps = cut(net.model(net.pair(total, 0.05, 0)))
    assert shown(steps) == ["QuantizeLinear", "DequantizeLinear", ("Conv", "Add"), "QuantizeLinear", "DequantizeLinear"]
    island = steps[2]
    assert island.inputs == (source,)
    assert [node.op_type for node in island.nodes] == ["DequantizeLinear", "Conv", "Add", "Relu"]
    assert island.codes == (net.nodes[-2].output[0],)


def test_an_island_never_waits_for_its_own_result() -> None:
    """The float sum of a convolution and of what its quantized result becomes: two islands, in order."""
    net = Graph([1, 4, 8, 8])
    first = net.node("Conv", net.pair("x", 0.03, 128), net.weight(4, 4, 1, 1))
    second = net.node("Conv", net.pair(first, 0.05, 100), net.weight(4, 4, 1, 1))
    steps = cut(net.model(net.pair(net.node("Add", first, second), 0.05, 0)))
    islands = [step for step in steps if isinstance(step, Island)]
    assert [island.operators for island in islands] == [("Conv",), ("Conv", "Add")]
    assert first in islands[1].inputs


def test_what_only_moves_values_stays_with_the_reference() -> None:
    net = Graph([1, 4, 8, 8])
    pooled = net.node("MaxPool", net.node("Relu", net.pair("x", 0.03, 128)), kernel_shape=[2, 2])
    assert shown(cut(net.model(net.pair(pooled, 0.03, 128))))[2:4] == ["Relu", "MaxPool"]


def test_an_integer_operator_without_arithmetic_here_takes_its_pairs_along() -> None:
    net = Graph([1, 8])
    codes = net.quantize("x", 0.03, 128)
    shares = net.node("Softmax", net.dequantize(codes, 0.03, 128), axis=-1)
    name = net.nodes[-1].name
    steps = cut(net.model(net.pair(shares, 1 / 256, 0)), integers=(name,))
    assert shown(steps) == ["QuantizeLinear", ("Softmax",), "DequantizeLinear"]
    assert steps[1].inputs == (codes,)
    assert [node.op_type for node in steps[1].nodes] == ["DequantizeLinear", "Softmax", "QuantizeLinear"]


def test_a_model_of_an_island_holds_its_constants_and_takes_arrays_of_any_type() -> None:
    net = Graph([1, 4])
    total = net.node("Add", net.pair("x", 0.03, 128), net.constant(np.ones(4), np.float32))
    given: list[Any] = []

    def execute(model: onnx.ModelProto, values: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
        given.append((model, values))
        return {}

    executed = Executed(integers=frozenset(), to_reals=frozenset(), unsigned=frozenset(), constants={}, kinds={})
    _, (island,) = divided(net.model(net.pair(total, 0.05, 0)), (), executed, ON_CODES_OR_REALS, execute)
    island.run({island.inputs[0]: np.zeros((3, 4), np.float32)})
    alone = given[0][0].graph
    assert [tensor.name for tensor in alone.initializer] == [net.nodes[-3].input[1]]
    assert [dim.dim_value for dim in alone.input[0].type.tensor_type.shape.dim] == [3, 4]
