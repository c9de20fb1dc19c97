"""Policy: bit-widths for every searched layer, with what they cost and how they were found. No torch here."""

from dataclasses import dataclass, field
from typing import Any, Literal

from limpq_deploy.outliers import OutlierReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBits:
    """Bit-widths of one layer."""

    weight: int
    act: int


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
class Policy:
    """Bit-widths of the searched layers, by qualified module name; ``objective`` as in the program, with ``alpha``, on
    the indicators as used; ``outliers``: what was done to them before."""

    bits: dict[str, LayerBits]
    objective: float
    alpha: float
    costs: tuple[BudgetUse, ...] = ()
    solver: SolverResult | None = None
    outliers: OutlierReport | None = None
    model: str | None = None
    source: Any = None
    format: Literal["limpq.policy/1"] = field(default="limpq.policy/1")

    def is_everywhere(self, bits: int) -> bool:
        """Whether every weight and activation has this width: at the widest candidate, no budget limits anything."""
        return all((layer.weight, layer.act) == (bits, bits) for layer in self.bits.values())

    def pairs(self) -> dict[str, tuple[int, int]]:
        """(weight_bits, act_bits) by layer name, as `Placement` takes them."""
        return {name: (bits.weight, bits.act) for name, bits in self.bits.items()}
