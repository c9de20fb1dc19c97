"""Tensors of a module in a safetensors file that says what they belong to."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from limpq_deploy.calibration.errors import MissingExtra, ModelError, OutputError, RecordError
from limpq_deploy.calibration.files import replacing
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.calibration.portions import portions
from limpq_deploy.model.tied import distinct

FORMAT = "limpq.checkpoint/1"
KEY = "limpq"
"""The one metadata entry: JSON with sorted keys, so that equal checkpoints are equal files."""

PORTION = 16 * 2**20
"""Bytes that are read at a time: what was read of a file, which is mapped, stays in memory until it is closed."""

KINDS = {"float": "a float model", "joint": "a jointly trained model", "finetuned": "a fine-tuned model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """What the tensors belong to.

    ``target``: placement of the quantizers, None for a float model. ``bits``: the candidate widths of a joint model, or
    ``{layer: [weight_bits, act_bits]}`` of a policy; None for a float model.
    """

    kind: Literal["float", "joint", "finetuned"]
    model: str
    target: str | None = None
    bits: Any = field(default=None)


def save_module(path: Path, module: nn.Module, info: CheckpointInfo) -> None:
    """Write all parameters and buffers of ``module``, whole or not at all; one that has several names, once."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise _missing() from error
    metadata = {KEY: json.dumps({"format": FORMAT, **asdict(info)}, sort_keys=True)}
    tensors = {name: tensor.detach() for name, tensor in distinct(module.state_dict())}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # safetensors' own word for a full disk, among others
            raise OutputError(f"cannot write {path}: {error}; choose a folder with free space") from error


def load_module(path: Path, module: nn.Module, info: CheckpointInfo) -> None:
    """Copy a checkpoint into ``module``, bit by bit.

    Raises ModelError, in one sentence that names what differs, for a file that is missing, damaged, or belongs to
    another kind, model, target or other bits than ``info`` says; the module then stays as it was.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise _missing() from error
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as stream:
            found = _info(path, stream.metadata())
            _require_same(path, found, info)
            shapes = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118  no mapping
            _require_tensors(path, shapes, module)
        state = module.state_dict()
        for names in portions({name: state[name].nbytes for name in shapes}, PORTION):
            with safe_open(path, framework="pt") as stream:
                for name in names:
                    state[name].copy_(stream.get_tensor(name))
    except OSError as error:
        raise ModelError(f"cannot read checkpoint {path}: {error.strerror or error}; train again") from error
    except SafetensorError as error:
        raise ModelError(f"{path} is not a whole safetensors file ({error}); train again, or copy it again") from error


def _info(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    try:
        found = parse_json((metadata or {})[KEY], KEY)
        known = found["format"] == FORMAT
    except (KeyError, RecordError, TypeError):
        known = False
    if not known:
        raise ModelError(f"{path} is no {FORMAT} file; expected a checkpoint written by limpq-deploy, train again")
    return dict(found)


def _require_same(path: Path, found: dict[str, Any], info: CheckpointInfo) -> None:
    expected = json.loads(json.dumps(asdict(info)))
    for name in (entry.name for entry in fields(info)):
        if found.get(name) != expected[name]:
            raise ModelError(
                f"{path} has {name} {_shown(name, found.get(name), expected[name])}; expected "
                f"{_shown(name, expected[name], found.get(name))}; give the checkpoint that belongs here or train again"
            )


def _shown(name: str, value: Any, other: Any) -> str:
    """A value in few words; of two policies only the first layer that differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        layer = next(key for key in sorted({*value, *other}) if value.get(key) != other.get(key))
        return f"{value[layer]} in layer {layer!r}" if layer in value else f"no layer {layer!r}"
    if isinstance(value, dict):
        return f"a policy of {len(value)} layers"
    return f"{value!r} ({KINDS[value]})" if name == "kind" and value in KINDS else repr(value)


def _require_tensors(path: Path, shapes: dict[str, tuple[int, ...]], module: nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in distinct(module.state_dict())}
    names = sorted(expected.keys() ^ shapes.keys())
    names += sorted(name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name])
    if names:
        raise ModelError(
            f"{path} does not fit the model: {len(names)} tensors are missing, unknown or of another shape, the first "
            f"is {names[0]!r}; train again"
        )


def _missing() -> MissingExtra:
    return MissingExtra("checkpoints need safetensors, which is not installed; run: pip install 'limpq-deploy[train]'")
