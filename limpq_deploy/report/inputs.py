"""What the report is drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.report import LatencyReport
from limpq_deploy.latency.rounds import Rounds
from limpq_deploy.latency.study import LatencyStudy
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.what_if import WhatIf
from limpq_deploy.report.curves import Curve
from limpq_deploy.verdict.answers import Answers
from limpq_deploy.verdict.record import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """The records of one build, and what a reader needs beside them.

    ``command``: the shell command that makes this build again. ``created``: when, as it shall be printed; the page
    holds no other clock, so equal inputs give equal bytes. ``uniform``: the uniform policy within the same budgets.
    ``realised``: the bits that the engine reports for each layer; others count as the target promises. ``built``: facts
    about data and training, such as {"Data set": "digits, 1,797 images"}. ``versions``: of programs and libraries.
    ``files``: bytes on disk by file name. ``class_names``: in index order. ``trained``: False where scales are ranges
    and nothing was learned. ``given``: the user's file where the policy was not searched. ``what_if``: what other
    budgets would give, with ``commands`` that build it by the names of points; ``answers``: classes of every test
    image; ``curves``: losses of the trainings. ``trained_elsewhere``: these three are of another machine, which
    handed the build over. A part that is None was not measured, and is said so.

    Raises RecordError when policies, indicators and placement are not of one model.
    """

    title: str
    command: str
    created: str
    verdict: Verdict
    placement: Placement
    policy: Policy
    uniform: Policy | None = None
    indicators: Indicators | None = None
    latency: LatencyReport | None = None
    parity: ParityReport | None = None
    realised: Mapping[str, BitPair] = field(default_factory=dict)
    built: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    study: LatencyStudy | None = None
    rounds: Rounds | None = None
    trained: bool = True
    given: str | None = None
    what_if: WhatIf | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    answers: Answers | None = None
    curves: tuple[Curve, ...] = ()
    cost_table: CostTable | None = None
    trained_elsewhere: bool = False

    def __post_init__(self) -> None:
        searched = {layer.name for layer in self.placement.searched}
        _require_all(searched, set(self.policy.bits), "the policy")
        if self.uniform is not None:
            _require_all(searched, set(self.uniform.bits), "the uniform policy")
        if self.indicators is not None:
            _require_all(searched, {layer.name for layer in self.indicators.layers}, "the indicators file")
        if self.what_if is not None:
            for point in (*self.what_if.points, *self.what_if.uniform, *self.what_if.candidates):
                _require_all(searched, set(point.bits), f"{point.name!r} among what other budgets give")

    def pair(self, layer: str) -> BitPair:
        """Nominal (weight, activation) bits of a layer, pinned ones included."""
        return pair_of(self.placement, self.policy, layer)

    def executed(self, layer: str) -> BitPair:
        """Realised (weight, activation) bits of a layer."""
        return self.realised.get(layer) or self.placement.spec.realised_pair(*self.pair(layer))


def pair_of(placement: Placement, policy: Policy, layer: str) -> BitPair:
    """Bits that a policy gives a layer; a pinned layer has its own unless the policy lists it."""
    bits = policy.bits.get(layer)
    if bits is not None:
        return bits.pair
    pinned = placement.layer(layer).pinned_bits
    assert pinned is not None, layer
    return pinned, pinned


def _require_all(searched: set[str], found: set[str], what: str) -> None:
    missing = sorted(searched - found)
    if missing:
        raise RecordError(
            f"{what} has no entry for layer {missing[0]!r} (missing: {len(missing)} of {len(searched)} layers); "
            "it belongs to another model, build all parts for one model"
        )
