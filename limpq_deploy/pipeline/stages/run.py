"""A whole build: settings in, stages in order, a verdict out."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from limpq_deploy.calibration.errors import LimpqError, RecordError
from limpq_deploy.calibration.files import cache_folder, require_temporary_folder
from limpq_deploy.calibration.records import load_record
from limpq_deploy.calibration.trust import trust
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.cpu import Cpu, this_cpu
from limpq_deploy.export.runtimes.onnxruntime.as_written import AsWritten
from limpq_deploy.export.runtimes.vnni_advice import saturation_advice
from limpq_deploy.pipeline.config import Config, trusted_config, write_config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.outcome import Outcome
from limpq_deploy.pipeline.settings import ENGINE_SETTINGS, option_of
from limpq_deploy.pipeline.stages.early_checks import check_inputs
from limpq_deploy.pipeline.stages.listed import stages_of
from limpq_deploy.pipeline.stages.measure import PARITY_OF_CODES
from limpq_deploy.pipeline.stages.notes import operator_notes
from limpq_deploy.policy.policy import Policy
from limpq_deploy.progress import progress, silent
from limpq_deploy.train.device import settle_threads
from limpq_deploy.train.processes import agree, joined
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.file_names import (
    BUNDLE,
    CONFIG,
    FINETUNED,
    FLOAT_WEIGHTS,
    MODEL,
    PARITY,
    PLACEMENT,
    POLICY,
    REPORT,
    VERDICT,
)
from limpq_deploy.workspace.finished import BuildFiles
from limpq_deploy.workspace.workspace import Passed, Workspace, require_own_folder

ENGINE_STAGES = ("engine",)
"""Stages that a build can be stopped after and that need the target's runtime."""


def run_build(
    config: Config,
    *,
    until: str | None = None,
    fresh: bool = False,
    say: Callable[[Passed], None],
    note: Callable[[str], None] | None = None,
) -> Outcome:
    """Run all stages that are not done yet, up to ``until`` (a stage's name; None: all that the target allows).

    Inputs are checked before the first stage, and before anything is written. ``say`` is called after each stage;
    ``note`` before the first, with what is worth knowing of this configuration on this machine.
    Where torchrun started several processes, the others call `help_build`.
    Raises the errors of the stages; what finished stays.
    """
    start = time.perf_counter()
    require_own_folder(config.out)
    require_temporary_folder()
    if not config.ptq:
        cache_folder()  # training loads its operator from there: refused now, not once the float model is trained
    subject = Subject(config)
    with progress("checking inputs", brief=True):
        check_inputs(subject, engine=until is None or until in ENGINE_STAGES or config.goes_round)
    if note is not None:
        for sentence in notes(subject, this_cpu(), until):
            note(sentence)
    settle_threads(sum(layer.macs for layer in subject.placement.layers))
    trust(config.model, config.data)
    workspace = Workspace(config.out, say=say, tell=agree, note=note or (lambda sentence: None))
    with joined(), workspace.held(fresh=fresh):
        workspace.remove_leftovers((CONFIG,))
        write_config(config, config.out / CONFIG)
        workspace.remember(CONFIG)
        try:
            for stage in stages_of(subject):
                agree(True)  # files of the stages before are there
                if not stage.needed(subject, config.out):
                    continue
                workspace.run(stage.step(subject, config.out))
                if stage.name == until:
                    break
        except LimpqError:
            old = workspace.outdated(failed=True)
            shown = [name for name in (REPORT, VERDICT, BUNDLE) if name in old]
            if note is not None and shown:
                more = f" and {len(old) - len(shown)} more files" if len(old) > len(shown) else ""
                note(f"of an earlier build in {config.out}, not of this one: {', '.join(shown)}{more}")
            raise
        names = {passed.name for passed in workspace.passed}
        return Outcome(
            folder=config.out,
            seconds=time.perf_counter() - start,
            stages=tuple(workspace.passed),
            why=_why(subject, until) if until is not None or not subject.measures else None,
            outdated=workspace.outdated(),
            placement=load_record(Placement, config.out / PLACEMENT) if "indicators" in names else None,
            policy=load_record(Policy, config.out / POLICY) if "search" in names else None,
            verdict=load_record(Verdict, config.out / VERDICT) if "verdict" in names else None,
            left=_left(config.out / BUNDLE) if subject.hands_over and "bundle" in names else None,
        )


