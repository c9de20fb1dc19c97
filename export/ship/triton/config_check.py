"""A configuration, one's own or ours, held against the model before a server reads it.

What a server would take without a word (a warm-up larger than the batch, a wrong output size with the python backend)
is refused here, as is what it would refuse only after the files are in place.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.export.ship.triton.config import BACKENDS, Backend, BackendSpec, schema_of_configs
from limpq_deploy.export.ship.triton.served_io import LABELS, ConfigRefused, ServedIO

LONGEST_LABEL = 1000
"""Characters of a class's name."""


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
    _check_input(schema, config.input, io)
    _check_outputs(schema, config.output, io, labels)
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


def _check_input(schema: Any, tensors: Any, io: ServedIO) -> None:
    if len(tensors) != 1:
        raise ConfigRefused("input", f"has {len(tensors)} tensors", "the model has one")
    _same("input.name", tensors[0].name, io.input, "the model's")
    _same("input.data_type", schema.DataType.Name(tensors[0].data_type), io.data_type, "the model's")
    _same("input.dims", list(tensors[0].dims), list(io.dims), "the model's, without the batch")


def _check_outputs(schema: Any, tensors: Any, io: ServedIO, labels: Sequence[str]) -> None:
    """All of them, in the model's order: that of the canaries."""
    if unfit := next((label for label in labels if plain(label, LONGEST_LABEL) != label), None):
        raise ConfigRefused(
            "output.label_filename", f"{LABELS} has the label {plain(unfit)!r}", "build the bundle again"
        )
    labelled = io.labelled(labels)
    if len(tensors) != len(io.outputs):
        raise ConfigRefused("output", f"has {len(tensors)} tensors", f"the model has {len(io.outputs)}")
    for found, output in zip(tensors, io.outputs, strict=True):
        _same("output.name", found.name, output.name, "the model's, in its order")
        _same("output.data_type", schema.DataType.Name(found.data_type), output.data_type, "the model's")
        _same("output.dims", list(found.dims), list(output.dims), "the model's, without the batch")
        reshaped = list(found.reshape.shape) if found.HasField("reshape") else None
        _same("output.reshape", reshaped, None if output.sizes else [], "the model's own shape")
        file = LABELS if output.name == labelled else ""
        what = "the file that is shipped" if file else "as its numbers are not one for each class"
        _same("output.label_filename", found.label_filename, file, what)


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
