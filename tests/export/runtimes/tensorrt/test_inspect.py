"""An engine's inspector, read in both of its schemas.

`EIGHT` and `ELEVEN` are written by hand after NVIDIA's documentation of 8.6 and 11; `RECORDED` was recorded.
"""

import json
from typing import Any

import onnx
import pytest

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.engine_record import EngineLayer
from limpq_deploy.export.runtimes.tensorrt.inspect import (
    compute_nodes,
    layer_precision,
    nodes_of,
    parse_inspector,
    planned_precision,
    read_inspector,
    samples_by_layer,
)


def tensor_8(kind: str) -> list[dict[str, Any]]:
    return [{"Name": "t", "Location": "Device", "Dimensions": [1, 8, 8, 8], "Format/Datatype": kind}]


def tensor_11(kind: str) -> list[dict[str, Any]]:
    return [{"Name": "t", "Location": "Device", "Dimensions": [1, 8, 8, 8], "Format": "kCHW32", "Datatype": kind}]


REFORMAT = "Reformatting CopyNode for Input Tensor 0 to node_stem"
INT8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF = "Channel major FP16 format where channel % 8 == 0"
FLOAT_FORMAT = "Row major linear FP32"

EIGHT: dict[str, Any] = {
    "Layers": [
        {
            "Name": REFORMAT,
            "LayerType": "Reformat",
            "Inputs": tensor_8(FLOAT_FORMAT),
            "Outputs": tensor_8(INT8),
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            "TacticValue": "0x00000000000003e8",
            "Metadata": "",
        },
        {
            "Name": "stem.weight + stem.weight_codes + node_stem + PWN(node_stem_relu)",
            "LayerType": "CaskConvolution",
            "Inputs": tensor_8(INT8),
            "Outputs": tensor_8(INT8),
            "ParameterType": "Convolution",
            "Weights": {"Type": "Int8", "Count": 216},
            "Bias": {"Type": "Float", "Count": 8},
            "Activation": "RELU",
            "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32",
            "TacticValue": "0x1dfc7a0b",
        },
        {
            "Name": "node_block1.conv1",
            "LayerType": "CaskConvolution",
            "Inputs": tensor_8(HALF),
            "Outputs": tensor_8(INT8),
            "ParameterType": "Convolution",
            "Weights": {"Type": "Half", "Count": 576},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc",
            "Metadata": "[ONNX Layer: node_block1.conv1]",
        },
        {"Name": "node_pool", "LayerType": "CaskPooling", "Inputs": tensor_8(HALF), "Outputs": tensor_8(HALF)},
    ],
    "Bindings": ["images", "logits"],
}

ELEVEN: dict[str, Any] = {
    "Layers": [
        {
            "Name": REFORMAT,
            "LayerType": "Reformat",
            "Inputs": tensor_11("FP32"),
            "Outputs": tensor_11("Int8"),
            "Metadata": "",
        },
        {
            "Name": "stem_myl0_1",
            "LayerType": "CaskConvolution",
            "Inputs": tensor_11("Int8"),
            "Outputs": tensor_11("Int8"),
            "Weights": {"Type": "Int8", "Count": 216},
            "TacticName": "sm90_xmma_fprop_implicit_gemm_i8",
            "Metadata": "[ONNX Layer: node_stem]\x1e[ONNX Layer: node_stem_relu]",
        },
        {
            "Name": "conv1",
            "LayerType": "CaskConvolution",
            "Inputs": tensor_11("Half"),
            "Outputs": tensor_11("Int8"),
            "Weights": {"Type": "Half", "Count": 576},
            "Metadata": "[ONNX Layer: node_block1.conv1]",
        },
        {"Name": "pool", "LayerType": "Pooling", "Inputs": tensor_11("Half"), "Outputs": tensor_11("Half")},
    ],
    "I/O Tensors": ["images", "logits"],
}


