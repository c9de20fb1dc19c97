"""A file held against its target: what is refused, what runs in float, what differs, what is slower."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

import onnx

from limpq_deploy.calibration.errors import LimpqError, ModelError
from limpq_deploy.export.graph.float_layers import computes_in_floats, planned_float
from limpq_deploy.export.graph.float_nodes import planned_nodes
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.runtime_taps import layer_names
from limpq_deploy.export.lint.compiled import compiled_findings
from limpq_deploy.export.lint.finding import Finding, gravest
from limpq_deploy.export.lint.judged import FloatNodes, judged
from limpq_deploy.export.lint.rules import finding
from limpq_deploy.export.records.engine_options import BatchRange
from limpq_deploy.export.records.targets import FileForm, TargetSpec
from limpq_deploy.export.records.tensorrt_versions import form_for, form_named
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Tries
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord, compiler_word
from limpq_deploy.export.runtimes.trial_apart import trial_apart


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What a graph looks like to its target.

    ``tensorrt``: the version of the runtime whose rules were checked; None where one form serves all. ``op_counts``:
    operators of the optimised graph, ``domain:op`` outside the standard domain. ``float_compute``: its Conv, Add, Gemm
    and MatMul nodes that work in float; ``float_nodes``: all its other nodes that do, the first QuantizeLinear
    excepted. ``planned_float``: layers that the policy keeps in float, as the file says; their nodes are in neither,
    and no rule is broken by them. ``optimized``: False where the target's runtime is not here, so that only the rules
    were checked; ``unavailable`` then says why. ``compiler``: what NVIDIA's compiler says of a file for TensorRT, where
    it was asked.
    """

    target: str
    optimized: bool
    op_counts: dict[str, int]
    float_compute: tuple[str, ...]
    float_nodes: tuple[str, ...]
    findings: tuple[Finding, ...]
    unavailable: str | None = None
    planned_float: tuple[str, ...] = ()
    tensorrt: str | None = None
    compiler: CompilerWord | None = None
    format: Literal["limpq.lint/1"] = field(default="limpq.lint/1")

    @property
    def passed(self) -> bool:
        """Whether nothing is worse than slow."""
        return gravest(self.findings) in (None, "slower")


def lint(
    model: onnx.ModelProto | Path,
    target: TargetSpec,
    runtime: Tries | None = None,
    *,
    version: str | None = None,
    compiler: bool = False,
    gpus: tuple[str, ...] | None = None,
    batch: BatchRange | None = None,
    apart: bool = False,
) -> LintReport:
    """Check an ONNX file against a target's rules, and give it to the target's runtime where that is here.

    ``runtime``: None takes the target's own. ``version``: of TensorRT; None: what the file says, else the newest.
    ``compiler``: ask the compiler that judges the target's files too, for these ``gpus`` (None: the usual ones) and an
    engine of this ``batch``; it takes some seconds.
    ``apart``: the target's own runtime tries the file in a process of its own, as one of a stranger deserves.
    Raises ModelError for a version that is not known.
    """
    loaded = _named(model) if isinstance(model, onnx.ModelProto) else _name(load_model(model))
    form = lint_form(loaded, target, version)
    left = set(planned_nodes(loaded))
    static = tuple(
        one for one in static_findings(loaded, target, form) if one.node not in left or one.severity != "float"
    )
    word = None
    if compiler and target.runs_on is not None and target.compiled_by is not None:
        own = target.compiled_by == target.runtime
        of = None if own else f"{target.runs_on.title} {form.version}"
        word = compiler_word(loaded, gpus=gpus, batch=batch, of=of)
        static += tuple(compiled_findings(word, static, loaded))
    alone = apart and runtime is None and target.runs_on is not None
    runtime, why = _runtime(target) if runtime is None else (runtime, None)
    planned = planned_float(loaded)
    report = LintReport(
        target=target.name,
        optimized=False,
        op_counts=_counts(loaded),
        float_compute=(),
        float_nodes=(),
        findings=static,
        unavailable=why,
        planned_float=planned,
        tensorrt=form.version,
        compiler=word,
    )
    if runtime is None:
        return report
    trial = trial_apart(target.runs_on.name, loaded) if alone and target.runs_on else runtime.trial(loaded)
    shown = trial.optimized or loaded
    floats = FloatNodes(shown, loaded, _planned_nodes(loaded))
    if computes_in_floats(loaded):
        floats.compute.clear()
    return LintReport(
        target=target.name,
        optimized=trial.optimized is not None,
        op_counts=_counts(shown),
        float_compute=_listed(floats.compute),
        float_nodes=_listed(floats.others),
        findings=tuple(judged(static, trial, floats, loaded)),
        unavailable=trial.refused if trial.optimized is None else None,
        planned_float=planned,
    )


def lint_form(model: onnx.ModelProto, target: TargetSpec, version: str | None = None) -> FileForm:
    """The form that a file is held against. Raises ModelError for a version that is not known."""
    return form_for(target, version or form_named(model, target) or next(reversed(target.versions), None))


def static_findings(model: onnx.ModelProto, target: TargetSpec, form: FileForm | None = None) -> Iterator[Finding]:
    """Rules that can be checked on the Q/DQ file itself: those of every target, then ``findings`` of the module here
    that has the name of the target's dialect."""
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            yield finding("batchnorm", node.name or node.output[0], "it is computed in float, by itself")
    if target.runs_on is not None:
        rules = import_module(f"limpq_deploy.export.lint.{target.runs_on.dialect}")
        yield from rules.findings(model, form or lint_form(model, target))


def _runtime(target: TargetSpec) -> tuple[Tries | None, str | None]:
    """The target's runtime as far as it is here and takes files to try; else why not."""
    try:
        if target.runs_on is None:
            raise ModelError(f"target {target.name!r} has no runtime; its graph is not executed")
        runtime = runtime_named(target.runs_on.name)
        why = runtime.unavailable()
    except LimpqError as error:
        return None, str(error)
    if why is None and not isinstance(runtime, Tries):
        why = f"{runtime.name} shows what it makes of a file in its engine alone; build one (limpq-deploy compile)"
    return (runtime, None) if why is None and isinstance(runtime, Tries) else (None, why)


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name for every node, that of its result, so that it is found again after optimisation."""
    if all(node.name for node in model.graph.node):
        return model
    named = onnx.ModelProto()
    named.CopyFrom(model)
    return _name(named)


def _name(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = node.name or next(filter(None, node.output))
    return model


def _planned_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """What the nodes may be called that execute layers that run in float."""
    names = layer_names(model)
    layers = (name for layer in planned_float(model) for name in names.get(layer, ()))
    return frozenset((*layers, *planned_nodes(model)))


def _listed(nodes: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name} ({operator})" for name, operator in nodes.items())


def _counts(model: onnx.ModelProto) -> dict[str, int]:
    names = (f"{node.domain}:{node.op_type}" if node.domain else node.op_type for node in model.graph.node)
    return dict(sorted(Counter(names).items()))