def help_build(config: Config, *, until: str | None = None) -> None:
    """Train beside the process that builds, which decides, writes and speaks: torchrun started both."""
    subject = Subject(config)
    settle_threads(sum(layer.macs for layer in subject.placement.layers))
    with joined():
        for stage in stages_of(subject):
            agree(True)
            if not stage.needed(subject, config.out):
                continue
            if stage.together and agree(False):
                stage.run(subject, config.out, silent)
            if stage.name == until:
                break


def repeat_parity(folder: Path, *, say: Callable[[Passed], None], trusted: bool = False) -> ParityReport:
    """Measure a build's parity again, from its own files and configuration, as its stage does. ``trusted``: modules
    that it names may be imported; see `trusted_config`."""
    if not (folder / CONFIG).is_file():
        raise RecordError(
            f"{folder} is no build directory (it has no {CONFIG}); name the --out of a build, or an ONNX file"
        )
    files = BuildFiles(folder)
    for name in (CONFIG, POLICY, FLOAT_WEIGHTS, FINETUNED, MODEL):
        files.path(name)
    subject = Subject(trusted_config(folder, trusted=trusted))
    workspace = Workspace(folder, say=say)
    with workspace.held():
        workspace.run(PARITY_OF_CODES.step(subject, folder), again=True)
        return load_record(ParityReport, folder / PARITY)


OF_ENGINES = ("max_latency_ms", "min_speedup", "max_accuracy_drop", "objective", "latency_seconds", *ENGINE_SETTINGS)
"""Settings of what is built, measured and judged behind the export."""


def _given(config: Config, name: str) -> bool:
    """Whether a setting asks for something; a latency limit with a table is the search's too, a batch the export's."""
    if name == "batch" or (name == "max_latency_ms" and config.latency_table is not None):
        return False
    return not config.is_default(name)


def notes(subject: Subject, cpu: Cpu, until: str | None = None) -> Iterator[str]:
    """Sentences worth reading before a build of this configuration, up to this stage, on this CPU."""
    yield from subject.model_notes
    yield from subject.start.notes
    yield from operator_notes(subject.placement)
    if subject.builds_engine and subject.target.device == "cpu":
        config = subject.config
        if advice := saturation_advice(cpu, bits=config.candidates, pinned_bits=config.pinned_bits):
            yield advice
    config = subject.config
    if config.max_latency_ms is not None and config.latency_table is None and not config.goes_round and config.engine:
        yield (
            f"--max-latency-ms {config.max_latency_ms:g} is checked at the end and not searched for, as below 8 bits "
            f"every policy takes the same time; give it alone, or with --space native:{subject.target.name} --bits 8"
        )
    asked = [name for name in OF_ENGINES if not (subject.compiles_only and name in ENGINE_SETTINGS)]
    if not subject.measures and (unused := [name for name in asked if _given(config, name)]):
        named = ", ".join(option_of(name) for name in unused)
        yield f"no engine is {'run' if subject.compiles_only else 'built'}, so these settings have no effect: {named}"
    if until == "indicators" and config.scales == "pow2":
        yield (
            "indicators are learned with free scales, so --scales pow2 has no effect on them; powers of two begin with "
            "fine-tuning, or with the calibration of --ptq"
        )
    if subject.config.ptq and (idle := subject.config.training.of_quantized_models()):
        yield f"--ptq trains no quantized model, so these settings of [training] have no effect: {', '.join(idle)}"
    if not config.finetune and (idle := config.training.of_finetuning()):
        yield f"--no-finetune leaves fine-tuning out, so these settings of [training] have no effect: {', '.join(idle)}"


def _left(bundle: Path) -> str:
    return f"limpq-deploy finish {bundle}, on the machine with the GPU (copy the folder there)"


def _why(subject: Subject, until: str | None) -> str:
    if not subject.target.exportable:
        return f"the target {subject.target.name} is trained, for comparison with the paper, and never exported"
    if until is not None:
        return "as asked"
    if subject.compiles_only:
        return "the engine is for GPUs of other machines, so nothing was measured and there is no verdict"
    missing = "" if not subject.target.builds_engines else f" ({AsWritten().unavailable()})"
    return f"--no-engine, so nothing was measured and there is no verdict{missing}"
