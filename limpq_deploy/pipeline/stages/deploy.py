"""The stage that writes the files: the mixed model and its baselines as ONNX."""

import json
from collections.abc import Iterator
from pathlib import Path

import onnx

from limpq_deploy.calibration.files import replacing
from limpq_deploy.calibration.records import to_dict, write_record
from limpq_deploy.export.graph.exported import BATCH_KEY, ExportRecord, describe_export
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.markers import MARKERS_KEY, markers_text, with_markers
from limpq_deploy.export.graph.pixel_input import with_pixel_input
from limpq_deploy.export.graph.storage import pack_weights
from limpq_deploy.export.graph.written import write_model
from limpq_deploy.export.lint.check import LintReport, lint
from limpq_deploy.export.qdq.build import build_qdq, drop_markers
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.inspect_model import CLASSES_KEY, PREPROCESS_KEY
from limpq_deploy.pipeline.stages.comparison import compared_pairs, eight_bits, fp8_pairs
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.facts import (
    CLASSES,
    COMPILER,
    DATA,
    ENGINE_OPTIONS,
    EXPORTS,
    FORM,
    MODEL_FACT,
    OWN_FP8,
    OWN_UNIFORM,
    PAIRS,
    PIXEL_INPUT,
    PLACED,
    PREPROCESS,
    RUNTIME,
    STORES,
    STORES_UNIFORM,
    TARGET,
)
from limpq_deploy.pipeline.stages.given import compare_exported
from limpq_deploy.pipeline.stages.learn import load_finetuned
from limpq_deploy.pipeline.stages.template import make_template, template_of
from limpq_deploy.progress import Report
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.train.kept_memory import give_back, let_go
from limpq_deploy.workspace.file_names import (
    COMPARISON,
    EXPORT,
    FINETUNED,
    FLOAT_MODEL,
    FLOAT_WEIGHTS,
    FP8_MODEL,
    FP8_WEIGHTS,
    GIVEN_EXPORTED,
    INT8,
    LINT,
    MODEL,
    PIXELS,
    POLICY,
    STORED,
    UNIFORM,
    UNIFORM8_MODEL,
    UNIFORM_MODEL,
    UNIFORM_STORED,
)


def _run_export(subject: Subject, folder: Path, report: Report) -> str:
    traced = subject.traced(folder / FLOAT_WEIGHTS)
    placement = subject.placement
    report(0, 5, "tracing")
    metadata = {
        PREPROCESS_KEY: json.dumps(to_dict(subject.preprocess)),
        **({CLASSES_KEY: json.dumps(list(subject.dataset.classes))} if subject.dataset.classes else {}),
        "limpq.model": subject.config.model,
    }
    if subject.config.batch is not None:
        metadata[BATCH_KEY] = subject.config.batch
    float_model = make_template(subject, traced)
    markers = markers_text(float_model)
    drop_markers(float_model)
    onnx.helper.set_model_props(float_model, {**metadata, MARKERS_KEY: markers})
    _save(float_model, folder / FLOAT_MODEL)
    template = with_markers(float_model, in_place=True)
    del float_model
    give_back()
    for done, (name, model, policy) in enumerate(_quantized_models(subject, traced, folder), start=1):
        report(done, 5, name)
        layers, acts = integer_model(model, policy)
        own = template_of(subject, traced, template, model)
        _save(build_qdq(own, placement, layers, acts, metadata, subject.form), folder / name)
        del model, layers, own
        give_back()
    del traced, template
    let_go()  # what follows opens files, and needs no network in floats
    write_record(compare_exported(subject, folder, onnx.load(folder / FLOAT_MODEL)), folder / GIVEN_EXPORTED)
    let_go()
    if subject.config.input == "uint8":
        codes = subject.target.act_container == "uint8"
        _save(with_pixel_input(load_model(folder / MODEL), subject.preprocess, codes=codes), folder / PIXELS)
    checked = lint(folder / MODEL, subject.target, compiler=True, gpus=subject.gpus, batch=subject.config.batch_range)
    write_record(checked, folder / LINT)
    _store_uniform(subject, folder)
    record = _record(subject, folder, load_model(folder / MODEL))
    write_record(record, folder / EXPORT)
    return f"{MODEL}, {sizes_line(record)}; {_lint_line(checked)}"


