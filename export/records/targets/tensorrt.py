"""TensorRT 8.6 and later on an NVIDIA GPU."""

from collections.abc import Mapping

from limpq_deploy.export.records.targets.base import FileForm, RuntimeSpec, TargetSpec

TENSORRT_GPU = RuntimeSpec(
    name="tensorrt",
    title="TensorRT",
    code="tensorrt.runtime:TensorRt",
    dialect="tensorrt",
    device="gpu",
    threads=("default",),
    engines=True,
    distributions=(
        *("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        *("tensorrt-bindings", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    ),
    begins="ftrt",  # as Torch-TensorRT knows a plan: pytorch/TensorRT, ``engine_field.startswith(b"ftrt")``
    compiled_by="tensorrt_rtx",
)

TENSORRT_FORMS: Mapping[str, FileForm] = {
    "8.6": FileForm(version="8.6", opset=17, weights="float32", typed=False, parser="8.6"),
    "10": FileForm(version="10", opset=20, weights="int8", typed=True, parser="10"),
    "11": FileForm(version="11", opset=21, weights="int8", typed=True, parser="11"),
}
"""8.6 reads opset 17 and no int8 initializers reliably; 10.0 reads opset 20, 11 up to 25, both int8 initializers. 11
takes all types from the file, 10 where it is asked to (its builder here is)."""

TENSORRT = TargetSpec(
    name="tensorrt",
    description="TensorRT on an NVIDIA GPU: s8 activations with zero-point 0, s8 weights per channel",
    runs_on=TENSORRT_GPU,
    act_container="int8",
    signed_zero_point=0,
    offset_zero_point=None,
    unsigned_acts=False,
    clip="float",
    add_inputs="identity",
    pools=False,
    carrier_bits=8,
    shared_inputs=True,
    single_q=False,
    bias="float32",
    native_pairs=((8, 8), (16, 16), (32, 32)),
    linear_pairs=((4, 16),),
    float_baseline="float16",
    forms=tuple(TENSORRT_FORMS.values()),
    form_key="limpq.tensorrt",
    settings=("tensorrt", "batch", "float_type", "tf32", "workspace_mib", "builder_level", "builds"),
)
