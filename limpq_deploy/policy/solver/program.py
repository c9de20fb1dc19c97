"""The integer program of LIMPQ as blocks: pick one option of every block, at the least value, within every row.

    minimise  sum_b value[b, x_b]     subject to     sum_b cost[j, b, x_b] <= limit[j]  for every row j

A block is what is decided together: one layer, or the layers of one ``act_group``. Blocks may also cost something
together (`JointCost`), by the classes of their options: conversions between neighbours. Nothing here knows layers'
costs or indicators; `blocks.build_program` does. B: block, N: option of any block (flat, block after block), M: row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import fsum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAX_COST = 2**60
"""Largest cost of any policy in a row's steps, so that sums and differences fit 64-bit integers."""

Choice = tuple[int, ...]
"""One option number per block, in the program's order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Layers that are decided together, and their options (K).

    ``value_K``: share of the objective; ``cost_MK``: share of every row; ``bits_KG2``: (weight_bits, act_bits) of each
    of the G layers. Of equally good options an earlier one is preferred.
    """

    layers: tuple[str, ...]
    value_K: Floats
    cost_MK: Integers
    bits_KG2: NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointCost:
    """What two or more ``blocks`` take together, besides their own costs, by the classes of their options, an axis of
    ``cost`` for each block: integers of at least 0 in ``row``, or, where ``row`` is None, a share of the objective."""

    row: int | None
    blocks: tuple[int, ...]
    cost: Floats | Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Blocks side by side, and the limits. Exact: costs and limits are integers.

    ``start_B1``: where each block's options begin, and the end; ``bits``: as in `Block`, one array per block.
    A row's costs are ``steps[j]`` times what stands here (and the pinned layers' constant is in the limit), so that
    neighbouring integers are as far apart as they can be beside a solver's tolerance. Memory grows with the options.
    ``tables``: at most one of a row and some blocks; ``class_N``: the class of each option in its block, counted
    from 0 without gaps, where there are tables. ``rounded``: costs are rounded down to whole steps, so that a choice
    that keeps these limits may exceed the true ones by less than a step for each of its terms.
    """

    layers: tuple[tuple[str, ...], ...]
    start_B1: Integers
    value_N: Floats
    cost_MN: Integers
    bits: tuple[NDArray[np.int16], ...]
    limits: tuple[int, ...]
    steps: tuple[int, ...]
    tables: tuple[JointCost, ...] = ()
    class_N: Integers | None = None
    rounded: bool = False

    @classmethod
    def of(cls, blocks: Sequence[Block], limits: Sequence[int], steps: Sequence[int] | None = None) -> "Program":
        """The program of these blocks, each with at least one option."""
        return cls(
            layers=tuple(block.layers for block in blocks),
            start_B1=np.cumsum([0] + [len(block.value_K) for block in blocks], dtype=np.int64),
            value_N=np.concatenate([block.value_K for block in blocks]),
            cost_MN=np.concatenate([block.cost_MK for block in blocks], axis=1),
            bits=tuple(block.bits_KG2 for block in blocks),
            limits=tuple(limits),
            steps=tuple(steps) if steps is not None else (1,) * len(limits),
        )

    @cached_property
    def block_of(self) -> Integers:
        """The block of every option."""
        return np.repeat(np.arange(len(self.layers)), np.diff(self.start_B1))

    @cached_property
    def least(self) -> tuple[int, ...]:
        """What no choice goes below in each row; where nothing joint counts in it, the least that any choice costs."""
        least_MB = np.minimum.reduceat(self.cost_MN, self.start_B1[:-1], axis=1)
        together = [sum(int(one.cost.min()) for one in self.tables if one.row == row) for row in range(self.rows)]
        return tuple(int(least) + more for least, more in zip(least_MB.sum(axis=1), together, strict=True))

    @cached_property
    def most(self) -> tuple[int, ...]:
        """What no choice exceeds in each row."""
        most_MB = np.maximum.reduceat(self.cost_MN, self.start_B1[:-1], axis=1)
        together = [sum(int(one.cost.max()) for one in self.tables if one.row == row) for row in range(self.rows)]
        return tuple(sum(most_B) + more for most_B, more in zip(most_MB.tolist(), together, strict=True))

    @property
    def rows(self) -> int:
        return len(self.cost_MN)

    def with_limits(self, limits: Sequence[int]) -> "Program":
        """The same blocks with other right-hand sides."""
        return replace(self, limits=tuple(limits))

    def only(self, kept_N: NDArray[np.bool_]) -> "Program":
        """The program of these options, at least one of every block; classes are counted anew."""
        kept = np.flatnonzero(kept_N)
        block_of = self.block_of[kept]
        tables, class_N = self.tables, self.class_N
        if class_N is not None:
            classes = [np.unique(class_N[options][kept_N[options]]) for options in self.slices()]
            class_N = np.concatenate(
                [
                    np.searchsorted(some, self.class_N[options][kept_N[options]])  # type: ignore[index]
                    for some, options in zip(classes, self.slices(), strict=True)
                ]
            )
            tables = tuple(
                replace(one, cost=one.cost[np.ix_(*(classes[block] for block in one.blocks))]) for one in tables
            )
        return replace(
            self,
            start_B1=np.searchsorted(block_of, np.arange(len(self.layers) + 1)),
            value_N=self.value_N[kept],
            cost_MN=self.cost_MN[:, kept],
            bits=tuple(bits[kept_N[options]] for bits, options in zip(self.bits, self.slices(), strict=True)),
            tables=tables,
            class_N=class_N,
        )

    def places(self, choice: Choice) -> Integers:
        """Flat numbers of the chosen options."""
        return self.start_B1[:-1] + np.asarray(choice, np.int64)

    def value(self, choice: Choice) -> float:
        """The objective, summed without rounding error."""
        return fsum([*self.value_N[self.places(choice)], *self._together(choice, None)])

    def costs(self, choice: Choice) -> tuple[int, ...]:
        """Cost of a choice in every row, exact."""
        alone_M = self.cost_MN[:, self.places(choice)].sum(axis=1)
        return tuple(int(alone) + int(sum(self._together(choice, row))) for row, alone in enumerate(alone_M))

    def _together(self, choice: Choice, row: int | None) -> list[float]:
        """What blocks take together in a row, or of the objective."""
        if not self.tables:
            return []
        assert self.class_N is not None
        class_B = self.class_N[self.places(choice)]
        return [one.cost[tuple(class_B[list(one.blocks)])] for one in self.tables if one.row == row]

    def feasible(self, choice: Choice) -> bool:
        return all(cost <= limit for cost, limit in zip(self.costs(choice), self.limits, strict=True))

    def pairs(self, choice: Choice) -> dict[str, tuple[int, int]]:
        """(weight_bits, act_bits) by layer, block after block."""
        found: dict[str, tuple[int, int]] = {}
        for layers, bits_KG2, number in zip(self.layers, self.bits, choice, strict=True):
            for layer, (weight_bits, act_bits) in zip(layers, bits_KG2[number].tolist(), strict=True):
                found[layer] = weight_bits, act_bits
        return found

    def options_of(self, block: int) -> range:
        """Flat numbers of a block's options."""
        start, end = self.start_B1[block : block + 2].tolist()
        return range(start, end)

    def slices(self) -> list[slice]:
        """Where every block's options stand."""
        return [slice(start, end) for start, end in pairwise(self.start_B1.tolist())]

    def ranges(self) -> list[range]:
        """Flat numbers of every block's options."""
        return [range(start, end) for start, end in pairwise(self.start_B1.tolist())]
