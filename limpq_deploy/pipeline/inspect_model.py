"""Exported models and bundles looked at from outside: accuracy, canaries. No torch here."""

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import onnx

from limpq_deploy.calibration.datasets import DataSet, Preprocess, open_dataset, require_classes
from limpq_deploy.calibration.errors import DataError, ModelError, RecordError
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.calibration.record_faults import shown
from limpq_deploy.calibration.records import from_json
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.pixel_input import PREPROCESS_KEY
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.ship.verify import VerifyReport, load_manifest, replay_canaries, verify_bundle
from limpq_deploy.progress import progress
from limpq_deploy.train.evaluate import Accuracy, evaluate
from limpq_deploy.workspace.finished import checked

CLASSES_KEY = "limpq.classes"
"""Metadata of an exported model: its class names in the order of the outputs, as a JSON list."""


def evaluate_model(model: Path, data: str, *, split: str, classes: Path | None, batch: int) -> Accuracy:
    """Top-1 and top-5 of an ONNX file on ONNX Runtime, its images prepared as its own metadata says.

    Raises DataError where the data's classes are not those, in that order, that the model says it knows.
    """
    texts = _metadata(checked(model))
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
        raise ModelError(f"{model} has damaged metadata: {error}") from error
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
