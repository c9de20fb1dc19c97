"""Files in FP8, and GPUs that do not execute it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed
from limpq_deploy.export.runtimes.tensorrt_rtx.build import compile_model
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named
from limpq_deploy.export.runtimes.tensorrt_rtx.needs import usual_for, with_fp8, without_fp8
from limpq_deploy.export.runtimes.tensorrt_rtx.word import compiler_word

FP8 = TensorProto.FLOAT8E4M3FN


def one_layer(kind: int = FP8, channels: int = 8) -> onnx.ModelProto:
    """A convolution between pairs of one type."""
    codes = np.full((8, channels, 3, 3), 0x38 if kind == FP8 else 1, np.uint8).tobytes()
    constants = [
        helper.make_tensor("conv.weight_codes", kind, [8, channels, 3, 3], codes, raw=True),
        helper.make_tensor("zero", kind, [], b"\0", raw=True),
        numpy_helper.from_array(np.array(0.5, np.float16), "scale"),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["half"], "cast", to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "scale", "zero"], ["codes"], "q"),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["reals"], "dq"),
        helper.make_node("DequantizeLinear", ["conv.weight_codes", "scale", "zero"], ["weight"], "dqw"),
        helper.make_node("Conv", ["reals", "weight"], ["sums"], "conv", kernel_shape=[3, 3]),
        helper.make_node("Cast", ["sums"], ["logits"], "cast_back", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8, 6, 6])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_gpus_below_8_9_are_left_out_for_a_file_in_fp8_and_refused_where_they_are_named() -> None:
    assert usual_for(one_layer(TensorProto.INT8)) == ("sm86", "sm89", "sm120")
    assert usual_for(one_layer()) == with_fp8() == ("sm89", "sm120")
    said = without_fp8(capabilities_named(("sm89", "sm86")), "the file")
    assert said is not None
    assert "sm86 (GeForce RTX 30, A10, A40) does not execute" in said
    assert without_fp8(capabilities_named(("sm89", "sm121")), "the file") is None


def test_the_compiler_makes_a_kernel_in_fp8_of_it_where_the_gpu_has_it() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")
    word = compiler_word(one_layer())
    assert (word.accepted, word.capabilities) == (True, ("sm89", "sm120"))
    assert (word.fp8_layers, word.integer_layers, word.planned, word.as_floats) == (1, 0, 1, ())
    assert "1 of 1 layers in FP8" in word.detail
    with pytest.raises(BuildFailed, match="layers in FP8, which sm86"):
        compile_model(one_layer(), EngineOptions(), ("sm86",), report=lambda done, total, note: None)
    assert compiler_word(one_layer(), gpus=("sm86",)).accepted is False
