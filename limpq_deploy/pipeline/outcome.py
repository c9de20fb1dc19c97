"""What a build came to. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.policy.policy import Policy
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.workspace import Passed


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a build came to.

    ``stages``: those gone through, in order. ``why``: why it stopped before the verdict, None where it did not.
    ``outdated``: files of an earlier build that are not of this one. ``verdict`` None: there is none yet.
    ``left``: what is to do next, on another machine, None where nothing is.
    """

    folder: Path
    seconds: float
    stages: tuple[Passed, ...]
    why: str | None
    outdated: tuple[str, ...]
    placement: Placement | None
    policy: Policy | None
    verdict: Verdict | None
    left: str | None = None

    @property
    def failed(self) -> bool:
        """Whether a check of the verdict failed."""
        return self.verdict is not None and self.verdict.outcome == "failed"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "out": str(self.folder),
            "seconds": round(self.seconds, 3),
            "stages": [{"name": one.name, "ran": one.ran, "seconds": round(one.seconds, 3)} for one in self.stages],
            "stopped_after": self.stages[-1].name,
            "why": self.why,
            "outdated": list(self.outdated),
            **({"next": self.left} if self.left is not None else {}),
            "verdict": to_dict(self.verdict) if self.verdict is not None else None,
        }
