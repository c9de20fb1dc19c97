"""Stages' side of the comparison with the user's own module: before any work, and behind the export."""

from pathlib import Path

import onnx

from limpq_deploy.calibration.records import write_record
from limpq_deploy.export.qdq.build import drop_markers
from limpq_deploy.export.reference.given_comparison import GivenComparison
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.facts import DATA, FORM, MODEL_FACT, PLACED
from limpq_deploy.pipeline.stages.template import make_template
from limpq_deploy.progress import Report
from limpq_deploy.quant.given_parity import IMAGES, compare_placed, compare_template, compared, run_given
from limpq_deploy.workspace.file_names import FLOAT_WEIGHTS, GIVEN


def _run(subject: Subject, folder: Path, report: Report) -> str:
    report(0, 3, "tracing")
    raw, copy = subject.untrained()
    held = [copy]  # by nobody else, see `make_template`
    del copy
    report(0, 3, "the model's own outputs")
    given = run_given(lambda: subject.given_model, subject.first_images(IMAGES), raw)
    report(1, 3, "placed graph")
    differences = {"placed graph": compare_placed(given, held[0], raw, subject.placement)}
    skipped = {}
    if subject.target.exportable:
        report(2, 3, "exported template")
        template = make_template(subject, held.pop())
        drop_markers(template)
        difference, why = compare_template(given, template, raw)
        if difference is None:
            skipped["float template"] = why
        else:
            differences["float template"] = difference
    else:
        skipped["float template"] = f"the target {subject.target.name} is never exported"
    found = compared(given, differences, skipped)
    write_record(found, folder / GIVEN)
    return _said(found)


GIVEN_MODEL = Stage(
    name="given",
    title="given model",
    settings=("seed",),
    facts=(MODEL_FACT, DATA, PLACED, FORM),
    writes=(GIVEN,),
    run=_run,
    frees_memory=True,
)
"""The placed graph, its quantizers off, and the exported template against the user's own module."""


def compare_exported(subject: Subject, folder: Path, model: onnx.ModelProto) -> GivenComparison:
    """The exported float model against the user's own module with the float stage's weights."""
    raw = subject.raw
    given = run_given(lambda: subject.given_carrying(folder / FLOAT_WEIGHTS), subject.first_images(IMAGES), raw)
    difference, why = compare_template(given, model, raw)
    name = "exported float model"
    if difference is None:
        return compared(given, {}, {name: why})
    return compared(given, {name: difference}, {})


def _said(found: GivenComparison) -> str:
    parts = [f"{name} {difference:.1g}" for name, difference in found.differences.items()]
    rule = f"outputs differ by at most, of their size ({found.limit:g} allowed, {found.images} images)"
    return "; ".join(
        [f"{rule}: {', '.join(parts)}", *(f"{name} not compared: {why}" for name, why in found.not_compared.items())]
    )
