"""A float model written in float16: which operators take it, what stays, and that it answers as before."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.graph.to_float16 import in_half
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes, planned_precision

FLOAT32, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def model_of(graph: str, opset: int = 17, **numbers: Any) -> onnx.ModelProto:
    """A model from ONNX text, ``agraph`` without its header, and its constants, float32 unless they are arrays."""
    domains = '"" : ' + str(opset) + (', "com.microsoft" : 1' if "com.microsoft" in graph else "")
    model = parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]> agraph {graph}")
    for name, value in numbers.items():
        array = value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{number}"
    return model


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, by strict inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    found = {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.value_info, *graph.input, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def casts(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(node.input[0], node.output[0]) for node in model.graph.node if node.op_type == "Cast"]


def checked(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[str, str]]:
    found = in_half(model)
    onnx.checker.check_model(found.model, full_check=True)
    return found.model, found.kept


def answers(model: onnx.ModelProto, **feeds: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    return open_as_written(model).run_feeds(feeds)


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)

TO_Y = "(float[n, 3, 8, 8] x) => (float[n, 3, h, w] y)"


def test_operators_and_constants_keep_their_names_and_casts_stand_at_both_ends() -> None:
    weight = np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32)
    model, kept = checked(
        model_of(f"{TO_Y} {{ a = Conv(x, stem, bias) y = Relu(a) }}", stem=weight, bias=np.ones(3, np.float32))
    )
    assert kept == {}
    assert casts(model) == [("x", "x.half"), ("y.half", "y")]
    assert [node.name for node in model.graph.node if node.op_type != "Cast"] == ["Conv0", "Relu1"]
    assert compute_nodes(model) == {"stem": "Conv0"}
    assert planned_precision(model) == {"stem": "float16"}
    types = types_of(model)
    assert (types["stem"], types["bias"], types["a"]) == (FLOAT16, FLOAT16, FLOAT16)
    assert (types["x"], types["y"]) == (FLOAT32, FLOAT32)


def test_the_model_itself_is_left_as_it_is() -> None:
    model = model_of(f"{TO_Y} {{ y = Mul(x, two) }}", two=2)
    before = model.SerializeToString()
    in_half(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (7e4, "c holds 70000, beyond float16"),
        ([1.0, -1e9, 3.0], "c holds -1e+09, beyond float16"),
        (1e-12, "c holds at most 1e-12, which float16 would make 0"),
    ],
)
def test_an_operator_whose_constant_float16_cannot_hold_stays_in_float32(value: Any, reason: str) -> None:
    number = np.asarray(value, np.float32).reshape(-1, 1, 1)
    model, kept = checked(model_of(f"{TO_Y} {{ a = Relu(x) b = Add(a, c) y = Abs(b) }}", c=number))
    assert kept == {"Add1": reason}
    types = types_of(model)
    assert (types["c"], types["b"], types["a"]) == (FLOAT32, FLOAT32, FLOAT16)
    assert casts(model) == [("x", "x.half"), ("a", "a.float"), ("b", "b.half"), ("y.half", "y")]


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan, 65504.0, [1e-12, 1.0]])
def test_zeros_infinities_and_what_is_lost_in_part_only_are_no_reason(value: Any) -> None:
    number = np.asarray(value, np.float32).reshape(-1, 1, 1, 1)
    assert checked(model_of(f"{TO_Y} {{ y = Max(x, c) }}", c=number))[1] == {}


def test_a_bias_too_small_for_float16_keeps_no_layer_in_float32_and_weights_do() -> None:
    graph = f"{TO_Y} {{ y = Conv(x, weight, bias) }}"
    tiny, usual = np.full(3, 3e-8, np.float32), np.ones((3, 3, 1, 1), np.float32)
    assert checked(model_of(graph, weight=usual, bias=tiny / 3))[1] == {}
    assert list(checked(model_of(graph, weight=usual * 1e-9, bias=tiny))[1]) == ["Conv0"]
    assert list(checked(model_of(graph, weight=usual, bias=tiny + 1e6))[1]) == ["Conv0"]


def test_a_constant_that_is_read_in_both_types_is_there_twice() -> None:
    graph = f"{TO_Y} {{ a = Mul(x, c) b = Mul(a, big) d = Mul(b, c) y = Resize(d, , scales) }}"
    model, kept = checked(model_of(graph, c=2, big=1e5, scales=np.array([1, 1, 2, 2], np.float32)))
    assert list(kept) == ["Mul1"]
    types = types_of(model)
    assert (types["c"], types["scales"]) == (FLOAT16, FLOAT32), "sizes of Resize are float32 by its definition"
    both, _ = checked(model_of(f"{TO_Y} {{ a = Mul(x, c) b = Sum(big, c, a) y = Relu(b) }}", c=2, big=1e5))
    assert (types_of(both)["c"], types_of(both)["c.half"]) == (FLOAT32, FLOAT16)


def test_constants_of_constant_nodes_are_written_as_float16_too() -> None:
    graph = f"{TO_Y} {{ a = Constant<value_float: float = 3.0>() y = Mul(x, a) }}"
    model, _ = checked(model_of(graph))
    assert types_of(model)["a"] == FLOAT16
    assert [node.op_type for node in model.graph.node] == ["Cast", "Mul", "Cast"]
    np.testing.assert_allclose(answers(model, x=IMAGES)["y"], 3 * IMAGES, rtol=2**-9)


def test_sizes_computed_from_a_shape_stay_in_float32() -> None:
    """3,001 pixels are not 3,000; float16 knows even numbers only there."""
    graph = """(float[n, 3, 8, s] x) => (float[n, 3, 8, t] y) {
        all = Shape(x) real = Cast<to = 1>(all) doubled = Mul(real, twice) sizes = Cast<to = 7>(doubled)
        y = Resize<mode = "nearest">(x, , , sizes) }"""
    model, kept = checked(model_of(graph, twice=np.array([1, 1, 1, 2], np.float32)))
    assert kept == {}
    assert types_of(model)["doubled"] == FLOAT32
    wide = np.zeros((1, 3, 8, 3001), np.float32)
    assert answers(model, x=wide)["y"].shape == (1, 3, 8, 6002)


def test_pixels_that_the_model_turns_into_floats_are_computed_in_float16() -> None:
    graph = "(uint8[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) { a = Cast<to = 1>(x) y = Mul(a, c) }"
    model, kept = checked(model_of(graph, c=0.5))
    assert (types_of(model)["c"], kept) == (FLOAT16, {})


def test_a_result_that_is_read_on_and_an_input_that_is_a_result_stay_float32() -> None:
    graph = "(float[n, 3] x) => (float[n, 3] x, float[n, 3] y, float[n, 3] z) { y = Relu(x) z = Mul(y, c) }"
    model, _ = checked(model_of(graph, c=3))
    assert [types_of(model)[name] for name in "xyz"] == [FLOAT32] * 3
    images = IMAGES[0, :, 0, :3].copy()
    found: Any = ReferenceEvaluator(model).run(None, {"x": images})
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_allclose(found[2], 3 * np.maximum(images, 0), rtol=2**-9)


def test_operators_of_other_domains_and_those_without_a_definition_for_float16_stay() -> None:
    graph = f"{TO_Y} {{ a = Mul(x, c) b = com.microsoft.Gelu(a) d = Abs(b) y = Add(d, e) }}"
    model, kept = checked(model_of(graph, c=2, e=1))
    assert kept == {
        "Gelu1": "com.microsoft.Gelu is no operator of ONNX",
        "Abs2": "the type of b is not known",
        "Add3": "the type of d is not known",
    }
    expected = answers(model_of(graph, c=2, e=1), x=IMAGES)["y"]
    np.testing.assert_allclose(answers(model, x=IMAGES)["y"], expected, atol=0.02)
    boxes = """(float[1, 4, 4] b, float[1, 1, 4] s) => (int64[k, 3] y) {
        c = Relu(b) y = NonMaxSuppression(c, s, most) }"""
    _, kept = checked(model_of(boxes, most=np.array([3], np.int64)))
    assert kept == {"NonMaxSuppression1": "NonMaxSuppression knows no float16"}


def test_graphs_inside_operators_read_float32() -> None:
    graph = """(float[n, 3] x, bool c) => (float[n, 3] y) {
        a = Relu(x) b = Mul(a, two)
        y = If(c) <then_branch = yes () => (float[n, 3] t) { t = Add(b, two) },
                   else_branch = no () => (float[n, 3] e) { e = Neg(b) }> }"""
    model, kept = checked(model_of(graph, two=2))
    assert kept == {"Mul1": "a graph inside another operator reads its result", "If2": "If holds a graph of its own"}
    assert (types_of(model)["a"], types_of(model)["two"]) == (FLOAT16, FLOAT32)
    images = IMAGES[0, :, 0, :3].copy()
    feeds = {"x": images, "c": np.array(True)}
    np.testing.assert_allclose(answers(model, **feeds)["y"], 2 * np.maximum(images, 0) + 2, rtol=2**-9)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/mobilenet_v3_small"])
def test_a_whole_network_has_no_float32_layer_left_and_names_the_same_classes(name: str) -> None:
    """Residual sums, pools, Gemm, HardSwish and HardSigmoid. Statistics of BatchNorm are of random images, so that
    logits differ from image to image. Each of some 50 layers rounds to 11 bits: 2 % of the logits' range is allowed."""
    torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
    from limpq_deploy.export.graph.from_torch import export_template
    from limpq_deploy.model.zoo import create_model

    torch.manual_seed(0)
    net, _ = create_model(name, num_classes=10)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches seen
    images = np.random.default_rng(0).standard_normal((32, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        net.train()(torch.from_numpy(images))
    model = export_template(torch.fx.symbolic_trace(net.eval()), (3, 64, 64), 17)
    half, kept = checked(model)
    assert kept == {}
    assert len(casts(half)) == 2
    assert planned_precision(half) == dict.fromkeys(planned_precision(model), "float16")
    assert len(planned_precision(half)) > 20
    expected, found = (answers(one, images=images[:8])["logits"] for one in (model, half))
    assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


OPERATORS = ("Relu", "Abs", "Sigmoid", "HardSwish", "Gelu", "Add", "Mul", "Max", "Clip", "Concat")
CONSTANTS = {"half": 0.5, "minus": -1.0, "tiny": 1e-9, "huge": 1e5}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_graphs_stay_valid_and_compute_nearly_the_same(data: st.DataObject) -> None:
    """Branches back, constants that float16 holds and others, results in the middle. Each step rounds to 11 bits, and
    numbers may cancel, so nearly means: 1 % of the largest number seen. Products with the huge one overflow."""
    nodes: list[onnx.NodeProto] = []
    tensors = ["x"]
    for number in range(data.draw(st.integers(1, 8))):
        operator = data.draw(st.sampled_from(OPERATORS))
        inputs = [data.draw(st.sampled_from(tensors))]
        if operator in ("Add", "Max", "Clip"):
            inputs.append(data.draw(st.sampled_from((*CONSTANTS, tensors[-1]) if operator == "Max" else (*CONSTANTS,))))
        if operator == "Mul":
            inputs.append(data.draw(st.sampled_from(("half", "minus", "tiny"))))
        attributes: dict[str, Any] = {}
        if operator == "Concat":
            inputs, attributes = [*inputs, *inputs], {"axis": 0}
        domain = "com.microsoft" if operator == "Gelu" else ""
        nodes.append(helper.make_node(operator, inputs, [f"t{number}"], f"n{number}", domain=domain, **attributes))
        if operator != "Concat":  # its result has another number of images
            tensors.append(f"t{number}")
    results = list(dict.fromkeys((nodes[-1].output[0], data.draw(st.sampled_from(tensors[1:] or ["t0"])))))
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", FLOAT32, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info(name, FLOAT32, [None, 3, 4, 4]) for name in results],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in CONSTANTS.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    half, kept = checked(model)
    known = {"x", *CONSTANTS, *results}  # tensors whose type can be told
    for node in nodes:
        told = node.op_type != "Gelu" and known.issuperset(node.input)
        assert (node.name in kept) == (not told or not {"tiny", "huge"}.isdisjoint(node.input))
        if node.op_type != "Gelu" and node.input[0] in known:  # the first input alone tells a result's type
            known.add(node.output[0])
        if told and node.output[0] not in results:
            assert types_of(half)[node.output[0]] == (FLOAT32 if node.name in kept else FLOAT16)
    expected, found = (answers(one, x=IMAGES[:, :, :4, :4].copy()) for one in (model, half))
    largest = max(1.0, *(float(np.abs(value).max()) for value in expected.values()))
    for name in results if largest < 6e4 else ():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], atol=0.01 * largest)
