"""ONNX Runtime: integers on a CPU; on a GPU it computes in floats and is timed only."""

from limpq_deploy.export.records.targets.base import FileForm, RuntimeSpec, TargetSpec

ONNXRUNTIME_CPU = RuntimeSpec(
    name="onnxruntime",
    title="ONNX Runtime",
    code="onnxruntime.session:OnnxRuntime",
    dialect="onnxruntime",
    device="cpu",
    threads=(1, "default"),
    engines=False,
    distributions=("onnxruntime", "onnxruntime-gpu"),
)

ONNXRUNTIME_CUDA = RuntimeSpec(
    name="onnxruntime-cuda",
    title="ONNX Runtime on a GPU",
    code="onnxruntime.cuda_session:OnnxRuntimeCuda",
    dialect="onnxruntime",
    device="gpu",
    threads=("default",),
    engines=False,
    distributions=("onnxruntime-gpu",),
)

ONNXRUNTIME = TargetSpec(
    name="onnxruntime",
    description="ONNX Runtime on a CPU: u8 activations, s8 weights per channel, integers from first to last layer",
    runs_on=ONNXRUNTIME_CPU,
    act_container="uint8",
    signed_zero_point=128,
    offset_zero_point=16,
    unsigned_acts=True,
    clip="integer",
    add_inputs="all",
    pools=True,
    carrier_bits=8,
    shared_inputs=True,
    single_q=True,
    bias="int32",
    native_pairs=((8, 8), (32, 32)),
    forms=(FileForm(version=None, opset=21, weights="int8", typed=True),),
)
