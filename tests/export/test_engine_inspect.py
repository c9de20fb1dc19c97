"""An engine's inspector, read in both of its schemas.

The JSON here is written by hand after NVIDIA's documentation of 8.6 and 11; it was not recorded from an engine.
"""

import json
from typing import Any

import pytest

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.engine_inspect import (
    compute_nodes,
    layer_precision,
    nodes_of,
    parse_inspector,
    planned_precision,
)
from limpq_deploy.export.engine_record import EngineLayer
from limpq_deploy.export.qdq import strip_markers


def tensor_8(kind: str) -> list[dict[str, Any]]:
    return [{"Name": "t", "Location": "Device", "Dimensions": [1, 8, 8, 8], "Format/Datatype": kind}]


def tensor_11(kind: str) -> list[dict[str, Any]]:
    return [{"Name": "t", "Location": "Device", "Dimensions": [1, 8, 8, 8], "Format": "kCHW32", "Datatype": kind}]


REFORMAT = "Reformatting CopyNode for Input Tensor 0 to node_stem"
INT8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF = "Channel major FP16 format where channel % 8 == 0"
FLOAT = "Row major linear FP32"

EIGHT: dict[str, Any] = {
    "Layers": [
        {
            "Name": REFORMAT,
            "LayerType": "Reformat",
            "Inputs": tensor_8(FLOAT),
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
        name=REFORMAT, kind="Reformat", precision="int8", nodes=(REFORMAT,), tactic=None, reformat=True
    )


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
