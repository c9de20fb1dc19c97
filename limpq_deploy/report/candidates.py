"""How the policy was chosen: every candidate by its preview."""

from dataclasses import dataclass
from statistics import fmean

from limpq_deploy.policy.policy import PolicyCandidate
from limpq_deploy.report.inputs import ReportInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """One candidate; ``differs``: searched layers whose bits are not the chosen policy's."""

    name: str
    chosen: bool
    loss: str
    behind: str
    top1: str
    weight_bits: str
    act_bits: str
    differs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatesSection:
    """The tournament, best first; ``why`` in a sentence; ``seconds``: that its previews took."""

    rows: tuple[CandidateRow, ...]
    why: str
    images: int
    seconds: float | None
    figure: str


def _behind(one: PolicyCandidate) -> str:
    """How much larger its loss is than the least, with the interval of that on these images."""
    if one.behind is None or one.behind_low is None or one.behind_high is None:
        return ""
    return f"{one.behind:+.4f} ({one.behind_low:+.4f} to {one.behind_high:+.4f})"


def candidates_section(inputs: ReportInputs) -> CandidatesSection | None:
    """None where the policy comes of one program, without a tournament."""
    tournament = inputs.policy.tournament
    if tournament is None:
        return None
    return CandidatesSection(
        rows=tuple(
            CandidateRow(
                name=one.name,
                chosen=one.name == tournament.chosen,
                loss=f"{one.loss:.4f}",
                behind=_behind(one),
                top1=tournament.shown(one),
                weight_bits=f"{fmean(bits.weight for bits in one.bits.values()):.2f}",
                act_bits=f"{fmean(bits.act for bits in one.bits.values()):.2f}",
                differs=sum(bits != inputs.policy.bits.get(name) for name, bits in one.bits.items()),
            )
            for one in tournament.candidates
        ),
        why=tournament.why,
        images=tournament.images,
        seconds=tournament.seconds,
        figure="Top-1" if tournament.measure is None else tournament.measure,
    )