GEMM = (
    "fc.weight + QuantizeLinear_255 + Gemm_257 + fc.bias + (Unnamed Layer* 306) [Shuffle] + "
    "unsqueeze_node_after_fc.bias + (Unnamed Layer* 306) [Shuffle]_(Unnamed Layer* 306) [Shuffle]_output + "
    "(Unnamed Layer* 307) [ElementWise]"
)
RECORDED: dict[str, Any] = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Output Tensor 0 to MaxPool_12",
            "LayerType": "Reformat",
            "Inputs": tensor_8("Row major linear FP32"),
            "Outputs": tensor_8("Thirty-two wide channel vectorized row major FP16 format"),
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            "TacticValue": "0x00000000000003ea",
        },
        {
            "Name": "QuantizeLinear_250",
            "LayerType": "Reformat",
            "Inputs": tensor_8("Two wide channel vectorized row major FP16 format"),
            "Outputs": tensor_8("Four wide channel vectorized row major Int8 format"),
            "ParameterType": "Reformat",
            "Origin": "QDQ",
            "TacticValue": "0x00000000000003e8",
        },
        {
            "Name": f"Reformatting CopyNode for Input Tensor 0 to {GEMM}",
            "LayerType": "NoOp",
            "Inputs": tensor_8("Four wide channel vectorized row major Int8 format"),
            "Outputs": tensor_8("Thirty-two wide channel vectorized row major Int8 format"),
            "TacticValue": "0x0000000000000000",
        },
        {
            "Name": GEMM,
            "LayerType": "CaskConvolution",
            "Inputs": tensor_8("Thirty-two wide channel vectorized row major Int8 format"),
            "Outputs": tensor_8("Row major linear FP32"),
            "ParameterType": "Convolution",
            "Weights": {"Type": "Int8", "Count": 512000},
            "Bias": {"Type": "Float", "Count": 1000},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw",
            "TacticValue": "0xb69eef02adcf1473",
        },
    ],
    "Bindings": ["input.1", "422"],
}
"""Four layers of ResNet-18 on an A100, shortened to the fields that are read, from NVIDIA/TensorRT,
tools/experimental/trt-engine-explorer/examples/pytorch/resnet/A100/qat/resnet-qat.onnx.engine.graph.json."""


@pytest.mark.parametrize("document", [EIGHT, ELEVEN], ids=["8.6", "11"])
def test_both_schemas_say_the_same(document: dict[str, Any], residual: Any) -> None:
    layers = parse_inspector(json.dumps(document))
    assert [layer.precision for layer in layers] == ["int8", "int8", "float16", "float16"]
    assert [layer.reformat for layer in layers] == [True, False, False, False]
    assert "node_stem" in layers[1].nodes
    assert "node_stem_relu" in layers[1].nodes
    net, logits = residual(0)
    found = layer_precision(strip_markers(net.template(logits)), layers)
    assert found["stem"] == "s8s8"
    assert found["block1.conv1"] == "float16"
    assert found["head"] == "absent"


def test_a_reformat_before_a_layer_is_not_that_layer() -> None:
    [layer] = parse_inspector(json.dumps({"Layers": EIGHT["Layers"][:1]}))
    assert layer == EngineLayer(
        name=REFORMAT,
        kind="Reformat",
        precision="int8",
        nodes=(REFORMAT,),
        tactic=None,
        reformat=True,
        reads=("float32",),
        writes=("int8",),
    )


def test_of_a_real_engine_only_what_copies_unasked_is_a_reformat() -> None:
    layers = parse_inspector(json.dumps(RECORDED))
    assert [(layer.kind, layer.precision, layer.reformat) for layer in layers] == [
        ("Reformat", "float16", True),
        ("Reformat", "int8", False),  # a quantizer of the file
        ("NoOp", "int8", False),  # launches nothing
        ("CaskConvolution", "int8", False),
    ]
    assert [layer.weights for layer in layers] == [None, None, None, "int8"]


