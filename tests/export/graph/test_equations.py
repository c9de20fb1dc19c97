"""Einsum is written in letters that every runtime reads, and computes what it did."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from limpq_deploy.export.graph.equations import write_equations


def einsum(equation: str, *shapes: tuple[int, ...]) -> onnx.ModelProto:
    names = [f"x{number}" for number in range(len(shapes))]
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    given = [
        helper.make_tensor_value_info(*one) for one in zip(names, [TensorProto.FLOAT] * len(names), shapes, strict=True)
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", given, [out])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("equation", "plain", "shapes"),
    [
        ("B G I D, B G J D -> B G I J", "abcd,abed->abce", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("...hd,...HD->...hH", "...ab,...cd->...ac", [(2, 3, 4), (2, 5, 6)]),
        ("nqd,nkd->nqk", "abc,adc->abd", [(2, 3, 4), (2, 5, 4)]),
        ("zc,ca", "cb,ba", [(2, 3), (3, 5)]),
    ],
)
def test_axes_are_small_letters_in_order(equation: str, plain: str, shapes: list[tuple[int, ...]]) -> None:
    model = einsum(equation, *shapes)
    rng = np.random.default_rng(0)
    feeds = {f"x{number}": rng.random(shape, np.float32) for number, shape in enumerate(shapes)}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    write_equations(model)
    assert model.graph.node[0].attribute[0].s.decode() == plain
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_array_equal(before, after)


def test_an_equation_of_more_axes_than_letters_is_left_alone() -> None:
    axes = "abcdefghijklmnopqrstuvwxyzA"
    model = einsum(f"{axes}->{axes}", (1,) * len(axes))
    write_equations(model)
    assert model.graph.node[0].attribute[0].s.decode() == f"{axes}->{axes}"
