"""What a bundle carries beside the model where its engine is left to another machine."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from limpq_deploy.calibration.records import to_json
from limpq_deploy.pipeline.config import FORMAT
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.handed_over import Handover
from limpq_deploy.pipeline.stages.comparison import has_own_fp8, own_pair
from limpq_deploy.pipeline.stages.facts import SEARCHES
from limpq_deploy.pipeline.stages.measure import PARITY_IMAGES
from limpq_deploy.pipeline.stages.page import built_facts, training_logs
from limpq_deploy.workspace.file_names import (
    ACCURACY,
    ANSWERS,
    COMPARISON,
    CONFIG,
    EXPORT,
    FINETUNED_RECORD,
    FLOAT_MODEL,
    FP8_MODEL,
    HANDED_PARITY,
    HANDOVER,
    IMAGES,
    INDICATORS,
    LINT,
    MODEL,
    PARITY,
    PLACEMENT,
    POLICY,
    PRICES,
    UNIFORM8_MODEL,
    UNIFORM_MODEL,
    WHAT_IF,
)

FOLDER = "build"
"""Of a bundle: the files of the build that it carries."""

CARRIED = {
    **{name: name for name in (PLACEMENT, INDICATORS, POLICY, COMPARISON, FINETUNED_RECORD, EXPORT, LINT, ACCURACY)},
    **{name: name for name in (FLOAT_MODEL, UNIFORM8_MODEL, ANSWERS, WHAT_IF)},
    HANDED_PARITY: PARITY,
}
"""Files by the names under which they travel; what other budgets would give only where they were tried."""


def carried_files(subject: Deployed, folder: Path) -> dict[str, Path | bytes]:
    """Name in the bundle -> file, or its bytes."""
    files: dict[str, Path | bytes] = {name: folder / file for name, file in CARRIED.items()}
    if not SEARCHES.holds(subject, folder):
        del files[WHAT_IF]
    files |= {name: folder / name for name in training_logs(subject, folder) if (folder / name).is_file()}
    if subject.config.cost_table is not None:
        files[PRICES] = subject.config.cost_table
    if own_pair(folder / COMPARISON) is not None:
        files[UNIFORM_MODEL] = folder / UNIFORM_MODEL
    if has_own_fp8(folder / COMPARISON):
        files[FP8_MODEL] = folder / FP8_MODEL
    if subject.config.input == "uint8":  # the bundle's own model is that which takes pixels
        files[MODEL] = folder / MODEL
    settings = {"format": FORMAT, **asdict(subject.config)}
    files[CONFIG] = (json.dumps(settings, indent=1, default=str) + "\n").encode()
    files[HANDOVER] = to_json(_handover(subject, folder)).encode()
    files[IMAGES] = _images(subject)
    return {f"{FOLDER}/{name}": content for name, content in files.items()}


def _handover(subject: Deployed, folder: Path) -> Handover:
    return Handover(
        data=subject.dataset.name,
        digest=subject.data_digest(),
        classes=subject.class_names,
        preprocess=subject.preprocess,
        built=built_facts(subject, folder),
        source=subject.start.source,
        trained=subject.start.trained,
        start_notes=subject.start.notes,
        model_notes=subject.model_notes,
    )


def _images(subject: Deployed) -> bytes:
    """The images of the parity stage as pixels: a quarter of their bytes, and the same floats again."""
    split = subject.dataset.split("test")
    images, _ = next(split.subset(np.arange(min(PARITY_IMAGES, len(split)))).batches(PARITY_IMAGES))
    stream = io.BytesIO()
    np.lib.format.write_array(stream, subject.preprocess.pixels(images), allow_pickle=False)
    return stream.getvalue()
