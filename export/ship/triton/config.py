"""Configuration of a model for NVIDIA Triton, written and checked through Triton's own protobuf schema.

The schema is ``tritonclient.grpc.model_config_pb2`` (extra ``serve``). `check_config` refuses what a server would take
without a word (a warm-up larger than the batch, a wrong output size with the python backend) as well as what it would
refuse only after the files are in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.errors import LimpqError, MissingExtra
from limpq_deploy.calibration.plain_text import plain

Backend = Literal["onnxruntime", "python", "tensorrt"]

CONFIG = "config.pbtxt"
LABELS = "labels.txt"

LONGEST_LABEL = 1000
"""Characters of a class's name."""


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


class ConfigRefused(LimpqError):
    """A configuration does not fit the model, or is none; ``field`` is its name in config.pbtxt."""

    def __init__(self, field: str, found: str, advice: str) -> None:
        self.field = field
        super().__init__(f"{CONFIG}, {field}: {found}; {advice}")


ONNX_FLOAT, ONNX_UINT8 = 1, 2
"""ONNX's numbers of the types that images may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedIO:
    """What a model takes and gives: images [batch, *``dims``], floats or pixels -> float32 logits [batch, ``classes``].

    ``data_type``: of the images, in Triton's words. ``fixed_batch``: the only batch that the graph takes; None where it
    takes any.
    """

    input: str
    dims: tuple[int, ...]
    output: str
    classes: int
    fixed_batch: int | None = None
    data_type: Literal["TYPE_FP32", "TYPE_UINT8"] = "TYPE_FP32"


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


def read_io(model: Path) -> ServedIO:
    """Input and output of an ONNX file. Raises ConfigRefused where Triton could not serve it as it is described here,
    or where it refers to files outside itself."""
    import onnx

    from limpq_deploy.calibration.errors import ModelError

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception as error:  # OSError, or protobuf's DecodeError, which derives from Exception alone
        raise ModelError(f"{model} is not an ONNX file ({type(error).__name__}); build the bundle again") from error
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "?")
            raise ModelError(f"{model} refers to the external file {place!r}; export it as one file")
    constant = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constant]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ConfigRefused(
            "input", f"the model has {len(inputs)} inputs and {len(graph.output)} outputs", "expected one of each"
        )
    batch, *dims = _shape(inputs[0], "input")
    _, *classes = _shape(graph.output[0], "output")
    if not dims or any(size is None for size in dims):
        raise ConfigRefused("input.dims", f"the model's input is [{batch}, {dims}]", "export it with a fixed size")
    if len(classes) != 1 or classes[0] is None:
        raise ConfigRefused("output.dims", f"the model's output is [batch, {classes}]", "expected [batch, classes]")
    for field, value in (("input.name", inputs[0]), ("output.name", graph.output[0])):
        if plain(value.name) != value.name:
            raise ConfigRefused(field, f"the model calls it {plain(value.name)!r}", "expected a short name of letters")
    return ServedIO(
        input=inputs[0].name,
        dims=tuple(size for size in dims if size is not None),
        output=graph.output[0].name,
        classes=classes[0],
        fixed_batch=batch,
        data_type="TYPE_UINT8" if inputs[0].type.tensor_type.elem_type == ONNX_UINT8 else "TYPE_FP32",
    )


def _shape(value: Any, field: str) -> list[int | None]:
    tensor = value.type.tensor_type
    if tensor.elem_type not in ((ONNX_FLOAT, ONNX_UINT8) if field == "input" else (ONNX_FLOAT,)):
        wanted = "expected float32, or uint8 pixels" if field == "input" else "expected float32"
        raise ConfigRefused(f"{field}.data_type", f"{value.name!r} has ONNX type {tensor.elem_type}", wanted)
    sizes = [entry.dim_value if entry.HasField("dim_value") else None for entry in tensor.shape.dim]
    return sizes or [None]


def make_config(
    name: str,
    io: ServedIO,
    options: ServingOptions,
    version: int,
    parameters: Mapping[str, str],
    plans: Mapping[str, str],
) -> str:
    """Text of config.pbtxt. ``version``: the one that is served. ``plans``: compute capability -> plan file, for
    TensorRT; empty: ``model.plan``."""
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
    config.output.add(name=io.output, data_type=schema.TYPE_FP32, dims=[io.classes], label_filename=LABELS)
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


def check_config(
    text: str,
    *,
    name: str,
    io: ServedIO,
    backend: Backend,
    labels: Sequence[str],
    versions: Sequence[int],
    plans: Mapping[str, str] | None = None,
) -> int:
    """The largest batch that ``text`` allows. Raises ConfigRefused, naming the field, unless a server can load it and
    answer as the model does.

    ``name``: of the model's folder; ``versions``: the version folders there, the one to be served last; ``plans``:
    compute capability -> plan file, where there is more than one ``model.plan``.
    """
    schema, text_format = schema_of_configs()
    try:
        config = text_format.Parse(text, schema.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigRefused("syntax", plain(error), "see Triton's model_config.proto") from error
    _same("name", config.name, name, "the folder's name")
    spec = BACKENDS[backend]
    if spec.platform is not None:
        _same("platform", config.platform, spec.platform, "the backend that was asked for")
    else:
        _same("backend", config.backend, backend, "the backend that was asked for")
    _same("cc_model_filenames", dict(config.cc_model_filenames), dict(plans or {}), "the plans that are shipped")
    file = "" if plans else spec.file  # a default would be taken, silently, on a GPU without a plan
    _same("default_model_filename", config.default_model_filename, file, "the file that is shipped")
    _check_batch(config, io)
    _check_tensor(schema, "input", config.input, io.input, io.dims, io.data_type)
    _check_tensor(schema, "output", config.output, io.output, (io.classes,), "TYPE_FP32")
    _same("output.label_filename", config.output[0].label_filename, LABELS, "the file that is shipped")
    if unfit := next((label for label in labels if plain(label, LONGEST_LABEL) != label), None):
        raise ConfigRefused(
            "output.label_filename", f"{LABELS} has the label {plain(unfit)!r}", "build the bundle again"
        )
    if len(labels) != io.classes:
        raise ConfigRefused(
            "output.label_filename", f"{LABELS} has {len(labels)} labels", f"the model has {io.classes} classes"
        )
    _check_warmup(schema, config, io)
    _check_instances(schema, config, spec)
    served = tuple(config.version_policy.specific.versions)
    if versions[-1] not in served or not set(served) <= set(versions):
        raise ConfigRefused(
            "version_policy", f"serves {list(served)}", f"expected {versions[-1]}, and no others than {list(versions)}"
        )
    if config.optimization.cuda.graphs and not spec.plans:
        raise ConfigRefused("optimization.cuda.graphs", "asked of a CPU backend", "leave it away")
    return int(config.max_batch_size)


def read_labels(data: bytes) -> tuple[str, ...]:
    """The lines of labels.txt."""
    text = data.decode(errors="backslashreplace").removesuffix("\n")
    return tuple(text.split("\n")) if text else ()


def _check_batch(config: Any, io: ServedIO) -> None:
    if config.max_batch_size < 1:
        raise ConfigRefused("max_batch_size", f"is {config.max_batch_size}", "expected 1 or more")
    if io.fixed_batch is not None and (io.fixed_batch, config.max_batch_size) != (1, 1):
        raise ConfigRefused(
            "max_batch_size",
            f"is {config.max_batch_size}, and the model takes only batches of {io.fixed_batch}",
            "export it with a free batch, or take --max-batch 1 for a batch of 1",
        )
    for size in config.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= config.max_batch_size:
            raise ConfigRefused(
                "dynamic_batching.preferred_batch_size", f"is {size}", f"expected 1 to {config.max_batch_size}"
            )


def _check_tensor(schema: Any, field: str, tensors: Any, name: str, dims: tuple[int, ...], kind: str) -> None:
    if len(tensors) != 1:
        raise ConfigRefused(field, f"has {len(tensors)} tensors", "the model has one")
    _same(f"{field}.name", tensors[0].name, name, "the model's")
    _same(f"{field}.data_type", schema.DataType.Name(tensors[0].data_type), kind, "the model's")
    _same(f"{field}.dims", list(tensors[0].dims), list(dims), "the model's, without the batch")


def _check_warmup(schema: Any, config: Any, io: ServedIO) -> None:
    for sample in config.model_warmup:
        if not 1 <= sample.batch_size <= config.max_batch_size:
            raise ConfigRefused(
                "model_warmup.batch_size", f"is {sample.batch_size}", f"expected 1 to {config.max_batch_size}"
            )
        _same("model_warmup.inputs", sorted(sample.inputs), [io.input], "the model's input")
        found = sample.inputs[io.input]
        _same("model_warmup.inputs.dims", list(found.dims), list(io.dims), "the model's, without the batch")
        kind = schema.DataType.Name(found.data_type)
        _same("model_warmup.inputs.data_type", kind, io.data_type, "the model's")
        if found.WhichOneof("input_data_type") == "input_data_file":
            raise ConfigRefused("model_warmup.inputs.input_data_file", "no such file is shipped", "take zero_data")


def _check_instances(schema: Any, config: Any, backend: BackendSpec) -> None:
    if len(config.instance_group) == 0:
        raise ConfigRefused("instance_group", "is missing", "say how many instances run, and on what")
    for group in config.instance_group:
        if group.count < 1:
            raise ConfigRefused("instance_group.count", f"is {group.count}", "expected 1 or more")
        wanted = "KIND_GPU" if backend.plans else "KIND_CPU"
        _same(
            "instance_group.kind", schema.ModelInstanceGroup.Kind.Name(group.kind), wanted, "what the backend runs on"
        )


def _same(field: str, found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise ConfigRefused(field, f"is {plain(repr(found))}", f"expected {plain(repr(expected))}, {what}")


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
