"""What an ONNX file takes and gives, as Triton describes it; and the refusal of what Triton could not serve."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.plain_text import plain

CONFIG = "config.pbtxt"
LABELS = "labels.txt"

ONNX_FLOAT, ONNX_UINT8 = 1, 2
"""ONNX's numbers of the types that images may have."""

RESULTS = {1: "TYPE_FP32", 2: "TYPE_UINT8", 3: "TYPE_INT8", 6: "TYPE_INT32", 7: "TYPE_INT64", 9: "TYPE_BOOL"}
"""Triton's words for the types that outputs may have, by ONNX's numbers."""

ANY_SIZE = -1
"""Triton's word for a size that the file leaves open."""


class ConfigRefused(LimpqError):
    """A configuration does not fit the model, or is none; ``field`` is its name in config.pbtxt."""

    def __init__(self, field: str, found: str, advice: str) -> None:
        self.field = field
        super().__init__(f"{CONFIG}, {field}: {found}; {advice}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedOutput:
    """[batch, *``sizes``]: logits, vectors, maps, boxes. ``sizes``: `ANY_SIZE` where the file leaves one open; none for
    one number an image. ``data_type``: in Triton's words."""

    name: str
    sizes: tuple[int, ...]
    data_type: str = "TYPE_FP32"

    @property
    def dims(self) -> tuple[int, ...]:
        """Triton has no output of no dims: one number an image is a vector of one to its clients."""
        return self.sizes or (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedIO:
    """What a model takes and gives: images [batch, *``dims``], floats or pixels -> ``outputs``, in the file's order.

    ``data_type``: of the images, in Triton's words. ``fixed_batch``: the only batch that the graph takes; None where it
    takes any.
    """

    input: str
    dims: tuple[int, ...]
    outputs: tuple[ServedOutput, ...]
    fixed_batch: int | None = None
    data_type: Literal["TYPE_FP32", "TYPE_UINT8"] = "TYPE_FP32"

    def labelled(self, labels: Sequence[str]) -> str | None:
        """Name of the output that has a number for each label: the first such vector; None for maps and boxes, and
        where there are no labels. Raises ConfigRefused where the only output is a vector of other length."""
        if not labels:
            return None
        vectors = [output for output in self.outputs if len(output.sizes) == 1]
        fitting = next((output.name for output in vectors if output.sizes[0] == len(labels)), None)
        if fitting is None and len(self.outputs) == len(vectors) == 1:
            raise ConfigRefused(
                "output.label_filename",
                f"{LABELS} has {len(labels)} labels",
                f"the model has {vectors[0].sizes[0]} classes",
            )
        return fitting


def read_io(model: Path) -> ServedIO:
    """Input and outputs of an ONNX file. Raises ConfigRefused where Triton could not serve it as it is described here,
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
    if len(inputs) != 1:
        raise ConfigRefused("input", f"the model has {len(inputs)} inputs", "expected one, the images")
    if not graph.output:
        raise ConfigRefused("output", "the model has none", "expected one or more")
    for field, values in (("input.name", inputs), ("output.name", graph.output)):
        for value in values:
            if plain(value.name) != value.name:
                raise ConfigRefused(
                    field, f"the model calls it {plain(value.name)!r}", "expected a short name of letters"
                )
    _require_type(inputs[0], "input", (ONNX_FLOAT, ONNX_UINT8))
    batch, *dims = _sizes(inputs[0]) or ["?"]
    if not dims or not all(isinstance(size, int) for size in dims):
        raise ConfigRefused(
            "input.dims", f"the model's input is {_shown([batch, *dims])}", "export it with a fixed size"
        )
    return ServedIO(
        input=inputs[0].name,
        dims=tuple(size for size in dims if isinstance(size, int)),
        outputs=tuple(_output(value, batch) for value in graph.output),
        fixed_batch=batch if isinstance(batch, int) else None,
        data_type="TYPE_UINT8" if inputs[0].type.tensor_type.elem_type == ONNX_UINT8 else "TYPE_FP32",
    )


def _output(value: Any, batch: int | str) -> ServedOutput:
    """``batch``: the first size of the input."""
    _require_type(value, "output", tuple(RESULTS))
    first, *sizes = _sizes(value) or [ANY_SIZE]
    mixed = isinstance(first, str) and bool(first) and not first.isidentifier()  # as in 64*batch
    if not value.type.tensor_type.HasField("shape") or not _sizes(value):
        raise ConfigRefused("output.dims", f"the model's output {value.name!r} has no shape", "expected [batch, ...]")
    if mixed or (isinstance(first, int) and first != batch):
        raise ConfigRefused(
            "output.dims",
            f"the model's output {value.name!r} is {_shown([first, *sizes])}, which is not one entry an image",
            "expected [batch, ...]: keep the images apart in the forward",
        )
    return ServedOutput(
        name=value.name,
        sizes=tuple(size if isinstance(size, int) else ANY_SIZE for size in sizes),
        data_type=RESULTS[value.type.tensor_type.elem_type],
    )


def _require_type(value: Any, field: str, types: tuple[int, ...]) -> None:
    found = value.type.tensor_type.elem_type
    if found not in types:
        wanted = "expected float32, or uint8 pixels" if field == "input" else "expected float32 or integers"
        raise ConfigRefused(f"{field}.data_type", f"{value.name!r} has ONNX type {found}", wanted)


def _sizes(value: Any) -> list[int | str]:
    """Sizes, or the names of open ones (empty where they have none)."""
    return [
        entry.dim_value if entry.HasField("dim_value") else entry.dim_param
        for entry in value.type.tensor_type.shape.dim
    ]


def _shown(sizes: list[int | str]) -> str:
    return f"[{', '.join(plain(str(size), 40) or '?' for size in sizes)}]"
