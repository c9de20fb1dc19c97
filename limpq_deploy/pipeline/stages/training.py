"""How a stage trains: its log and events in ``training/``, and going on where a killed build stopped."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limpq_deploy.calibration.records import write_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.train.checkpoints import CheckpointInfo, save_module
from limpq_deploy.train.execution import EVERY_MINUTES, Checkpoint, Execution
from limpq_deploy.train.finetuned import FineTuned
from limpq_deploy.train.processes import agree, leads
from limpq_deploy.train.resume import examine
from limpq_deploy.workspace.file_names import (
    FINETUNED,
    FINETUNED_RECORD,
    FP8_RECORD,
    FP8_WEIGHTS,
    INT8,
    INT8_RECORD,
    TRAINING_LOGS,
    UNIFORM,
    UNIFORM_RECORD,
)
from limpq_deploy.workspace.sources import code_of

SAVED = {
    "finetune": (FINETUNED, FINETUNED_RECORD),
    "uniform": (UNIFORM, UNIFORM_RECORD),
    "int8": (INT8, INT8_RECORD),
    "fp8": (FP8_WEIGHTS, FP8_RECORD),
}
"""Checkpoint and record of the stages that make a model of some bits."""


def finetuned_info(subject: Subject, pairs: Mapping[str, BitPair]) -> CheckpointInfo:
    """What the checkpoint of a model at these bits says of itself."""
    bits = {name: list(pair) for name, pair in pairs.items()}
    return CheckpointInfo(kind="finetuned", model=subject.config.model, target=subject.target.name, bits=bits)


def checkpoint_of(stage: str) -> str:
    """The checkpoint of a stage, relative to the build's folder."""
    return f"{TRAINING_LOGS}/{stage}.safetensors"


def save_model(
    subject: Subject, folder: Path, stage: str, model: nn.Module, pairs: Mapping[str, BitPair], found: FineTuned
) -> None:
    """Write the model of a stage that makes one of these bits, and its record."""
    checkpoint, record = SAVED[stage]
    save_module(folder / checkpoint, model, finetuned_info(subject, pairs))
    write_record(found, folder / record)


def save_untrained(
    subject: Subject, folder: Path, stage: str, model: nn.Module, pairs: Mapping[str, BitPair], found: FineTuned
) -> str:
    """`save_model` of one that was not trained at these bits; what is to be said of it."""
    save_model(subject, folder, stage, model, pairs, found)
    assert found.calibrated is not None
    seen = "; the given weights may have seen those images" if found.val_may_be_seen else ""
    made = found.calibrated
    return f"{found.figure.said(found.top1.test)} on test in PyTorch, {made.how}; {made.why}{seen}"


def prepare(subject: Subject, folder: Path, stage: Stage) -> tuple[Execution, str]:
    """How to run the training of a stage, and what to say of a checkpoint that was found (empty: there was none).

    A checkpoint of other inputs, or of other code than the stage comes to, is removed: the stage would not have stood
    either. All processes call this; the first decides.
    """
    training = subject.config.training
    code = code_of(stage.run)
    identity = {
        "stage": stage.name,
        "sources": code.sources,
        "libraries": code.libraries,
        **{name: _short(value) for name, value in stage.inputs(subject).items()},
        "reads": stage.step(subject, folder).read_digests(folder),
    }
    checkpoint = Checkpoint(
        path=folder / checkpoint_of(stage.name),
        identity=identity,
        every_steps=training.checkpoint_steps,
        every_minutes=training.checkpoint_minutes or EVERY_MINUTES,
    )
    said = ""
    if leads():
        found = examine(checkpoint)
        if found is not None and found.why_not is None:
            said = f"; went on from step {found.step}"
        elif found is not None:
            said = f"; began anew: {found.why_not}"
            checkpoint.path.unlink()
    agree(True)  # whatever had to be removed is gone
    log = training.log is None or training.log
    execution = Execution(
        workers=training.workers or 0,
        checkpoint=checkpoint,
        log=folder / TRAINING_LOGS / f"{stage.name}.jsonl" if log else None,
        tensorboard=folder / TRAINING_LOGS / "tensorboard" / stage.name if training.tensorboard else None,
    )
    return execution, said


def _short(value: Any) -> Any:
    """A long value (a placement, a policy) as its digest."""
    text = json.dumps(value, sort_keys=True)
    return value if len(text) < 2000 else hashlib.sha256(text.encode()).hexdigest()
