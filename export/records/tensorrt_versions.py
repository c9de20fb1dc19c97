"""How a Q/DQ file is written for one version of a runtime: operator set, form of weights, who chooses float types.

A form changes nothing that is trained: every form of one model has the same grids, scales and codes.
"""

from importlib import metadata

import onnx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.targets import DEFAULT, TARGETS, FileForm, TargetSpec

PRODUCER = "limpq-deploy"
"""What a Q/DQ file written here calls its producer."""


def form_for(target: TargetSpec, version: str | None = None) -> FileForm:
    """The form of a target's files. ``version``: of its runtime; None: the installed one, else the oldest, whose files
    all versions read. A target of one form has that, whatever the version. Raises ModelError for a version that is not
    known, and for a target that is not exported."""
    if not target.exportable:
        raise ModelError(f"target {target.name!r} is trained and never exported; choose another with --target")
    if len(target.forms) == 1:
        return target.forms[0]
    known = version or installed_version(target) or target.versions[0]
    for form in target.forms:
        if form.version == known:
            return form
    assert target.runs_on is not None
    raise ModelError(
        f"{target.runs_on.title} {known} is not known here; files are written for {', '.join(target.versions)}"
    )


def form_at(target: TargetSpec, opset: int) -> FileForm:
    """The form of a target's files at an opset. Raises ModelError where there is none."""
    for form in target.forms:
        if form.opset == opset:
            return form
    wanted = " or ".join(str(form.opset) for form in target.forms)
    raise ModelError(f"the template has opset {opset}; the target takes {wanted}")


def form_of(model: onnx.ModelProto, target: TargetSpec) -> FileForm:
    """The form that a file says it has, be it for this target or for another one of its dialect; the oldest of this
    one, which all versions read, where it says nothing."""
    dialect = target.runs_on and target.runs_on.dialect
    for other in (target, *TARGETS.values()):
        if other.runs_on and other.runs_on.dialect == dialect and (version := form_named(model, other)) is not None:
            return form_for(other, version)
    return form_for(target, next(iter(target.versions), None))


def form_named(model: onnx.ModelProto, target: TargetSpec) -> str | None:
    """The version of a target's runtime that a file says it is written for; None where it says none that is known."""
    said = (entry.value for entry in model.metadata_props if entry.key == target.form_key)
    return next((version for version in said if version in target.versions), None)


def target_of(model: onnx.ModelProto) -> TargetSpec | None:
    """The target that a file is written for, as far as it says: it names a version of one's runtime, or was written
    here without one. None for float models and for files of others."""
    keys = {entry.key for entry in model.metadata_props}
    named = (target for target in TARGETS.values() if target.form_key in keys)
    return next(named, DEFAULT if model.producer_name == PRODUCER else None)


def installed_version(target: TargetSpec) -> str | None:
    """The newest known form that the installed runtime reads; None where none is installed. Imports nothing."""
    for name in () if target.runs_on is None else target.runs_on.distributions:
        try:
            major = int(metadata.version(name).split(".")[0])
        except (metadata.PackageNotFoundError, ValueError):
            continue
        return next((known for known in target.versions[::-1] if int(known.split(".")[0]) <= major), None)
    return None
