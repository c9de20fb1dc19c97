"""How a stage trains: its log and events in ``training/``, and going on where a killed build stopped."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.progress import Report
from limpq_deploy.train.checkpoints import CheckpointInfo
from limpq_deploy.train.execution import EVERY_MINUTES, Checkpoint, Execution
from limpq_deploy.train.processes import agree, leads
from limpq_deploy.train.resume import examine
from limpq_deploy.train.settings import TrainSettings
from limpq_deploy.workspace.sources import code_of

FOLDER = "training"


@dataclass(frozen=True, slots=True)
class Names:
    """What a stage that makes a quantized model is called, and the files that it writes."""

    stage: str
    title: str
    checkpoint: str
    record: str


def finetuned_info(subject: Subject, pairs: Mapping[str, BitPair]) -> CheckpointInfo:
    """What the checkpoint of a model at these bits says of itself."""
    bits = {name: list(pair) for name, pair in pairs.items()}
    return CheckpointInfo(kind="finetuned", model=subject.config.model, target=subject.target.name, bits=bits)


def checkpoint_of(stage: str) -> str:
    """The checkpoint of a stage, relative to the build's folder."""
    return f"{FOLDER}/{stage}.safetensors"


def training_inputs(subject: Subject, settings: TrainSettings) -> dict[str, Any]:
    """What a training depends on beside model and data."""
    augment = subject.dataset.augment
    return {
        "settings": asdict(settings),
        "seed": subject.config.seed,
        "augment": None if augment is None else to_dict(augment),
    }


def prepare(
    subject: Subject,
    folder: Path,
    stage: str,
    inputs: Mapping[str, Any],
    reads: Iterable[str],
    run: Callable[[Report], str],
) -> tuple[Execution, str]:
    """How to run the training of a stage, and what to say of a checkpoint that was found (empty: there was none).

    A checkpoint of other inputs, or of other code than ``run`` comes to, is removed: the stage would not have stood
    either. All processes call this; the first decides.
    """
    training = subject.config.training
    code = code_of(run)
    identity = {
        "stage": stage,
        "sources": code.sources,
        "libraries": code.libraries,
        **{name: _short(value) for name, value in inputs.items()},
        "reads": {name: sha256_of(folder / name) for name in reads},
    }
    checkpoint = Checkpoint(
        path=folder / checkpoint_of(stage),
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
        log=folder / FOLDER / f"{stage}.jsonl" if log else None,
        tensorboard=folder / FOLDER / "tensorboard" / stage if training.tensorboard else None,
    )
    return execution, said


def _short(value: Any) -> Any:
    """A long value (a placement, a policy) as its digest."""
    text = json.dumps(value, sort_keys=True)
    return value if len(text) < 2000 else hashlib.sha256(text.encode()).hexdigest()