def file_of(*names: str) -> onnx.ModelProto:
    """Convolutions of these names; their weights name the layers a, b, ..."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", f"{letter}.weight"], [letter], name) for letter, name in names_of(names)
    ]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "file", [], []))


def names_of(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip("abcdef", names, strict=False))


def test_a_layer_that_does_nothing_before_a_gemm_is_not_that_gemm() -> None:
    layers = parse_inspector(json.dumps(RECORDED))
    assert layer_precision(file_of("Gemm_257"), layers) == {"a": "s8s8"}
    assert layer_precision(file_of("Gemm_257"), layers[:3]) == {"a": "absent"}


def test_of_several_layers_with_one_node_the_one_with_weights_is_the_layer() -> None:
    convolution: dict[str, Any] = {"Name": "c", "LayerType": "CaskConvolution", "Weights": {"Type": "Int8", "Count": 9}}
    others: list[dict[str, Any]] = [
        {"Name": name, "LayerType": kind, "Outputs": tensor_8(HALF)}
        for name, kind in (("slice", "Slice"), ("gemm", "CaskGemm"), ("scale", "Scale"))
    ]
    node: dict[str, Any] = {"Metadata": "[ONNX Layer: conv]"}
    layers = parse_inspector(json.dumps({"Layers": [one | node for one in (others[0], convolution, *others[1:])]}))
    assert layer_precision(file_of("conv"), layers) == {"a": "s8s8"}
    assert layer_precision(file_of("conv"), (layers[0], *layers[2:])) == {"a": "unknown"}  # of the Gemm nothing is told
    assert layer_precision(file_of("conv"), layers[3:]) == {"a": "float16"}


@pytest.mark.parametrize("between", ["\x1e", "\x1f", "+", " + ", ", ", " ", ""])
def test_several_operators_of_a_layer_are_told_apart_by_whatever_stands_between_them(between: str) -> None:
    """Versions differ: 0x1E by public dumps of 8.6, 0x1F by those of 10, "+" by documents."""
    metadata = between.join(f"[ONNX Layer: {name}]" for name in ("a[0]/conv", "q"))
    [layer] = parse_inspector(json.dumps({"Layers": [{"Name": "one", "Metadata": metadata}]}))
    assert layer.nodes == ("a[0]/conv", "q")


@pytest.mark.parametrize("character", ["\x1e", "\x1f"])
def test_control_characters_that_no_json_may_hold_are_read(character: str) -> None:
    """8.6 writes them as they are: NVIDIA/TensorRT#2779, "illegal characters" in the graph JSON of 8.6 EA."""
    text = '{"Layers": [{"Name": "one", "Metadata": "[ONNX Layer: a]@[ONNX Layer: b]"}]}'.replace("@", character)
    with pytest.raises(ValueError, match="Invalid control character"):
        json.loads(text)
    assert parse_inspector(text)[0].nodes == ("a", "b")


def test_an_answer_that_cannot_be_read_is_kept_with_the_reason() -> None:
    found = read_inspector("Layer(Reformat): copy, Tactic: 0")
    assert (found.text, found.layers) == ("Layer(Reformat): copy, Tactic: 0", ())
    assert "not valid JSON" in (found.problem or "")
    fine = read_inspector(json.dumps(RECORDED))
    assert (len(fine.layers), fine.problem) == (4, None)


def test_layers_of_one_name_are_told_apart_in_inspector_and_profile_alike() -> None:
    layers = parse_inspector('{"Layers": ["conv", "copy", "conv"]}')
    assert [layer.name for layer in layers] == ["conv", "copy", "conv (2)"]
    assert [layer.nodes for layer in layers] == [("conv",), ("copy",), ("conv",)]
    run = [("conv", 1.0), ("copy", 0.1), ("conv", 2.0)]
    again = [(name, ms + 0.5) for name, ms in run]
    assert samples_by_layer([*run, *again], 2) == {"conv": (1.0, 1.5), "copy": (0.1, 0.6), "conv (2)": (2.0, 2.5)}
    assert samples_by_layer([*run, *again[:2]], 2) == {"conv": (1.0, 2.0, 1.5), "copy": (0.1, 0.6)}
    assert samples_by_layer([], 2) == {}


def test_a_layer_with_int8_weights_that_reads_halves_is_called_a_half() -> None:
    entry = {"Name": "a", "LayerType": "CaskGemm", "Inputs": tensor_11("Half"), "Weights": {"Type": "Int8"}}
    [layer] = parse_inspector(json.dumps({"Layers": [entry]}))
    assert layer.precision == "float16"


def test_names_alone_are_read_where_the_engine_keeps_no_more() -> None:
    layers = parse_inspector(
        '{"Layers": ["node_stem + node_stem_relu", "Reformatting CopyNode for x"], "Bindings": []}'
    )
    assert [(layer.nodes[0], layer.precision, layer.reformat) for layer in layers] == [
        ("node_stem", "unknown", False),
        ("Reformatting CopyNode for x", "unknown", True),
    ]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("conv1 + relu1", ("conv1", "relu1")),
        ("conv1 + PWN(relu1)", ("conv1", "relu1")),
        ("a || b", ("a", "b")),
        ("/layer1/conv/Conv", ("/layer1/conv/Conv",)),
    ],
)
def test_a_fused_name_is_taken_apart(name: str, nodes: tuple[str, ...]) -> None:
    assert nodes_of(name) == nodes


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not valid JSON"), ("[]", "no list 'Layers'"), ('{"Layers": [{"LayerType": "x"}]}', "without a name")],
)
def test_another_form_is_an_error(text: str, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        parse_inspector(text)


def test_a_file_says_what_it_asks_for(edges: Any) -> None:
    net, logits = edges(0)
    model = net.qdq(logits)
    assert planned_precision(model) == dict.fromkeys(compute_nodes(model), "s8s8")
    floats = strip_markers(net.template(logits))
    assert planned_precision(floats) == dict.fromkeys(compute_nodes(floats), "float32")
