"""Pair tables taken apart: numbers for the classes of either block whose sums lie below the table, as high as can be.

    first[c] + second[d] <= cost[c, d]     for all classes c, d that are still open

With these numbers on the blocks' own options, a program with pairs becomes one of blocks alone whose choices cost no
more than before: a relaxation that bounds, fixing and lists of partial choices apply to. The numbers that bound best at
given prices come from passing messages along the pairs (max-product linear programming, Globerson and Jaakkola, 2007),
rounded down to integers, so that the relaxation is exact arithmetic. B: block, N: option, M: row, C, D: classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from limpq_deploy.policy.solver.pareto import undominated
from limpq_deploy.policy.solver.program import Choice, Floats, Integers, PairTable, Program

Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

Numbers = Floats | Integers

Halves = tuple[Numbers, Numbers]
"""Numbers by the classes of a pair's first and second block; those of closed classes mean nothing."""


class PairProgram:
    """A program with pairs, and its relaxations. ``open_BC``: which classes of each block are still open."""

    def __init__(self, program: Program) -> None:
        assert program.class_N is not None
        self.program = program
        self.start_B1 = np.concatenate([[0], np.cumsum(program.class_counts)])
        slot_N = self.start_B1[program.block_of] + program.class_N
        self._by_slot = np.argsort(slot_N, kind="stable")
        self._slot_starts = np.searchsorted(slot_N[self._by_slot], np.arange(self.start_B1[-1]))
        self.slot_N = slot_N

    def slots(self, block: int) -> slice:
        """Classes of a block among those of all blocks."""
        return slice(int(self.start_B1[block]), int(self.start_B1[block + 1]))

    def all_open(self) -> Bools:
        return np.ones(int(self.start_B1[-1]), bool)

    def zero_halves(self) -> list[Halves]:
        return [(np.zeros_like(pair.cost_CD[:, 0]), np.zeros_like(pair.cost_CD[0])) for pair in self.program.tables]

    def ends(self, number: int) -> tuple[int, int]:
        """The two blocks of a pair."""
        return self.program.tables[number].first, self.program.tables[number].second

    def refined(
        self,
        halves: list[Halves],
        open_S: Bools,
        prices_M: Floats,
        sweeps: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Halves]:
        """Halves that bound at least as well at these prices, or nearly so; valid at any. ``numbers``: of the pairs to
        renew; None: all."""
        program = self.program
        halves = list(halves)
        priced_S = np.minimum.reduceat((program.value_N + prices_M @ program.cost_MN)[self._by_slot], self._slot_starts)
        for pair, (first_C, second_D) in zip(program.tables, halves, strict=True):
            weight = _weight(pair, prices_M)
            priced_S[self.slots(pair.first)] += weight * first_C
            priced_S[self.slots(pair.second)] += weight * second_D
        for _ in range(sweeps):
            for number in range(len(halves)) if numbers is None else numbers:
                pair = program.tables[number]
                weight = _weight(pair, prices_M)
                at_first, at_second = self.slots(pair.first), self.slots(pair.second)
                open_C, open_D = open_S[at_first], open_S[at_second]
                first_C, second_D = halves[number]
                rest_C = np.asarray(priced_S[at_first] - weight * first_C, np.float64)
                rest_D = np.asarray(priced_S[at_second] - weight * second_D, np.float64)
                halves[number] = _parted(pair.cost_CD, open_C, open_D, rest_C, rest_D, weight)
                priced_S[at_first] = rest_C + weight * halves[number][0]
                priced_S[at_second] = rest_D + weight * halves[number][1]
        return halves

    def relaxed(self, halves: list[Halves], open_S: Bools) -> tuple[Program, Integers]:
        """Blocks alone, with the open options, and their flat numbers in the whole program. Costs are at least 0."""
        program = self.program
        kept = np.flatnonzero(open_S[self.slot_N])
        more_MS = np.zeros((program.rows, len(open_S)), np.int64)
        value_S = np.zeros(len(open_S))
        less_M = np.zeros(program.rows, np.int64)
        offset = 0.0
        for pair, both in zip(program.tables, halves, strict=True):
            for block, half in zip((pair.first, pair.second), both, strict=True):
                at = self.slots(block)
                least = half[open_S[at]].min()
                if pair.row is None:
                    value_S[at] += half - least
                    offset += float(least)
                else:
                    more_MS[pair.row, at] += half - least
                    less_M[pair.row] += least
        block_of = program.block_of[kept]
        value_N = program.value_N[kept] + value_S[self.slot_N[kept]]
        value_N[block_of == 0] += offset
        open_N = open_S[self.slot_N]
        relaxed = Program(
            layers=program.layers,
            start_B1=np.searchsorted(block_of, np.arange(len(program.layers) + 1)),
            value_N=value_N,
            cost_MN=program.cost_MN[:, kept] + more_MS[:, self.slot_N[kept]],
            bits=tuple(
                bits if open_N[options.start : options.stop].all() else bits[open_N[options.start : options.stop]]
                for bits, options in zip(program.bits, program.ranges(), strict=True)
            ),
            limits=tuple(limit - int(less) for limit, less in zip(program.limits, less_M, strict=True)),
            steps=program.steps,
        )
        return relaxed, kept

    def lacks_at(self, halves: list[Halves], choice: Choice) -> list[float]:
        """By how much each pair's halves lie below its table, at the classes of a choice."""
        class_B = self.classes(choice)
        return [
            float(pair.cost_CD[class_B[pair.first], class_B[pair.second]])
            - float(first_C[class_B[pair.first]])
            - float(second_D[class_B[pair.second]])
            for pair, (first_C, second_D) in zip(self.program.tables, halves, strict=True)
        ]

    def largest_lacks(self, halves: list[Halves], open_S: Bools) -> list[float]:
        """The same at the open classes where it is the most."""
        found = []
        for pair, (first_C, second_D) in zip(self.program.tables, halves, strict=True):
            lack_CD = pair.cost_CD - first_C[:, None] - second_D
            found.append(float(lack_CD[open_S[self.slots(pair.first)]][:, open_S[self.slots(pair.second)]].max()))
        return found

    def classes(self, choice: Choice) -> Integers:
        """The class that a choice takes in each block."""
        assert self.program.class_N is not None
        class_B: Integers = self.program.class_N[self.program.places(choice)]
        return class_B


