"""TensorRT for RTX: its compiler builds engines on any machine, and GPUs of its list run them."""

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.records.targets.base import FileForm, RuntimeSpec, TargetSpec

TENSORRT_RTX_GPU = RuntimeSpec(
    name="tensorrt_rtx",
    title="TensorRT-RTX",
    code="tensorrt_rtx.runtime:TensorRtRtx",
    dialect="tensorrt",
    device="gpu",
    threads=("default",),
    engines=True,
    distributions=("tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
    begins="vtrt",  # read off engines of 1.7
    compiled_by="tensorrt_rtx",
    writer="tensorrt_rtx",
)

TENSORRT_RTX = TargetSpec(
    name="tensorrt_rtx",
    description="TensorRT-RTX on an NVIDIA GPU: s8 activations with zero-point 0, s8 weights, layers end in FP16",
    runs_on=TENSORRT_RTX_GPU,
    act_container="int8",
    signed_zero_point=0,
    offset_zero_point=None,
    unsigned_acts=False,
    clip="float",
    add_inputs="identity",
    pools=False,
    carrier_bits=8,
    float_streams=True,
    shared_inputs=True,
    single_q=False,
    bias="float32",
    native_pairs=((8, 8), (FP8, FP8), (16, 16), (32, 32)),
    weight_blocks=(64, 32, 16),
    half_sums=True,
    float_baseline="float16",
    forms=(FileForm(version="1", opset=21, weights="int8", typed=True, parser="11", fp8=True),),
    form_key="limpq.tensorrt_rtx",
    settings=("batch", "float_type", "gpus"),
)
"""Its parser is that of TensorRT 11. No other setting of the builder changes its engines: kernels are chosen on the GPU
that runs them."""
