"""Exported models and bundles looked at from outside: accuracy, canaries. No torch here."""

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import onnx

from limpq_deploy.calibration.datasets import DataSet, Preprocess, open_dataset, require_classes
from limpq_deploy.calibration.errors import DataError, ModelError, RecordError, SettingError
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.calibration.record_faults import shown
from limpq_deploy.calibration.records import from_json
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.pixel_input import PREPROCESS_KEY
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import every_output
from limpq_deploy.export.ship.verify import VerifyReport, load_manifest, replay_canaries, verify_bundle
from limpq_deploy.progress import progress
from limpq_deploy.tasks.names import DEFAULT_TASK, require_task
from limpq_deploy.tasks.open_task import open_task
from limpq_deploy.tasks.score import Score, Scored
from limpq_deploy.train.evaluate import Accuracy, evaluate
from limpq_deploy.train.judged import judged
from limpq_deploy.workspace.finished import checked

CLASSES_KEY = "limpq.classes"
"""Metadata of an exported model: its class names in the order of the outputs, as a JSON list."""


def evaluate_model(
    model: Path,
    data: str,
    *,
    split: str,
    classes: Path | None,
    batch: int,
    task: str = DEFAULT_TASK,
    reference: Path | None = None,
) -> Accuracy | Score:
    """Top-1 and top-5 of an ONNX file on ONNX Runtime, or the figure of another task, its images prepared as its own
    metadata says. ``reference``: the float file that a task without labels judges by.

    Raises DataError where the data's classes are not those, in that order, that the model says it knows.
    """
    texts = _metadata(checked(model))
    try:
        require_task(task)
    except ValueError as error:
        raise SettingError(f"--{error}") from error
    if task != DEFAULT_TASK:
        return _figure(model, data, texts, split=split, classes=classes, batch=batch, task=task, reference=reference)
    if reference is not None:
        raise SettingError(f"--reference {reference} has no effect on top-1; give --task none, or leave it away")
    dataset = open_dataset(data, _preprocess(model, texts), classes, needs=(split,))
    _require_same_classes(model, texts, dataset)
    session = runtime_named("onnxruntime").load(model)
    images = dataset.split(split)
    with progress(f"evaluating on {split}") as report:

        def done(count: int) -> None:
            report(count, len(images))

        found = evaluate(session.run, images.batches(batch), progress=done)
    require_classes(dataset, found.accuracy.classes)
    return found.accuracy


def _figure(
    model: Path,
    data: str,
    texts: dict[str, str],
    *,
    split: str,
    classes: Path | None,
    batch: int,
    task: str,
    reference: Path | None,
) -> Score:
    runtime = runtime_named("onnxruntime")
    asked = open_task(task, _output_shapes(model))
    if asked.judges_by_float != (reference is not None):
        found = "is given" if reference is not None else "is not given"
        raise SettingError(
            f"--reference {found} and the task is {task}; expected the float model's file (baselines/float.onnx of a "
            "build) with --task none, and with no other"
        )
    dataset = open_dataset(data, _preprocess(model, texts), classes, needs=(split,))
    images = dataset.split(split)
    if not (images.labelled or asked.judges_by_float):
        raise DataError(f"data set {dataset.name!r} has no labels for the task {task}; give --task none --reference")
    asked.require_data(dataset, images)
    judge = every_output(runtime.load(reference)) if reference is not None else None
    with progress(f"evaluating on {split}") as report:

        def done(count: int) -> None:
            report(count, len(images))

        figure = judged(every_output(runtime.load(model)), images.batches(batch), asked, reference=judge, progress=done)
    assert isinstance(figure, Scored)
    return figure.accuracy


def _output_shapes(model: Path) -> tuple[tuple[int, ...], ...]:
    """Of one image's outputs; 0 where a file says none."""
    return tuple(
        (1, *(size.dim_value for size in list(output.type.tensor_type.shape.dim)[1:]))
        for output in load_model(model).graph.output
    )


def preprocess_of(path: Path, model: onnx.ModelProto) -> Preprocess | None:
    """The preprocessing that a loaded file carries; None for a file of others."""
    return _preprocess(path, {entry.key: entry.value for entry in model.metadata_props})


def _metadata(model: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in load_model(model).metadata_props}


def _preprocess(model: Path, texts: dict[str, str]) -> Preprocess | None:
    """The preprocessing that an exported model carries; None for a file of others: the data set's own is used."""
    if PREPROCESS_KEY not in texts:
        return None
    try:
        return from_json(Preprocess, texts[PREPROCESS_KEY], f"{model}, {PREPROCESS_KEY}")
    except RecordError as error:
        raise ModelError(str(error)) from error


def _require_same_classes(model: Path, texts: dict[str, str], dataset: DataSet) -> None:
    try:
        known = parse_json(texts[CLASSES_KEY], CLASSES_KEY) if CLASSES_KEY in texts else None
    except RecordError as error:
        raise ModelError(f"{model} has damaged metadata: {error}; export it again") from error
    if known is None or known == list(dataset.classes):
        return
    if not isinstance(known, list) or not all(isinstance(name, str) for name in known):
        raise ModelError(
            f"{model} has metadata {CLASSES_KEY} that is {shown(known)}; expected a list of names: export it again"
        )
    pairs = enumerate(zip_longest(known, dataset.classes))
    number, (mine, theirs) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    raise DataError(
        f"class {number} of {model} is {mine!r}, of data set {dataset.name!r} it is {theirs!r}; expected the same "
        "classes in the same order: give --classes with the model's names, or other data"
    )


def verify_and_replay(bundle: Path, *, replay: bool, public_key: Path | None = None) -> VerifyReport:
    """Check a bundle's files (with ``public_key`` its signature), then (``replay``) its canaries on the runtime that
    made their answers; an engine is built with the settings that the manifest records, or the default ones."""
    report = verify_bundle(bundle, public_key)
    checked(bundle)
    if not replay:
        return report
    manifest = load_manifest(bundle, public_key)
    runtime = runtime_named(manifest.answered_by or manifest.target, manifest.engine)
    return replace(report, canaries=replay_canaries(bundle, runtime.load, public_key=public_key))
