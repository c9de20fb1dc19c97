"""The compiler's list of layers, as 1.7.1 wrote it for a small network (cut), and what is counted in it."""

import pytest

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.runtimes.tensorrt.inspect import engine_layers
from limpq_deploy.export.runtimes.tensorrt_rtx.inspect import parse_layers, weight_bytes
from limpq_deploy.export.runtimes.tensorrt_rtx.traffic import kernels, moved_bytes


def tensor(name: str, sizes: str, kind: str) -> str:
    return (
        f"{{ Name: {name}, Dimensions: [{sizes}], Strides: [4,1], StrideOrder: [3,0,2,1], Datatype: {kind}, Format: "
        "(NHWC) Channel major format }"
    )


CODES, SUMS = tensor("codes.1", "-1,4,10,10", "Int8"), tensor("sums", "-1,8,10,10", "Float")
WEIGHT, SCALE = tensor("w", "8,4,3,3", "Int8"), tensor("s", "1,8,1,1", "Float")
FUSED = "__myl_MulAddReluRounCast_0x79bf16f16f16"
LIST = f"""Layers:
Name: __mye1_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
Metadata: {""}
Name: conv1_myl0_1, LayerType: correlation, Inputs: [ {CODES}], Constants: [ {SCALE}, {WEIGHT}, {SCALE}], Outputs: [ \
{SUMS}], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: conv1][ONNX Layer: x_dequantized]
Name: __mye2_myl0_2, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1, \
Metadata: {""}
Name: {FUSED}_myl0_3, LayerType: kgen, Inputs: [ {SUMS}, {CODES}], Constants: [ {SCALE}], Outputs: [ {CODES}], \
TacticName: {FUSED}, StreamId: 0, Metadata: [ONNX Layer: conv1][ONNX Layer: relu]

I/O Tensors:
 Name: images, IOMode: Input, DataType: Float, Dimensions: [-1,3,10,10]
"""


def test_every_kernel_tells_its_types_and_what_is_fused_in_it() -> None:
    call, conv, signal, fused = engine_layers(parse_layers(LIST))
    assert (conv.kind, conv.precision, conv.weights) == ("correlation", "int8", "int8")
    assert (conv.reads, conv.writes, conv.nodes) == (("int8",), ("float32",), ("conv1", "x_dequantized"))
    assert fused.operations == ("Mul", "Add", "Relu", "Round", "Cast")
    assert (fused.precision, fused.weights) == ("int8", None)  # no type is read from the digits of its name
    assert (call.kind, signal.kind) == ("shape_call", "signal")


def test_layers_without_work_are_no_kernels() -> None:
    assert kernels(parse_layers(LIST)) == 2


def test_bytes_are_those_of_inputs_and_outputs_for_a_batch() -> None:
    codes, sums = 4 * 100, 4 * 8 * 100
    assert moved_bytes(parse_layers(LIST), 1) == {"int8": 3 * codes, "float32": 2 * sums}
    assert moved_bytes(parse_layers(LIST), 8) == {"int8": 24 * codes, "float32": 16 * sums}


def test_weights_are_what_the_log_says() -> None:
    assert weight_bytes(["Total Activation Memory: 5 bytes", "Total Weights Memory: 320 bytes"]) == 320
    assert weight_bytes(["nothing"]) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no layers"),
        ("Layers:\nName: conv1, Kind: correlation", "a layer in an unknown form: 'Name: conv1, Kind"),
    ],
)
def test_a_list_of_another_form_is_told(text: str, words: str) -> None:
    with pytest.raises(RecordError, match=words):
        parse_layers(text)


def test_a_type_of_unknown_size_is_told() -> None:
    with pytest.raises(RecordError, match="tensors of type 'Int3', whose size"):
        moved_bytes(parse_layers(LIST.replace("Datatype: Float", "Datatype: Int3")), 1)
