"""Configuration of a model for NVIDIA Triton, written through Triton's own protobuf schema.

The schema is ``tritonclient.grpc.model_config_pb2`` (extra ``serve``). See `config_check` for one's own files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.export.ship.triton.served_io import LABELS, ServedIO

Backend = Literal["onnxruntime", "python", "tensorrt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """What serves a model. ``file``: in a version folder, the one that it opens. ``plans``: whether that is an engine
    for one GPU, of which there may be one for each; such a backend computes on GPUs. ``platform``: what config.pbtxt
    names instead of the backend; None where it names that. ``threads``: the parameter that says how many threads a copy
    has; None where it computes on a GPU. ``saturates``: whether it takes a CPU's default kernels, which lose sums of
    weights beyond 7 bits where the CPU has no VNNI."""

    file: str
    plans: bool = False
    platform: str | None = None
    threads: str | None = None
    saturates: bool = False


BACKENDS: dict[Backend, BackendSpec] = {
    "onnxruntime": BackendSpec(file="model.onnx", threads="intra_op_thread_count", saturates=True),
    "python": BackendSpec(file="model.py", threads="limpq.threads"),
    "tensorrt": BackendSpec(file="model.plan", plans=True, platform="tensorrt_plan"),
}

PLANS = tuple(name for name, backend in BACKENDS.items() if backend.plans)
"""Backends that serve engines."""

TWIN = Path(__file__).with_name("twin.py")
"""What becomes model.py for the python backend."""

NO_CACHE = b"This file keeps Python from writing compiled code here, which the manifest could not list.\n"
"""Content of the plain file ``__pycache__`` beside model.py: what a server compiled would run unverified."""

EXACT_SUMS = "limpq.exact_sums"
"""Parameter: "1" where a CPU may need an option to add up this model's weights exactly; read by the CPU twin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How a model is served. ``instances``: copies of it at work; ``threads`` of each
    on a CPU (None: the runtime's choice). ``max_batch``: images in one request, or together.
    ``queue_delay_us``: None: every request runs at once; else requests wait so long for others to share a batch."""

    backend: Backend
    max_batch: int = 8
    instances: int = 1
    threads: int | None = None
    queue_delay_us: int | None = None


def make_config(
    name: str,
    io: ServedIO,
    options: ServingOptions,
    version: int,
    parameters: Mapping[str, str],
    plans: Mapping[str, str],
    labels: Sequence[str] = (),
) -> str:
    """Text of config.pbtxt. ``version``: the one that is served. ``plans``: compute capability -> plan file, for
    TensorRT; empty: ``model.plan``. ``labels``: names of the classes, where there are any."""
    schema, text_format = schema_of_configs()
    config = schema.ModelConfig(name=name, max_batch_size=options.max_batch)
    backend = BACKENDS[options.backend]
    if backend.plans:
        config.optimization.cuda.graphs = True
        config.cc_model_filenames.update(plans)
    if backend.platform is not None:
        config.platform = backend.platform
    else:
        config.backend = options.backend
    if not plans:
        config.default_model_filename = backend.file
    images = schema.DataType.Value(io.data_type)
    config.input.add(name=io.input, data_type=images, dims=io.dims)
    labelled = io.labelled(labels)
    for output in io.outputs:
        file = LABELS if output.name == labelled else ""
        kind = schema.DataType.Value(output.data_type)
        one = config.output.add(name=output.name, data_type=kind, dims=output.dims, label_filename=file)
        if not output.sizes:
            one.reshape.SetInParent()  # to no dims, as the model gives it
    group = schema.ModelInstanceGroup
    config.instance_group.add(count=options.instances, kind=group.KIND_GPU if backend.plans else group.KIND_CPU)
    config.version_policy.specific.versions.append(version)
    if options.queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = options.queue_delay_us
    for size in sorted({1, options.max_batch}):
        warm = config.model_warmup.add(name=f"batch_{size}", batch_size=size)
        warm.inputs[io.input].data_type = images
        warm.inputs[io.input].dims.extend(io.dims)
        warm.inputs[io.input].zero_data = True
    for key, value in sorted(parameters.items()):
        config.parameters[key].string_value = plain(value)
    return str(text_format.MessageToString(config))


def read_labels(data: bytes) -> tuple[str, ...]:
    """The lines of labels.txt."""
    text = data.decode(errors="backslashreplace").removesuffix("\n")
    return tuple(text.split("\n")) if text else ()


def schema_of_configs() -> tuple[Any, Any]:
    """Triton's protobuf schema of config.pbtxt, and the module that reads and writes such text. Raises MissingExtra."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise MissingExtra(
            "Triton's configuration schema needs tritonclient, which is not installed; "
            "run: pip install 'limpq-deploy[serve]'"
        ) from error
    return model_config_pb2, text_format
