"""Which layers see a tensor further on, where it comes moved into a sum."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.export.timing.price_wiring import seen_further

Step = tuple[str, str, tuple[str, ...], str]
"""Name, operator, what it reads and what it makes."""

SUMS: tuple[Step, ...] = (
    ("b", "Conv", ("a_relu",), "b_out"),
    ("c", "Conv", ("b_out",), "c_out"),
    ("sum", "Add", ("c_out", "short"), "sum_out"),
    ("sum_relu", "Relu", ("sum_out",), "stream"),
    ("d", "Conv", ("stream",), "d_out"),
    ("e", "Conv", ("d_out",), "e_out"),
    ("sum2", "Add", ("e_out", "stream"), "end"),
    ("f", "Conv", ("end",), "f_out"),
)


def further(*before: Step) -> dict[str, tuple[str, ...]]:
    steps = [*before, *SUMS]
    layers = [name for name, operator, _, _ in steps if operator == "Conv"]
    weights = [numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), f"{name}.weight") for name in layers]
    nodes = [
        helper.make_node(
            operator, [*reads, *([f"{name}.weight"] if operator == "Conv" else [])], [makes], name=f"node_{name}"
        )
        for name, operator, reads, makes in steps
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 4, 4))
    out = helper.make_tensor_value_info("f_out", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "net", [image], [out], weights))
    return seen_further(model, {name: at for at, name in enumerate(layers)})


FIRST: tuple[Step, ...] = (("a", "Conv", ("image",), "a_out"), ("relu", "Relu", ("a_out",), "a_relu"))


def test_a_layer_whose_tensor_strides_and_pads_on_its_way_into_a_sum_sees_who_reads_the_sum() -> None:
    steps = (*FIRST, ("slice", "Slice", ("a_relu",), "sliced"), ("pad", "Pad", ("sliced",), "short"))
    assert further(*steps) == {"a": ("d",)}  # not e, whose own sum reads the stream as it is


def test_the_last_of_the_layers_behind_a_sum_sees_further_where_the_sum_is_moved() -> None:
    steps = (
        ("y", "Conv", ("image",), "y_out"),
        ("z", "Conv", ("y_out",), "z_out"),
        ("join", "Add", ("y_out", "z_out"), "a_relu"),
        ("pool", "MaxPool", ("a_relu",), "short"),
    )
    assert further(*steps) == {"z": ("d",)}


def test_a_shortcut_that_is_itself_or_a_layer_sees_no_further() -> None:
    assert further(*FIRST, ("same", "Identity", ("a_relu",), "short")) == {}
    assert further(*FIRST, ("down", "Conv", ("a_relu",), "short")) == {}


def test_a_tensor_that_layers_read_moved_is_that_of_a_neighbour() -> None:
    steps = (
        ("a", "Conv", ("image",), "a_out"),
        ("pool", "MaxPool", ("a_out",), "a_relu"),
        ("same", "Identity", ("a_relu",), "short"),
    )
    assert further(*steps) == {}
