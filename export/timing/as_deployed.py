"""Files that are timed on a runtime which would not execute them so in use: a figure of them is doubtful."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.storage import STORAGE_KEY
from limpq_deploy.export.records.targets import runtime_record
from limpq_deploy.export.records.tensorrt_versions import target_of
from limpq_deploy.export.timing.report import LatencyReport


def misfit(model: onnx.ModelProto, runtime: str) -> str | None:
    """Why the latency of a file on this runtime is not that of a deployed model, as far as the file says; else None.

    ONNX Runtime runs layers with weights below 8 bits in float, and fuses few of TensorRT's int8 layers.
    """
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if STORAGE_KEY in texts:
        return (
            f"the file is for storing, with weights at their true bits, and {runtime} runs such layers in float; "
            "time the file that limpq-deploy unpack makes of it"
        )
    target = target_of(model)
    if target is None or target.runs_on is None or target.form_key is None:
        return None
    here = runtime_record(runtime)
    if target.runs_on.dialect == here.dialect:
        return None
    return (
        f"the file is written for {target.runs_on.title} {texts[target.form_key]}, and {runtime} runs most of its "
        f"layers in float; time it with --runtime {target.runs_on.name}, or a file exported for {here.dialect}"
    )


def with_misfits(report: LatencyReport, models: Mapping[str, Path], runtime: str) -> LatencyReport:
    """A report with the doubts of `misfit`, first among those of each series. ``models``: files by series' name; what
    is no ONNX file says nothing."""
    found = {name: misfit(load_model(path), runtime) for name, path in models.items() if path.suffix == ".onnx"}
    series = [
        replace(one, doubts=(doubt, *one.doubts)) if (doubt := found.get(one.name)) else one for one in report.series
    ]
    return replace(report, series=tuple(series))
