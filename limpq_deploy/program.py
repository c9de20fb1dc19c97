"""The integer program of LIMPQ as blocks: pick one option of every block, at the least value, within every row.

    minimise  sum_l alpha * I_w[l][w_l] + I_a[l][a_l]     subject to     sum_l cost_j(l, w_l, a_l) <= limit_j

A block is one layer, or the layers of one ``act_group``: they have one activation bit-width, whose indicator counts
once. (Tang et al., Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance, ECCV 2022.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.costs import Budget, pinned_cost
from limpq_deploy.indicators import Indicators, LayerIndicators
from limpq_deploy.outliers import Importance
from limpq_deploy.pareto import undominated

MAX_OPTIONS = 20_000
"""Options of one block. A layer has at most (number of bits)^2; only an act_group of many unlike layers gets near."""

MAX_COST = 2**60
"""Largest cost of any policy, so that sums fit 64-bit integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to quantize a block: its share of the objective, its cost in every row, and the (weight_bits, act_bits)
    of its layers."""

    value: float
    costs: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Layers that are decided together; ``options`` by ascending value, none dominated by another."""

    layers: tuple[str, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Blocks and limits, exact.

    Every row is divided by the common divisor of its costs (``steps``) after the pinned layers' constant went to the
    other side, so that neighbouring integers are as far apart as they can be beside a solver's tolerance.
    """

    blocks: tuple[Block, ...]
    limits: tuple[int, ...]
    steps: tuple[int, ...]

    def smallest(self, row: int) -> int:
        """The least that any choice of options costs in a row."""
        return sum(min(option.costs[row] for option in block.options) for block in self.blocks)

    def costs(self, choice: Sequence[int]) -> tuple[int, ...]:
        """Cost of a choice (one option number per block) in every row."""
        chosen = [block.options[number].costs for block, number in zip(self.blocks, choice, strict=True)]
        return tuple(sum(column) for column in zip(*chosen, strict=True))

    def feasible(self, choice: Sequence[int]) -> bool:
        return all(cost <= limit for cost, limit in zip(self.costs(choice), self.limits, strict=True))


def build_program(
    indicators: Indicators, importance: Importance, budgets: Sequence[Budget], *, alpha: float
) -> Program:
    """The program of these indicators and budgets. Raises SettingError where costs are beyond all reason."""
    raw = [
        (tuple(layer.name for layer in layers), _block_options(layers, indicators.bits, importance, budgets, alpha))
        for layers in _tied(indicators.layers)
    ]
    steps = [gcd(*(option.costs[row] for _, options in raw for option in options)) or 1 for row in range(len(budgets))]
    limits = []
    for row, budget in enumerate(budgets):
        largest = sum(max(option.costs[row] for option in options) for _, options in raw)
        if largest > MAX_COST:
            raise _absurd()
        limits.append(min(budget.limit - pinned_cost(budget.cost, indicators), largest) // steps[row])
    blocks = tuple(
        Block(
            layers=names,
            options=tuple(
                Option(
                    value=option.value,
                    costs=tuple(cost // step for cost, step in zip(option.costs, steps, strict=True)),
                    pairs=option.pairs,
                )
                for option in options
            ),
        )
        for names, options in raw
    )
    return Program(blocks=blocks, limits=tuple(limits), steps=tuple(steps))


def _worth_keeping(options: Sequence[Option]) -> list[Option]:
    """Options that no other matches or beats, by ascending value.

    Of options equal in value and costs, that with the larger min(w, a), then the larger weight bits, stays. Only
    options that exclude each other and leave the rest of the program alone may be compared.
    """
    ranked = sorted(options, key=lambda option: [(-min(pair), -pair[0]) for pair in option.pairs])
    if not all(cost <= MAX_COST for option in ranked for cost in option.costs):
        raise _absurd()
    kept = undominated(
        np.array([option.value for option in ranked]), np.array([option.costs for option in ranked], np.int64)
    )
    return [ranked[index] for index in kept]


def _absurd() -> SettingError:
    return SettingError("a policy of these layers costs more than 2^60; their macs or num_weights must be wrong")


def _tied(layers: Sequence[LayerIndicators]) -> list[list[LayerIndicators]]:
    groups: dict[object, list[LayerIndicators]] = {}
    for layer in layers:
        key = (layer.name,) if layer.act_group is None else layer.act_group
        groups.setdefault(key, []).append(layer)
    return list(groups.values())


def _block_options(
    layers: Sequence[LayerIndicators],
    bits: Sequence[int],
    importance: Importance,
    budgets: Sequence[Budget],
    alpha: float,
) -> list[Option]:
    """Options of a block over all activation widths. Inside one width, the layers are joined one by one and what is
    dominated is dropped on the way: partial options of one width have the same continuations."""
    options: list[Option] = []
    for act_bits, act_value in zip(bits, importance.act[layers[0].name], strict=True):
        if act_value is None:
            continue
        joined = [Option(value=act_value, costs=(0,) * len(budgets), pairs=())]
        for layer in layers:
            own = _weight_options(layer, bits, act_bits, importance, budgets, alpha)
            joined = _worth_keeping([_join(left, right) for left in joined for right in own])
            if len(joined) > MAX_OPTIONS:
                names = ", ".join(layer.name for layer in layers)
                raise SettingError(f"act_group {layer.act_group!r} ties too many unlike layers ({names}); tie fewer")
        options += joined
    return _worth_keeping(options)


def _weight_options(
    layer: LayerIndicators,
    bits: Sequence[int],
    act_bits: int,
    importance: Importance,
    budgets: Sequence[Budget],
    alpha: float,
) -> list[Option]:
    return [
        Option(
            value=alpha * value,
            costs=tuple(budget.cost.of_layer(layer, weight_bits, act_bits) for budget in budgets),
            pairs=((weight_bits, act_bits),),
        )
        for weight_bits, value in zip(bits, importance.weight[layer.name], strict=True)
        if value is not None
    ]


def _join(left: Option, right: Option) -> Option:
    return Option(
        value=left.value + right.value,
        costs=tuple(a + b for a, b in zip(left.costs, right.costs, strict=True)),
        pairs=left.pairs + right.pairs,
    )
