"""What a file asks of the GPUs that it is compiled for."""

from collections.abc import Iterable

import onnx

from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import CAPABILITIES, DEFAULT, FP8, Capability


def has_fp8(model: onnx.ModelProto) -> bool:
    """Whether a file has tensors in FP8 (E4M3)."""
    return any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in model.graph.initializer)


def with_fp8(names: Iterable[str] = DEFAULT) -> tuple[str, ...]:
    """Those of some capabilities that execute FP8."""
    return tuple(name for name in names if FP8 in CAPABILITIES[name].convolutions)


def usual_for(model: onnx.ModelProto) -> tuple[str, ...]:
    """The usual capabilities that admit a file."""
    return with_fp8() if has_fp8(model) else DEFAULT


def without_fp8(capabilities: Iterable[Capability], what: str) -> str | None:
    """Why these capabilities do not all execute ``what`` has in FP8, in one sentence; None where they do."""
    for one in capabilities:
        if FP8 not in one.convolutions:
            return (
                f"{what} has layers in FP8, which {one.name} ({one.gpus}) does not execute; build for "
                f"{', '.join(with_fp8(CAPABILITIES))} with --gpus, or leave fp8 out of --formats"
            )
    return None
