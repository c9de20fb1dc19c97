"""A finished build, read from its folder. Light, as `search` reads it: what is heavy is imported where it is read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.calibration.shown import Shown
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.workspace.file_names import BUNDLE, INDICATORS, LATENCY, MODEL, PARITY, POLICY, REPORT, VERDICT
from limpq_deploy.workspace.finished import BuildFiles

if TYPE_CHECKING:
    from limpq_deploy.export.reference.parity import ParityReport
    from limpq_deploy.export.timing.report import LatencyReport
    from limpq_deploy.pipeline.outcome import Outcome
    from limpq_deploy.verdict.recommendation import Recommendation
    from limpq_deploy.verdict.record import Verdict

RECORDS = (INDICATORS, POLICY, VERDICT, MODEL, LATENCY, PARITY)
"""What a folder has at least one of, if it is a build's."""

T = TypeVar("T")


@dataclass(frozen=True)
class Report(Shown):
    """A build's folder. Each record is read when it is first asked for, and held against the hash that its stage
    recorded; None where the build did not come so far. ``outcome``: of the run that made it, None after `load`."""

    folder: Path
    outcome: "Outcome | None" = None

    @cached_property
    def indicators(self) -> Indicators | None:
        """The importance of every layer at every bit-width."""
        return self._record(Indicators, INDICATORS)

    @cached_property
    def policy(self) -> Policy | None:
        """The bits of every searched layer."""
        return self._record(Policy, POLICY)

    @cached_property
    def verdict(self) -> "Verdict | None":
        """What was promised, measured and checked."""
        from limpq_deploy.verdict.record import Verdict

        return self._record(Verdict, VERDICT)

    @cached_property
    def latency(self) -> "LatencyReport | None":
        """Raw samples in ms, with machine and warm-up."""
        from limpq_deploy.export.timing.report import LatencyReport

        return self._record(LatencyReport, LATENCY)

    @cached_property
    def parity(self) -> "ParityReport | None":
        """Integers of the reference, the runtime and the trained model, tensor by tensor."""
        from limpq_deploy.export.reference.parity import ParityReport

        return self._record(ParityReport, PARITY)

    @property
    def recommendation(self) -> "Recommendation | None":
        """Which file to ship, and why."""
        return None if self.verdict is None else self.verdict.recommendation

    @property
    def model(self) -> Path | None:
        """The exported ONNX file."""
        return self._file(MODEL)

    @property
    def page(self) -> Path | None:
        """The report for people: one self-contained HTML file."""
        return self._file(REPORT)

    @property
    def bundle(self) -> Path | None:
        """The folder that is shipped."""
        return self._file(BUNDLE)

    @property
    def failed(self) -> bool:
        """Whether a check of the verdict failed."""
        return self.verdict is not None and self.verdict.outcome == "failed"

    def rows(self) -> list[dict[str, Any]]:
        """One for each file that could be shipped: accuracy with its 95 % interval, bytes, BitOps, p50 in ms. Before a
        verdict, one for each layer of the policy."""
        if self.verdict is None:
            return [] if self.policy is None else self.policy.rows()
        return [
            {
                "candidate": one.name,
                "bits": one.bits,
                "accuracy": one.accuracy,
                "accuracy_low": one.accuracy_low,
                "accuracy_high": one.accuracy_high,
                "bytes": one.bytes,
                "gbitops_nominal": one.bitops_nominal / 1e9,
                "gbitops_realised": one.bitops_realised / 1e9,
                "latency_ms": one.latency_ms,
                "file": one.file,
            }
            for one in self.verdict.candidates
        ]

    def _title(self) -> str:
        if self.verdict is None:
            return f"Build in {self.folder}, without a verdict yet"
        advice = f": ship {self.recommendation.candidate}" if self.recommendation is not None else ""
        return f"Build of {self.verdict.model} for {self.verdict.target}, verdict {self.verdict.outcome}{advice}"

    def _file(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).exists() else None

    def _record(self, kind: type[T], name: str) -> T | None:
        if not (self.folder / name).is_file():
            return None
        return load_record(kind, BuildFiles(self.folder).path(name))


def folder_of(build: Report | str | Path) -> Path:
    """Where a build lies, or a file that stands for one."""
    return build.folder if isinstance(build, Report) else Path(build)


def load(folder: str | Path) -> Report:
    """A finished (or interrupted) build, from its ``--out`` folder. Loads no torch.

    Raises RecordError where the folder holds nothing of a build, and FileChanged from a record that is no longer what
    its stage wrote.

    Examples:
        >>> report = limpq_deploy.load("limpq-build")
        >>> report.verdict.model, len(report.policy.bits)
        ('resnet8', 8)
    """
    path = Path(folder)
    if not any((path / name).exists() for name in RECORDS):
        raise RecordError(
            f"{path} holds no file of a build; expected the --out of `limpq-deploy build`, with at least one of "
            f"{', '.join(RECORDS)}"
        )
    return Report(path)