EXPORTED_MODELS = Stage(
    name="export",
    title="export",
    settings=("seed", "scales", "storage", "input", *ENGINE_OPTIONS),
    facts=(TARGET, PLACED, PREPROCESS, CLASSES, DATA, FORM, COMPILER, MODEL_FACT, *RUNTIME),
    reads=(PAIRS, FLOAT_WEIGHTS, COMPARISON, FINETUNED, INT8, If(OWN_UNIFORM, UNIFORM), If(OWN_FP8, FP8_WEIGHTS)),
    writes=(
        *(MODEL, EXPORT, LINT, GIVEN_EXPORTED, FLOAT_MODEL, UNIFORM8_MODEL),
        *(If(OWN_UNIFORM, UNIFORM_MODEL), If(STORES, STORED), If(STORES_UNIFORM, UNIFORM_STORED)),
        *(If(PIXEL_INPUT, PIXELS), If(OWN_FP8, FP8_MODEL)),
    ),
    run=_run_export,
    frees_memory=True,
    when=(EXPORTS,),
)
"""The mixed model and its baselines (float, uniform at the same budget, uniform 8 bits, FP8) as ONNX files."""


def sizes_line(record: ExportRecord) -> str:
    """Sizes of the files, beside what the policy comes to."""
    stored = record.stored
    line = f"{record.model.size / 2**20:.2f} MiB"
    if stored is not None:
        line += f" ({STORED} {stored.size / 2**20:.2f} MiB: weights {_kib(stored.weights)})"
    return f"{line}, weights {_kib(record.model.weights)}, {_kib(record.nominal)} at the policy's bits"


def _kib(size: int) -> str:
    return f"{size / 2**10:,.1f} KiB"


def _record(subject: Subject, folder: Path, model: onnx.ModelProto) -> ExportRecord:
    """The record of the mixed model, its stored twin written where it was asked for."""
    policy = PAIRS.of(folder / POLICY)
    layers = subject.placement.layers
    bits = {layer.name: layer.pinned_bits or policy[layer.name][0] for layer in layers}
    stored = None
    if subject.config.storage is not None:
        stored = folder / STORED, pack_weights(model, bits, subject.config.storage)
        _save(stored[1], stored[0])
    return describe_export(
        folder / MODEL,
        model,
        target=subject.target.name,
        weight_bits={layer.name: (layer.num_weights, bits[layer.name]) for layer in layers},
        stored=stored,
    )


def _store_uniform(subject: Subject, folder: Path) -> None:
    """The stored twin of the uniform model, where there is one and such are asked for."""
    pairs = compared_pairs(subject, folder)
    if subject.config.storage is not None and pairs is not None:
        bits = {layer.name: layer.pinned_bits or pairs[layer.name][0] for layer in subject.placement.layers}
        _save(pack_weights(load_model(folder / UNIFORM_MODEL), bits, subject.config.storage), folder / UNIFORM_STORED)


def _quantized_models(
    subject: Subject, traced: TracedModel, folder: Path
) -> Iterator[tuple[str, QuantizedModel, dict[str, BitPair]]]:
    policy = PAIRS.of(folder / POLICY)
    yield MODEL, load_finetuned(subject, traced, policy, folder / FINETUNED, share=True), policy
    pairs = compared_pairs(subject, folder)
    if pairs is not None:
        yield UNIFORM_MODEL, load_finetuned(subject, traced, pairs, folder / UNIFORM, share=True), pairs
    eight = eight_bits(subject)
    yield UNIFORM8_MODEL, load_finetuned(subject, traced, eight, folder / INT8, share=True), eight
    if OWN_FP8.holds(subject, folder):
        floats = fp8_pairs(subject)
        yield FP8_MODEL, load_finetuned(subject, traced, floats, folder / FP8_WEIGHTS, share=True), floats


def _lint_line(report: LintReport) -> str:
    if not report.optimized:
        said = f"; {report.compiler.detail}" if report.compiler is not None else ""
        return f"{len(report.findings)} findings in the file as written{said}"
    planned = f", besides {len(report.planned_float)} layers as planned" if report.planned_float else ""
    return f"{len(report.float_compute)} Conv, Gemm or Add nodes in float on {report.target}{planned}"


def _save(model: onnx.ModelProto, path: Path) -> None:
    with replacing(path) as temporary:
        write_model(temporary, model)
