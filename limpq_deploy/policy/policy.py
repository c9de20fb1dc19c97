"""Policy: bit-widths for every searched layer, with what they cost and how they were found. No torch here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.formats import FP8, FP8_BITS
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.shown import Saved
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import WIDEST_GRID
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import OutlierMode, OutlierReport

FLOAT_WIDTHS = frozenset((16, 32))
"""Widths at which a tensor stays in float."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerBits:
    """Bit-widths of one layer, which unpack as ``weight, act = bits`` and equal that tuple, and the ``format`` of its
    numbers where it is not the one that those say: integers up to 8 bits, floats from 16 on. Raises ValueError outside
    1 to 32, and for FP8 of other than 8 bits."""

    weight: int
    act: int
    format: Literal["fp8"] | None = None

    def __post_init__(self) -> None:
        if self.format == "fp8" and (self.weight, self.act) != (FP8_BITS, FP8_BITS):
            raise ValueError(f"the format is fp8 and the bits are {self.weight} and {self.act}; expected 8 and 8")
        for kind, bits in (("weight", self.weight), ("act", self.act)):
            if not 1 <= bits <= 32:
                raise ValueError(f"{kind} is {bits} bits; expected 1 to 32")

    def __iter__(self) -> Iterator[int]:
        return iter((self.weight, self.act))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LayerBits):
            return (*self, self.format) == (*other, other.format)
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.weight, self.act))

    @classmethod
    def of(cls, pair: BitPair) -> "LayerBits":
        """The record of a pair of widths."""
        if pair == (FP8, FP8):
            return cls(weight=FP8_BITS, act=FP8_BITS, format="fp8")
        return cls(weight=pair[0], act=pair[1])

    @property
    def pair(self) -> BitPair:
        """(weight, activation) widths, as `formats` has them."""
        return (FP8, FP8) if self.format == "fp8" else (self.weight, self.act)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """One budget: what the policy uses of it. ``used`` and ``limit`` are exact integers in ``unit``."""

    name: str
    used: int
    limit: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverResult:
    """How the policy was found. ``status``: "optimal" where it is proved that no better policy exists, else "feasible".
    ``bound``: proven lower bound of the objective, a rounding allowance near 1e-12 below it where optimal; ``gap``:
    (objective - bound) / |bound|, or the difference where the bound is 0; ``seconds``: wall time of building, solving
    and proving."""

    name: str
    status: str
    bound: float
    gap: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimised:
    """A cost that was the objective: ``least`` of it, in ``unit``, and whether it is ``proved`` that no policy within
    the budgets, and of no more importance than uniform ``no_worse_than``, has less."""

    name: str
    least: int
    unit: str
    proved: bool
    no_worse_than: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCandidate:
    """A policy that competed, by its preview: the jointly trained network at these bits, BatchNorm estimated anew.

    ``importance``: the measure of its program, with ``alpha`` and ``outliers``; all None for a uniform policy. ``top1``
    in percent (or what the tournament's ``measure`` names) and ``loss`` (mean cross-entropy) on held-out training
    images. ``behind``: its loss less the least one, with the ends of the 95 % interval of that difference on the same
    images; None in older files.
    """

    name: str
    bits: dict[str, LayerBits]
    top1: float
    loss: float
    importance: str | None = None
    alpha: float | None = None
    outliers: OutlierMode | None = None
    behind: float | None = None
    behind_low: float | None = None
    behind_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """Candidates for one set of budgets, best first; ``chosen`` names the one that became the policy and ``why`` says
    so in a sentence. ``images`` were looked at, ``batchnorm_images`` gave BatchNorm its statistics in the best one's
    preview (0: the float model's were kept); ``seconds``: what all previews took. ``measure`` and its ``unit``: of the
    figure in place of top-1, None for that."""

    candidates: tuple[PolicyCandidate, ...]
    chosen: str
    why: str
    images: int
    batchnorm_images: int
    seconds: float | None = None
    measure: str | None = None
    unit: str | None = None

    @property
    def figure(self) -> str:
        """The figure's name."""
        return self.measure or "top-1"

    def shown(self, candidate: PolicyCandidate) -> str:
        """A candidate's figure."""
        return f"{candidate.top1:.2f} {'%' if self.unit is None else self.unit}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Saved):
    """Bit-widths of the searched layers, by qualified module name; ``objective`` as in the program, with ``alpha``, on
    the indicators as used; ``importance``: the measure that they are (None: an older file's learned scales);
    ``outliers``: what was done to them before; ``tournament``: the policies that it was chosen from, if it was;
    ``minimised``: the cost that came before the importance, if one did."""

    bits: dict[str, LayerBits]
    objective: float
    alpha: float
    costs: tuple[BudgetUse, ...] = ()
    solver: SolverResult | None = None
    outliers: OutlierReport | None = None
    model: str | None = None
    importance: str | None = None
    tournament: Tournament | None = None
    minimised: Minimised | None = None
    source: Any = None
    format: Literal["limpq.policy/1"] = field(default="limpq.policy/1")

    def rows(self) -> list[dict[str, Any]]:
        """One for each searched layer: its bits."""
        return [{"layer": name, "weight_bits": w, "act_bits": a} for name, (w, a) in self.bits.items()]

    def _title(self) -> str:
        spent = "".join(f", {use.name} {use.used:,} of {use.limit:,} {use.unit}" for use in self.costs)
        proved = f", {self.solver.status}" if self.solver is not None else ""
        return f"Policy of {self.model or 'a model'}: {len(self.bits)} layers{spent}{proved}"

    def changed(self, bits: Mapping[str, BitPair | LayerBits]) -> "Policy":
        """The same policy with other (weight, activation) bits in some layers, made by hand: its costs and proof are
        gone. Raises ModelError for a layer that it does not have."""
        if unknown := sorted(set(bits) - set(self.bits)):
            raise ModelError(f"the policy has no layer {unknown[0]!r}; expected one of {', '.join(self.bits)}")
        found = {name: one if isinstance(one, LayerBits) else LayerBits.of(one) for name, one in bits.items()}
        return replace(self, bits={**self.bits, **found}, costs=(), solver=None, tournament=None)

    def is_everywhere(self, bits: int) -> bool:
        """Whether every weight and activation has this width: at the widest candidate, no budget limits anything. FP8
        is no wider than int8."""
        return bits != FP8 and all(layer.pair == (bits, bits) for layer in self.bits.values())

    def buildable_pairs(self, origin: str) -> dict[str, tuple[int, int]]:
        """`pairs`, where every width can be trained and executed: a grid's (2 to 8 bits), or a float's (16, 32). Raises
        ModelError with the first that cannot, and where it stands (``origin``)."""
        found = self.pairs()
        for name, pair in found.items():
            if self.bits[name].format is not None:
                continue
            for kind, bits in zip(("weight", "activation"), pair, strict=True):
                if not 2 <= bits <= WIDEST_GRID and bits not in FLOAT_WIDTHS:
                    raise ModelError(
                        f"{origin} gives layer {plain(name, 60)!r} {bits} {kind} bits, which no grid has; expected 2 "
                        "to 8, or 16 or 32 for float: search the policy again, or change it"
                    )
        return found

    def pairs(self) -> dict[str, tuple[int, int]]:
        """(weight_bits, act_bits) by layer name, as `Placement` takes them."""
        return {name: bits.pair for name, bits in self.bits.items()}


class Solve(Protocol):
    """What finds one policy; `search_policy` is one. Raises InfeasiblePolicy."""

    def __call__(
        self, indicators: Indicators, budgets: Sequence[Budget], *, alpha: float, outliers: OutlierMode
    ) -> Policy: ...
