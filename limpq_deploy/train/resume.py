"""Checkpoints in the middle of a training: one safetensors file, its facts as JSON in the header, written whole.

Nothing is drawn from a generator that runs on through the steps (`loop` seeds each), so a checkpoint holds the step,
which is the sampler's position too, and the tensors and states that are named to it.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limpq_deploy.calibration.errors import MissingExtra, ModelError, OutputError, RecordError
from limpq_deploy.calibration.files import replacing
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.model.tied import distinct, load_distinct
from limpq_deploy.train.execution import Checkpoint
from limpq_deploy.train.interruption import Interruption
from limpq_deploy.train.state import Stateful

FORMAT = "limpq.training/1"
KEY = "limpq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint that is there: ``step`` steps are done; ``why_not``: why it cannot be gone on from, or None."""

    step: int
    why_not: str | None


def examine(checkpoint: Checkpoint) -> Found | None:
    """What a training would find: None where there is no file."""
    if not checkpoint.path.exists():
        return None
    try:
        facts, _ = _read(checkpoint.path, tensors=False)
        _require_same(checkpoint, facts)
    except ModelError as error:
        return Found(step=0, why_not=str(error))
    return Found(step=facts["step"], why_not=None)


def write_checkpoint(
    checkpoint: Checkpoint, parts: Mapping[str, Stateful], *, step: int, facts: Mapping[str, Any]
) -> None:
    """Write all parts, whole or not at all. ``step``: how many are done."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    states: dict[str, Any] = {}
    for part, stateful in parts.items():
        found, states[part] = stateful.state()
        tensors |= {f"{part}.{name}": tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    header = {"format": FORMAT, "identity": checkpoint.identity, "step": step, "facts": facts, "states": states}
    with replacing(checkpoint.path) as temporary:
        try:
            save_file(tensors, temporary, metadata={KEY: json.dumps(header, sort_keys=True)})
        except SafetensorError as error:
            raise OutputError(f"cannot write {checkpoint.path}: {error}; choose a folder with free space") from error


def read_checkpoint(checkpoint: Checkpoint, parts: Mapping[str, Stateful]) -> tuple[int, Any] | None:
    """Restore all parts and return (steps done, facts); None where there is no file.

    Raises ModelError, in one sentence that names what differs, for a damaged file or one of another training; nothing
    is restored then.
    """
    if not checkpoint.path.exists():
        return None
    header, tensors = _read(checkpoint.path, tensors=True)
    _require_same(checkpoint, header)
    if header["states"].keys() != parts.keys():
        raise ModelError(
            f"{checkpoint.path} holds {', '.join(sorted(header['states']))}; expected {', '.join(sorted(parts))}; "
            "remove it to train from the start"
        )
    for part, stateful in parts.items():
        prefix = f"{part}."
        mine = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        stateful.restore(mine, header["states"][part])
    return header["step"], header["facts"]


class Saver:
    """Writes checkpoints when they are due; without a `Checkpoint` it does nothing."""

    def __init__(
        self, checkpoint: Checkpoint | None, parts: Mapping[str, Stateful], interruption: Interruption | None
    ) -> None:
        self._checkpoint, self._parts, self._interruption = checkpoint, parts, interruption
        self._saved = time.monotonic()

    def restore(self) -> tuple[int, float] | None:
        """Steps done and seconds spent on them, of the training that was killed; see `read_checkpoint`."""
        if self._checkpoint is None:
            return None
        found = read_checkpoint(self._checkpoint, self._parts)
        return None if found is None else (found[0], found[1]["seconds"])

    def after_step(self, step: int, *, last: bool, seconds: float) -> None:
        """Write if it is time, or if the training is about to be stopped."""
        checkpoint = self._checkpoint
        if checkpoint is None:
            return
        by_steps = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0
        by_time = time.monotonic() - self._saved > 60 * checkpoint.every_minutes
        stopped = self._interruption is not None and self._interruption.received is not None
        if stopped or ((by_steps or by_time) and not last):
            write_checkpoint(checkpoint, self._parts, step=step, facts={"seconds": seconds})
            self._saved = time.monotonic()


class ModuleState:
    """Parameters and buffers of a module as a `Stateful`, each once, whatever names it has."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        return dict(distinct(self._module.state_dict())), None

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        load_distinct(self._module, tensors)


class OptimizerState:
    """Moments and counts of an optimizer as a `Stateful`; rates follow from the step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        flat = {
            f"{index}.{name}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for name, value in entry.items()
            if isinstance(value, torch.Tensor)
        }
        return flat, None

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".")
            entries.setdefault(int(index), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})


class ScalerState:
    """The loss scale of fp16 as a `Stateful`."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        return {}, self._scaler.state_dict()

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        if facts:
            self._scaler.load_state_dict(facts)


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtra(
            "checkpoints need safetensors, which is not installed; run: pip install 'limpq-deploy[train]'"
        ) from error
    try:
        with safe_open(path, framework="pt") as stream:
            header = parse_json((stream.metadata() or {}).get(KEY, "{}"), KEY)
            names = stream.keys() if tensors else ()
            found = {name: stream.get_tensor(name) for name in names}
    except (OSError, SafetensorError, RecordError) as error:
        raise ModelError(f"cannot read checkpoint {path}: {error}; remove it to train from the start") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelError(f"{path} is no {FORMAT} file; remove it to train from the start")
    sound = isinstance(header.get("step"), int) and isinstance(header.get("states"), dict)
    if not sound or "identity" not in header or "facts" not in header:
        raise ModelError(f"{path} is damaged (its header lacks a field); remove it to train from the start")
    return header, found


def _require_same(checkpoint: Checkpoint, header: dict[str, Any]) -> None:
    expected = json.loads(json.dumps(checkpoint.identity))
    difference = _difference(header["identity"], expected)
    if difference is not None:
        raise ModelError(
            f"checkpoint {checkpoint.path.name} is of another training: {difference}; remove it to train from the start"
        )


def _difference(found: Any, expected: Any, name: str = "") -> str | None:
    """The first entry that differs, in words."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            inner = _difference(found.get(key), expected.get(key), f"{name}.{key}" if name else key)
            if inner is not None:
                return inner
        return None
    return None if found == expected else f"{name} is {_short(found)}, not {_short(expected)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
