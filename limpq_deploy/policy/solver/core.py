"""The core problem: what is left to decide once options that cannot be in a better choice are fixed away.

B: block, N: option, M: row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limpq_deploy.policy.solver.program import Integers, Program
from limpq_deploy.policy.solver.relaxation import Relaxation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Core:
    """``options``: of every block with anything to decide, in the program's order, the flat numbers of its options
    beside the relaxation's best one, by ascending reduced value.

    ``ranks``: preference among those (0 is preferred), ``base_ranks``: that of the best one. ``change_MN``: cost of
    every option less that of its block's best one. ``slack_M``: what the best options of all blocks leave of the
    limits, below 0 where they exceed them. ``spare_MC``: the most that each of these blocks can save; ``saved_M``: all
    blocks together.
    """

    options: tuple[Integers, ...]
    ranks: tuple[Integers, ...]
    base_ranks: tuple[int, ...]
    change_MN: Integers
    slack_M: Integers
    spare_MC: Integers
    saved_M: Integers


def core_of(program: Program, relaxation: Relaxation, room: float) -> Core:
    """Options that add less than ``room`` to the bound, and that fit beside the cheapest options of other blocks."""
    least_MB = np.minimum.reduceat(program.cost_MN, program.start_B1[:-1], axis=1)
    limit_M = np.array(program.limits, np.int64)
    free_M = limit_M - least_MB.sum(axis=1)
    live_N = relaxation.reduced_N < room
    live_N[relaxation.base_B] = False
    flat = np.flatnonzero(live_N)
    block = program.block_of[flat]
    fits = (program.cost_MN[:, flat] - least_MB[:, block] <= free_M[:, None]).all(axis=0)
    flat, block = flat[fits], block[fits]
    order = np.lexsort((relaxation.reduced_N[flat], block))
    flat, block = flat[order], block[order]
    blocks, first = np.unique(block, return_index=True)
    options = np.split(flat, first[1:]) if len(flat) else []
    ranked = [
        _ranks(program, number, [int(relaxation.base_B[number]), *some.tolist()])
        for number, some in zip(blocks.tolist(), options, strict=True)
    ]
    base_MB = program.cost_MN[:, relaxation.base_B]
    spare_MB = base_MB - least_MB
    return Core(
        options=tuple(options),
        ranks=tuple(np.array(ranks[1:], np.int64) for ranks in ranked),
        base_ranks=tuple(ranks[0] for ranks in ranked),
        change_MN=program.cost_MN - base_MB[:, program.block_of],
        slack_M=limit_M - base_MB.sum(axis=1),
        spare_MC=spare_MB[:, blocks],
        saved_M=spare_MB.sum(axis=1),
    )


def _ranks(program: Program, block: int, options: Sequence[int]) -> list[int]:
    """Layer by layer, the larger min(w, a), then w, then a, is preferred; at last the option of less value."""
    start = int(program.start_B1[block])

    def key(option: int) -> tuple[object, ...]:
        pairs = program.bits[block][option - start].tolist()
        return (*((-min(pair), -pair[0], -pair[1]) for pair in pairs), option)

    place = {option: rank for rank, option in enumerate(sorted(options, key=key))}
    return [place[option] for option in options]