def least_in_row(program: Program, row: int, others: Sequence[int]) -> tuple[Program, Integers]:
    """The program that asks for the least cost in one row within some other rows, and its options' numbers in the
    given one. Values are shares of the row's limit; options that others of their class match or beat are dropped."""
    kept_rows = list(others) or [row]
    limits = [program.limits[one] if one != row else program.most[row] for one in kept_rows]
    unit = max(program.limits[row], 1)
    columns_NM = program.cost_MN[kept_rows].T
    if program.class_N is not None:
        columns_NM = np.column_stack([columns_NM, program.class_N, -program.class_N])
    parts = [
        options.start
        + np.sort(undominated(cost_N[options.start : options.stop], columns_NM[options.start : options.stop]))
        for cost_N in [program.cost_MN[row] / unit]
        for options in program.ranges()
    ]
    kept = np.concatenate(parts)
    tables = [replace(pair, row=None, cost_CD=pair.cost_CD / unit) for pair in program.tables if pair.row == row]
    tables += [
        replace(pair, row=kept_rows.index(pair.row))
        for pair in program.tables
        if pair.row is not None and pair.row in others
    ]
    asked = replace(
        program,
        start_B1=np.cumsum([0] + [len(part) for part in parts], dtype=np.int64),
        value_N=program.cost_MN[row][kept] / unit,
        cost_MN=program.cost_MN[kept_rows][:, kept],
        bits=tuple(
            bits[part - options.start]
            for bits, part, options in zip(program.bits, parts, program.ranges(), strict=True)
        ),
        limits=tuple(limits),
        steps=tuple(program.steps[one] for one in kept_rows),
        tables=tuple(tables),
        class_N=None if program.class_N is None else program.class_N[kept],
    )
    return asked, kept


def _weight(pair: PairTable, prices_M: Floats) -> float:
    return 1.0 if pair.row is None else float(prices_M[pair.row])


def _parted(cost_CD: Numbers, open_C: Bools, open_D: Bools, rest_C: Floats, rest_D: Floats, weight: float) -> Halves:
    """Halves of one table that raise the least sum of both blocks' prices as far as they can at once; all of the table
    where one block has one class left."""
    first_C, second_D = np.zeros_like(cost_CD[:, 0]), np.zeros_like(cost_CD[0])
    if np.count_nonzero(open_C) == 1:
        second_D[:] = cost_CD[open_C.argmax()]
        return first_C, second_D
    if np.count_nonzero(open_D) == 1:
        first_C[:] = cost_CD[:, open_D.argmax()]
        return first_C, second_D
    open_CD = cost_CD[np.ix_(open_C, open_D)]
    if weight > 0:
        wanted_C = ((open_CD + rest_D[open_D] / weight).min(axis=1) - rest_C[open_C] / weight) / 2
        reach = 2.0 * float(np.abs(open_CD).max())
        wanted_C = np.clip(wanted_C - wanted_C.min(), 0.0, reach)
        if cost_CD.dtype.kind == "i":
            wanted_C = np.floor(wanted_C).astype(np.int64)
    else:
        wanted_C = np.zeros_like(open_CD[:, 0])
    low_D = (open_CD - wanted_C[:, None]).min(axis=0)
    first_C[open_C] = (open_CD - low_D).min(axis=1)
    second_D[open_D] = low_D
    return first_C, second_D
