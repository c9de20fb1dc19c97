"""The program that asks how small one row can be, from the one that asks for the least value."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from limpq_deploy.policy.solver.pareto import undominated
from limpq_deploy.policy.solver.program import Integers, Program


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
    tables = [replace(one, row=None, cost=one.cost / unit) for one in program.tables if one.row == row]
    tables += [
        replace(one, row=kept_rows.index(one.row))
        for one in program.tables
        if one.row is not None and one.row in others
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
