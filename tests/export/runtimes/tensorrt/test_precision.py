"""Which type a layer computes in, from what real inspectors wrote.

`DYNAMIC` and `STATIC` are layers of real engines, shortened to the fields that are read: the first of an engine with a
free batch, in public notes on INT8 convolutions; the second of ResNet-18 on an A100, in NVIDIA/TensorRT,
tools/experimental/trt-engine-explorer/examples/pytorch/resnet/A100/qat/resnet-qat.onnx.engine.graph.json. Names of
kernels are from the same two and from other public dumps and build logs.
"""

from typing import Any

import pytest

from limpq_deploy.export.runtimes.tensorrt.precision import UNKNOWN, kernel_type, precision_of, weight_type

NOT_SAID = [{"Name": "t", "Dimensions": [-1, 128, 14, 14], "Format/Datatype": "N/A due to dynamic shapes"}]
INT8_KERNEL = (
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw_tilesize64x32x64_"
    "stage6_warpsize2x1x1_g1_tensor16x8x32_t1r3s3_alignc4_nchw"
)
DYNAMIC: dict[str, Any] = {
    "Name": "(Unnamed Layer* 1) [Convolution]",
    "LayerType": "CaskConvolution",
    "Inputs": NOT_SAID,
    "Outputs": NOT_SAID,
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 13824},
    "Bias": {"Type": "Float", "Count": 12},
    "TacticName": INT8_KERNEL,
}
STATIC: dict[str, Any] = {
    "Name": "conv1.weight + QuantizeLinear_7 + Conv_9",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Format/Datatype": "Four wide channel vectorized row major Int8 format"}],
    "Outputs": [{"Format/Datatype": "Row major linear FP32"}],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 9408},
    "Bias": {"Type": "Float", "Count": 64},
    "TacticName": "ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1",
}


def without(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


@pytest.mark.parametrize("entry", [DYNAMIC, STATIC], ids=["free batch", "one batch"])
def test_a_layer_with_int8_weights_computes_in_int8_whether_or_not_its_tensors_are_told(entry: dict[str, Any]) -> None:
    assert precision_of(entry, entry["LayerType"]) == "int8"
    assert precision_of(without(entry, "TacticName"), entry["LayerType"]) == "int8"


def test_without_weights_the_kernel_decides() -> None:
    assert precision_of(without(DYNAMIC, "Weights"), "CaskConvolution") == "int8"
    half = DYNAMIC | {"Weights": {"Count": 0}, "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc"}
    assert precision_of(half, "CaskConvolution") == "float16"


def test_without_weights_and_kernel_the_tensors_decide_and_without_them_nothing_is_known() -> None:
    assert precision_of(without(STATIC, "Weights", "TacticName"), "CaskConvolution") == "int8"
    assert precision_of(without(DYNAMIC, "Weights", "TacticName"), "CaskConvolution") == UNKNOWN


def test_where_weights_and_input_disagree_the_kernel_decides_and_else_the_wider_type() -> None:
    half = [{"Format/Datatype": "Row major linear FP16 format"}]
    stored = DYNAMIC | {"Inputs": half}
    assert precision_of(stored, "CaskConvolution") == "int8"
    assert precision_of(without(stored, "TacticName"), "CaskGemm") == "float16"


def test_a_layer_that_multiplies_nothing_has_the_type_of_its_result() -> None:
    copy = {
        "Inputs": [{"Format": "kLINEAR", "Datatype": "FP32"}],
        "Outputs": [{"Format": "kCHW32", "Datatype": "Int8"}],
    }
    assert precision_of(copy, "Reformat") == "int8"
    fused = {"Inputs": NOT_SAID, "Outputs": NOT_SAID, "TacticName": "sm80_xmma_gemm_i8f32_i8i32_f32_by_fusion_tactic"}
    assert precision_of(fused, "fusion") == "int8"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (INT8_KERNEL, "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32", "int8"),
        ("ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1", "int8"),
        ("ampere_first_layer_filter7x7_imma_fwd", "int8"),
        ("sm80_xmma_gemm_f16f16_f16f16_f16_nn", "float16"),
        ("turing_fp16_s1688cudnn_fp16_128x128_ldg8_relu_f2f_exp_medium_nhwc_tn_v1", "float16"),
        ("ampere_h16816cudnn_128x128_ldg8_relu_exp_stages_64x3_medium_nhwc_tn_v1", "float16"),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize32x32x64", "float32"),
        ("ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v0", "float32"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "bfloat16"),
        ("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n", "float8"),
        ("generatedNativePointwise", None),
        ("sm50_xmma_pooling_max_tiled", None),
    ],
)
def test_a_kernel_names_its_type(name: str, kind: str | None) -> None:
    assert kernel_type(name) == kind


def test_weights_that_a_layer_does_not_have_have_no_type() -> None:
    assert weight_type({}) is None
    assert weight_type({"Weights": {"Type": "Half", "Count": 0}}) is None
    assert weight_type({"Weights": {"Type": "Half", "Count": 9408}}) == "float16"
