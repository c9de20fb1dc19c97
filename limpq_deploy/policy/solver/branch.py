"""Our own exact solver for programs with pairs: branch and bound over the classes of blocks.

At a node some classes of some blocks are closed. Its relaxation (`splits.PairProgram`) is a program of blocks alone,
which `exact.solve` answers with a proof: a choice that keeps the true limits is the node's best, and one that does not
names a pair whose classes were too cheap, of which a block is split into the class taken and the others. Nodes are
taken by their bounds, the least first (Land and Doig, 1960). A count limits them, and a deadline.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from limpq_deploy.policy.solver.deadline import NEVER, Deadline
from limpq_deploy.policy.solver.exact import Solution, solve
from limpq_deploy.policy.solver.program import Choice, Floats, Integers, Program
from limpq_deploy.policy.solver.relaxation import Relaxation, relax
from limpq_deploy.policy.solver.splits import Bools, Halves, PairProgram

MAX_NODES = 1_000
"""Nodes looked at; less in programs of many blocks, so that nodes times blocks stay within MAX_WORK."""

MAX_WORK = 100_000

NODE_LABELS, LEAF_LABELS = 20_000, 200_000
"""Labels per half in the search of a node that can still be divided, and of one that cannot."""

STEERED_ROUNDS, ROOT_ROUNDS = 6, 10
"""Prices and halves found in turn before the first branching; at first with limits tightened."""

SHARES = (1.0, 0.5, 0.25, 0.1, 0.03)
"""Of what a choice takes too much, by which limits are tightened: the first that leaves any choice."""

SWEEPS = 3
"""Passes over pairs, each time."""

REPAIRS = 4
"""Times that limits are tightened by what a choice takes too much."""

REPAIR_GAP, REPAIR_LABELS = 1e-4, 5_000
"""How well a repaired choice is searched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Open classes, and the relaxation there. ``flat_N``: the numbers of its options in the whole program."""

    open_S: Bools
    halves: list[Halves]
    program: Program
    flat_N: Integers
    relaxation: Relaxation


class PairSearch:
    """The search on one program with pairs."""

    def __init__(self, program: Program, deadline: Deadline = NEVER) -> None:
        self.whole, self.pairs = program, PairProgram(program)
        self.near = [
            [number for number, table in enumerate(program.tables) if block in (table.first, table.second)]
            for block in range(len(program.layers))
        ]
        self.root = self.node(self.pairs.zero_halves(), self.pairs.all_open())
        node = self.root
        for round_ in range(ROOT_ROUNDS):
            if deadline.left_s == 0 or max(self.pairs.lacks_at(node.halves, self.whole_choice(node, None))) <= 0:
                break  # the relaxation's best options pay all of their conversions
            prices_M = self.steered(node) if round_ < STEERED_ROUNDS else node.relaxation.prices_M
            node = self.node(self.pairs.refined(node.halves, node.open_S, prices_M, SWEEPS), node.open_S)
            if node.relaxation.bound > self.root.relaxation.bound:
                self.root = node

    @property
    def relaxation(self) -> Relaxation:
        """Of the whole program, option by option."""
        return self.root.relaxation

    def solve(
        self,
        *,
        incumbent: Choice | None = None,
        gap: float = 0.0,
        max_nodes: int | None = None,
        deadline: Deadline = NEVER,
    ) -> Solution:
        """The best choice, proved, unless more than ``max_nodes`` nodes would have to be looked at, or the deadline
        passes.

        Among choices of equal value (within the relaxation's allowance) that nodes end with: the least cost in the
        first row, then in the next ones; then, block by block, the larger min(w, a), then w, then a of its layers. An
        incumbent changes the work, never the answer of a complete search. With ``gap`` above 0, a choice proved to be
        that close is enough.
        """
        run = _Run(self, incumbent, deadline)
        most_nodes = max_nodes or max(1, min(MAX_NODES, MAX_WORK // len(self.whole.layers)))
        numbers = count()
        heap = [(self.relaxation.bound, next(numbers), self.root)]
        looked = 0
        while heap and heap[0][0] <= run.ceiling:
            bound = min(heap[0][0], run.unproved)
            if looked >= most_nodes or deadline.left_s == 0 or (gap > 0 and run.value - bound <= gap * abs(bound)):
                return Solution(choice=run.best(), bound=min(bound, run.value), complete=False)
            bound, _, node = heapq.heappop(heap)
            looked += 1
            for above, child in run.divided(bound, node):
                heapq.heappush(heap, (above, next(numbers), child))
        return Solution(
            choice=run.best(),
            bound=min(run.value - 4 * run.tie, run.unproved),
            complete=run.unproved == np.inf or run.unproved > run.ceiling,
        )

    def node(self, halves: list[Halves], open_S: Bools) -> Node:
        program, flat_N = self.pairs.relaxed(halves, open_S)
        return Node(open_S=open_S, halves=halves, program=program, flat_N=flat_N, relaxation=relax(program))

    def steered(self, node: Node) -> Floats:
        """Prices half way to those of limits that are tightened by what the relaxation's best options take beyond the
        halves: where conversions cost nothing yet, the relaxation does not see that they will."""
        choice = self.whole_choice(node, None)
        if max(self.pairs.lacks_at(node.halves, choice)) <= 0:
            return node.relaxation.prices_M
        dearest = float(np.maximum.reduceat(node.program.value_N, node.program.start_B1[:-1]).sum())
        for share in SHARES:
            tight = relax(self.tightened(node, choice, share))
            if tight.bound <= dearest:
                return (node.relaxation.prices_M + tight.prices_M) / 2
        return node.relaxation.prices_M  # no choice keeps even limits tightened a little

    def tightened(self, node: Node, choice: Choice, share: float = 1.0) -> Program:
        """A node's program, its limits less a share of what a choice takes beyond the halves."""
        lack_M = [0] * self.whole.rows
        for lack, table in zip(self.pairs.lacks_at(node.halves, choice), self.whole.tables, strict=True):
            if table.row is not None:
                lack_M[table.row] += int(lack)
        limits = zip(node.program.limits, lack_M, strict=True)
        return node.program.with_limits([limit - int(share * lack) for limit, lack in limits])

    def whole_choice(self, node: Node, choice: Choice | None) -> Choice:
        """A node's choice, or its relaxation's best options, in the whole program's numbers."""
        flat_B = node.relaxation.base_B if choice is None else node.program.places(choice)
        return tuple((node.flat_N[flat_B] - self.whole.start_B1[:-1]).tolist())

    def children(self, node: Node, block: int, taken: int) -> Iterator[Node]:
        """Two nodes: the block takes this class, or another one. Halves are renewed near it."""
        at, prices_M = self.pairs.slots(block), self.steered(node)
        ends = {end for number in self.near[block] for end in self.pairs.ends(number)}
        near = list(dict.fromkeys([*self.near[block], *(number for end in sorted(ends) for number in self.near[end])]))
        for same in (True, False):
            open_S = node.open_S.copy()
            open_S[at] &= (np.arange(at.stop - at.start) == taken) == same
            yield self.node(self.pairs.refined(node.halves, open_S, prices_M, SWEEPS, near), open_S)

    def only(self, class_B: Integers) -> Node:
        """The node of exactly these classes, where every pair is told whole."""
        open_S = np.zeros_like(self.root.open_S)
        open_S[self.pairs.start_B1[:-1] + class_B] = True
        return self.node(self.pairs.refined(self.root.halves, open_S, np.zeros(self.whole.rows), 1), open_S)

    def to_split(self, node: Node, choice: Choice | None) -> int | None:
        """The block to split: an end of the pair whose halves fall shortest of its table, at the classes of a choice
        or, where they say all of those, at any open ones. None where every pair is told whole."""
        tables = self.whole.tables
        weights = [1.0 if table.row is None else self._price(node, table.row) for table in tables]
        lacks = [0.0] * len(tables) if choice is None else self.pairs.lacks_at(node.halves, choice)
        if max(lacks) <= 0.0:
            lacks = self.pairs.largest_lacks(node.halves, node.open_S)
        several = [
            np.count_nonzero(node.open_S[self.pairs.slots(block)]) > 1 for block in range(len(self.whole.layers))
        ]
        divisible = [several[table.first] or several[table.second] for table in tables]
        lacks = [lack * weight * can for lack, weight, can in zip(lacks, weights, divisible, strict=True)]
        worst = int(np.argmax(lacks))
        if lacks[worst] <= 0.0:
            return None
        total = {
            block: sum(lack for lack, table in zip(lacks, tables, strict=True) if block in (table.first, table.second))
            for block in (tables[worst].first, tables[worst].second)
            if several[block]
        }
        return max(total, key=lambda block: (total[block], -block))

    def told_whole(self, node: Node, choice: Choice) -> Node | None:
        """The node with halves renewed everywhere, where a pair that cannot be divided says too little of a choice."""
        if max(self.pairs.lacks_at(node.halves, choice)) <= 0.0:
            return None
        renewed = self.node(self.pairs.refined(node.halves, node.open_S, np.zeros(self.whole.rows), 1), node.open_S)
        before, after = (sum(self.pairs.lacks_at(halves, choice)) for halves in (node.halves, renewed.halves))
        return renewed if after < before else None

    def _price(self, node: Node, row: int) -> float:
        """What one unit of a row is worth; a little where it has no price yet."""
        return max(float(node.relaxation.prices_M[row]), 1e-9 / max(1, self.whole.limits[row]))


class _Run:
    """One search: what was found so far. ``value``: the best; ``unproved``: bound of nodes that could neither be
    answered nor divided."""

    def __init__(self, search: PairSearch, incumbent: Choice | None, deadline: Deadline) -> None:
        self.deadline = deadline
        self.search, self.whole, self.tie = search, search.whole, search.root.relaxation.allowance
        self.value, self.unproved = np.inf, np.inf
        self.found: list[Choice] = []
        self.tried: set[bytes] = set()
        self.given = incumbent if incumbent is not None and self.whole.feasible(incumbent) else None
        if self.given is not None:
            self.value = self.whole.value(self.given)

    @property
    def ceiling(self) -> float:
        """Nodes above it hold nothing as good as what was found."""
        return self.value + 3 * self.tie

    def divided(self, bound: float, node: Node) -> list[tuple[float, Node]]:
        """Nodes that together hold all that this one may still hold of value, each with a bound."""
        labels = LEAF_LABELS if self.search.to_split(node, None) is None else NODE_LABELS
        solution = solve(node.program, node.relaxation, below=self.value, max_labels=labels, deadline=self.deadline)
        if solution.complete and solution.choice is None:
            return []
        bound = max(bound, solution.bound)
        choice = self.search.whole_choice(node, solution.choice)
        kept = self._offer(choice)
        if kept and solution.complete and self._value_lack(node, choice) <= self.tie:
            return []
        if not kept:
            self._repair(node, choice)
        self._try_classes_of(choice)
        block = self.search.to_split(node, choice)
        if block is None:
            renewed = self.search.told_whole(node, choice)
            if renewed is not None:
                return [(max(bound, renewed.relaxation.bound), renewed)]
            if self._fits(node):
                self.unproved = min(self.unproved, bound)
            return []
        children = self.search.children(node, block, int(self.search.pairs.classes(choice)[block]))
        bounded = [(max(bound, child.relaxation.bound), child) for child in children]
        return [(above, child) for above, child in bounded if above <= self.ceiling]

    def best(self) -> Choice | None:
        """Of equal choices the preferred one."""

        def rule(choice: Choice) -> tuple[object, ...]:
            pairs = [bits[number].tolist() for bits, number in zip(self.whole.bits, choice, strict=True)]
            preferred = [[(-min(pair), -pair[0], -pair[1]) for pair in some] for some in pairs]
            return self.whole.costs(choice), preferred, choice

        return min(self.found, key=rule, default=self.given)

    def _offer(self, choice: Choice) -> bool:
        """Note a choice; False where it breaks a limit."""
        if not self.whole.feasible(choice):
            return False
        self.value = min(self.value, self.whole.value(choice))
        self.found = [one for one in (*self.found, choice) if self.whole.value(one) <= self.value + self.tie]
        return True

    def _fits(self, node: Node) -> bool:
        """False where the least of all blocks' and pairs' open options takes more than a limit."""
        open_N = node.open_S[self.search.pairs.slot_N]
        cost_MN = np.where(open_N, self.whole.cost_MN, np.iinfo(np.int64).max)
        least = np.minimum.reduceat(cost_MN, self.whole.start_B1[:-1], axis=1).sum(axis=1).tolist()
        for table in self.whole.tables:
            if table.row is not None:
                first, second = (node.open_S[self.search.pairs.slots(end)] for end in (table.first, table.second))
                least[table.row] += int(table.cost_CD[np.ix_(first, second)].min())
        return all(taken <= limit for taken, limit in zip(least, self.whole.limits, strict=True))

    def _value_lack(self, node: Node, choice: Choice) -> float:
        """By how much a node's relaxation undervalues a choice."""
        lacks = zip(self.search.pairs.lacks_at(node.halves, choice), self.whole.tables, strict=True)
        return sum(lack for lack, table in lacks if table.row is None)

    def _repair(self, node: Node, choice: Choice) -> None:
        """Limits tightened by what a choice takes too much, until one keeps the true limits."""
        for _ in range(REPAIRS):
            if self.deadline.left_s == 0:
                return
            program = self.search.tightened(node, choice)
            relaxation = relax(program)
            if relaxation.bound > self.ceiling:
                return
            found = solve(program, relaxation, gap=REPAIR_GAP, max_labels=REPAIR_LABELS, deadline=self.deadline).choice
            if found is None:
                return
            choice = self.search.whole_choice(node, found)
            if self._offer(choice):
                self._try_classes_of(choice)
                return

    def _try_classes_of(self, choice: Choice) -> None:
        """The best choice with exactly these classes keeps the limits and is often one of the best."""
        class_B = self.search.pairs.classes(choice)
        if class_B.tobytes() in self.tried:
            return
        self.tried.add(class_B.tobytes())
        node = self.search.only(class_B)
        if node.relaxation.bound <= self.ceiling:
            solution = solve(
                node.program, node.relaxation, below=self.value, max_labels=NODE_LABELS, deadline=self.deadline
            )
            if solution.choice is not None:
                self._offer(self.search.whole_choice(node, solution.choice))
