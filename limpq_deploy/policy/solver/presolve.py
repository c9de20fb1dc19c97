"""What is known of a program before any search: values near 1, and only options that some choice can take.

B: block, N: option, M: row.
"""

from dataclasses import dataclass, replace
from math import frexp, fsum, ldexp

import numpy as np

from limpq_deploy.policy.solver.program import Choice, Integers, Program

STEEP = 100.0
"""See `narrowed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presolved:
    """``program``: the one to search, None where an exact count shows that no choice keeps the limits. Its values are
    those of the ``whole`` one times 2^-``exponent``; ``kept``: flat numbers of its options in the whole one."""

    whole: Program
    program: Program | None
    exponent: int
    kept: Integers

    def back(self, choice: Choice | None) -> Choice | None:
        """A choice in the whole program's numbers."""
        if choice is None or self.program is None:
            return None
        return tuple((self.kept[self.program.places(choice)] - self.whole.start_B1[:-1]).tolist())

    def there(self, choice: Choice | None) -> Choice | None:
        """A choice of the whole program in these numbers; None where an option of it was dropped."""
        if choice is None or self.program is None:
            return None
        places = self.whole.places(choice)
        at = np.searchsorted(self.kept, places)
        if (at >= len(self.kept)).any() or (self.kept[at] != places).any():
            return None
        return tuple((at - self.program.start_B1[:-1]).tolist())

    def value(self, here: float) -> float:
        """A value or bound of the searched program in units of the whole one."""
        return here if not np.isfinite(here) else ldexp(here, self.exponent)


def presolve(program: Program) -> Presolved:
    """Scale values by a power of two, so that neither tiny nor huge ones are lost (exactly, but for what lies 300
    powers of ten below the largest), and drop options that exceed a limit even beside the cheapest ones of all other
    blocks."""
    kept_N = np.ones(len(program.value_N), bool)
    limit_M = np.array(program.limits, object)
    together_M = np.array(program.least, object) - _least(program, kept_N).sum(axis=1)
    while True:
        least_MB = _least(program, kept_N)
        room_M = limit_M - together_M - least_MB.sum(axis=1)
        if (room_M < 0).any():
            return Presolved(whole=program, program=None, exponent=0, kept=np.zeros(0, np.int64))
        fits_N = kept_N.copy()
        for cost_N, least_B, room in zip(program.cost_MN, least_MB, room_M, strict=True):
            fits_N &= cost_N - least_B[program.block_of].astype(np.int64) <= min(int(room), 2**62)
        if (fits_N == kept_N).all():
            break
        kept_N = fits_N
    exponent = frexp(float(np.abs(program.value_N).max()))[1]
    small = program if kept_N.all() else program.only(kept_N)
    scaled = replace(small, value_N=_scaled(small.value_N, exponent))
    if any(table.row is None for table in small.tables):
        scaled, exponent = small, 0  # shares of a limit, near 1 as they are
    return Presolved(whole=program, program=scaled, exponent=exponent, kept=np.flatnonzero(kept_N))


def narrowed(program: Program, choice: Choice | None) -> Presolved | None:
    """Options that a choice as good as this one can take, their values near 1 again: where options that nobody takes
    are worth STEEP times more, rounding hides what the others are worth. None where it does not."""
    if choice is None:
        return None
    value = program.value(choice)
    least_B = np.minimum.reduceat(program.value_N, program.start_B1[:-1])
    excess_N = program.value_N - least_B[program.block_of]
    if excess_N.max() <= STEEP * abs(value):
        return None
    kept_N = excess_N <= value - fsum(least_B.tolist()) + 1e-12 * abs(value)
    small = presolve(program.only(kept_N))
    return replace(small, whole=program, kept=np.flatnonzero(kept_N)[small.kept])


def _scaled(value_N: np.ndarray, exponent: int) -> np.ndarray:
    return np.asarray(np.ldexp(value_N, -exponent), np.float64)


def _least(program: Program, kept_N: np.ndarray) -> np.ndarray:
    """Least cost of each row and block among the kept options, as Python integers."""
    cost_MN = np.where(kept_N, program.cost_MN, np.iinfo(np.int64).max)
    return np.asarray(np.minimum.reduceat(cost_MN, program.start_B1[:-1], axis=1), object)
