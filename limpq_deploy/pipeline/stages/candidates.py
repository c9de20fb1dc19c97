"""The stage that looks at every file that could be shipped: its size, parity, and, where nothing can be timed, what the
compiler makes of it. No torch here."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.to_float16 import in_half
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.reference.half_sums import IMAGES
from limpq_deploy.export.reference.parity import ParityReport, compare_runtime
from limpq_deploy.export.runtimes.base import Runtime
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord, compiler_word
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.compared import as_written
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.engine import exported_files
from limpq_deploy.pipeline.stages.facts import (
    COMPILER,
    DATA,
    ENGINE_OPTIONS,
    KEEPS_STORED,
    KEEPS_STORED_UNIFORM,
    MEASURES,
    OWN_FP8,
    OWN_UNIFORM,
    RUNTIME,
)
from limpq_deploy.progress import Report
from limpq_deploy.verdict.candidates import SERIES, CandidateName, CandidateParity, batch_key
from limpq_deploy.workspace.file_names import (
    CANDIDATES,
    COMPARISON,
    FLOAT_MODEL,
    FP8_MODEL,
    LINT,
    MODEL,
    PARITY,
    STORED,
    UNIFORM8_MODEL,
    UNIFORM_MODEL,
    UNIFORM_STORED,
)

PARITY_IMAGES = 16
"""Images on which parity is shown of the files beside the policy's own, whose parity has a stage of its own."""

NUMPY_IMAGES = 2
"""The same, where NumPy executes the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """One file that could be shipped; fields as in `verdict.candidates.Candidate`."""

    file: str
    bytes: int
    stored_file: str | None = None
    stored_bytes: int | None = None
    batch: int = 1
    moved_bytes: int | None = None
    moved_by_batch: dict[str, int | None] | None = None
    weight_bytes: int | None = None
    kernels: int | None = None
    parity: CandidateParity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateFiles:
    """All of them by name."""

    files: dict[str, FileFacts]
    format: Literal["limpq.candidates/1"] = field(default="limpq.candidates/1")


def _run(subject: Deployed, folder: Path, report: Report) -> str:
    files = candidate_files(folder)
    runtime = subject.runtime()
    words = dict(_words(subject, folder, files, report)) if subject.hands_over else {}
    found, batch = {}, 1 if subject.config.batch_range is None else subject.config.batch_range.best
    for number, (name, file) in enumerate(files.items()):
        report(number, len(files), name)
        stored = _stored(folder, file)
        word = words.get(file)
        found[str(name)] = FileFacts(
            file=file,
            bytes=(folder / file).stat().st_size,
            stored_file=stored,
            stored_bytes=(folder / stored).stat().st_size if stored is not None else None,
            batch=batch,
            moved_bytes=(word.moved_bytes or {}).get(batch_key(batch)) if word is not None else None,
            moved_by_batch=word.moved_bytes if word is not None else None,
            weight_bytes=word.weight_bytes if word is not None else None,
            kernels=word.kernels if word is not None else None,
            parity=_parity(subject, folder, file, runtime),
        )
    write_record(CandidateFiles(files=found), folder / CANDIDATES)
    shown = ", ".join(f"{name} {one.bytes:,} bytes" for name, one in found.items())
    wrong = [name for name, one in found.items() if one.parity is not None and one.parity.mismatches]
    return shown + (f"; integers differ in {', '.join(wrong)}" if wrong else "")


CANDIDATES_OF_BUILD = Stage(
    name="candidates",
    title="candidates",
    settings=("storage", *ENGINE_OPTIONS),
    facts=(DATA, COMPILER, *RUNTIME),
    reads=(
        *(COMPARISON, LINT, PARITY, MODEL, FLOAT_MODEL, UNIFORM8_MODEL, If(OWN_UNIFORM, UNIFORM_MODEL)),
        If(OWN_FP8, FP8_MODEL),
        *(If(KEEPS_STORED, STORED), If(KEEPS_STORED_UNIFORM, UNIFORM_STORED)),
    ),
    writes=(CANDIDATES,),
    run=_run,
    when=(MEASURES,),
)
"""Files that could be shipped: float, int8, FP8 where formats admit it, uniform bits at the budget, and
the policy's own."""


def candidate_files(folder: Path) -> dict[CandidateName, str]:
    """Files by candidate, relative to ``folder``, the simplest first; uniform bits may be the policy itself, and
    FP8 the uniform bits."""
    exported = exported_files(folder)
    comparison = load_record(Comparison, folder / COMPARISON)
    if comparison.same:
        exported["uniform"] = exported["mixed"]
    if comparison.is_fp8:
        exported["fp8"] = exported["uniform"]
    order = ("float", "uniform8", "fp8", "uniform", "mixed")
    return {SERIES[name]: exported[name] for name in order if name in exported}


def _stored(folder: Path, file: str) -> str | None:
    """The twin with true low-bit weights."""
    twin = {MODEL: STORED, UNIFORM_MODEL: UNIFORM_STORED}.get(file)
    return twin if twin is not None and (folder / twin).is_file() else None


def _parity(subject: Deployed, folder: Path, file: str, runtime: Runtime) -> CandidateParity | None:
    """The policy's own from its stage; of other quantized files on a few images, where the runtime sums in integers, or
    NumPy executes the file exactly and no engine is here."""
    if subject.placement.weights_only or file == FLOAT_MODEL:
        return None
    in_numpy = subject.hands_over and subject.target.half_sums
    if subject.hands_over and not in_numpy:
        return None
    images = NUMPY_IMAGES if in_numpy else PARITY_IMAGES
    split = subject.dataset.split("test")
    batches = [part for part, _ in split.subset(np.arange(min(images, len(split)))).batches(images)]
    if file == MODEL:
        found = load_record(ParityReport, folder / PARITY)
    elif in_numpy:
        found, _ = as_written(folder / file, batches, runtime)
    elif subject.target.clip == "integer":
        found = compare_runtime(folder / file, batches, runtime)
    else:
        return None
    return CandidateParity(
        images=min(found.images, IMAGES) if in_numpy else found.images,
        codes=found.elements,
        mismatches=found.mismatches,
        logits_equal=found.logits_equal,
    )


def _words(
    subject: Any, folder: Path, files: dict[CandidateName, str], report: Report
) -> Iterator[tuple[str, CompilerWord]]:
    """The compiler's word on every file that is not the policy's own, which the export asked about; floats in the type
    in which the target runs them."""
    own = load_record(LintReport, folder / LINT).compiler
    if own is None or own.accepted is None:
        return
    yield MODEL, own
    half = (subject.config.float_type or subject.target.float_baseline) == "float16"
    for file in dict.fromkeys(files.values()):
        if file != MODEL:
            report(0, 1, f"compiler, {file}")
            model = load_model(folder / file)
            asked = in_half(model).model if half and file == FLOAT_MODEL else model
            yield file, compiler_word(asked, gpus=subject.gpus, batch=subject.config.batch_range)
