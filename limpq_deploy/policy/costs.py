"""What a policy costs, in exact integers: additive costs over layers, each with a unit, and what a limit of one is."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from itertools import product
from math import floor
from typing import Any, Protocol

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import bits_of
from limpq_deploy.export.records.placement import BLOCK_SCALE_BITS, BLOCKED_BITS, BitPair
from limpq_deploy.policy.indicators import Indicators

Pairs = Mapping[str, tuple[int, int]]
"""(weight_bits, act_bits) by layer name, as `Policy.pairs` gives them."""

G, MIB = 10**9, 2**23
"""BitOps in one G, and bits in one MiB (2^20 bytes)."""

Number = int | float | str | Decimal | Fraction


class LayerShape(Protocol):
    """What a cost reads of a layer: multiply-accumulates for one image, and weights without the bias."""

    @property
    def name(self) -> str: ...
    @property
    def macs(self) -> int: ...
    @property
    def num_weights(self) -> int: ...


class Handover(Protocol):
    """What a cost takes between two or more searched ``layers``, by the bits of all. ``precision``: a name for
    everything that it reads of one layer's bits; pairs of one precision cost the same."""

    @property
    def layers(self) -> tuple[str, ...]: ...
    def precision(self, layer: str, pair: BitPair) -> Hashable: ...
    def between(self, *pairs: BitPair) -> int: ...


class Cost(Protocol):
    """A cost that adds up over layers. ``pinned``: whether pinned layers count, as a constant. A cost may have a
    ``constant`` of its own, which counts besides (an int, in its unit), and ``handovers`` between its layers."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def pinned(self) -> bool: ...
    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BitOps:
    """``macs * weight_bits * act_bits`` for one image, over the searched layers or over all."""

    pinned: bool

    @property
    def name(self) -> str:
        return "bitops" if self.pinned else "bitops_searched"

    @property
    def unit(self) -> str:
        return "BitOps"

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return layer.macs * bits_of(weight_bits) * bits_of(act_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSize:
    """``num_weights * weight_bits``, pinned layers included; biases and scales are not counted, but for scales of
    blocks: one of 16 bits for every ``block`` weights of at most 4 bits."""

    @property
    def name(self) -> str:
        return "size"

    @property
    def unit(self) -> str:
        return "bits"

    @property
    def pinned(self) -> bool:
        return True

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        block: int | None = getattr(layer, "block", None)
        blocks = layer.num_weights // block if block is not None and weight_bits <= BLOCKED_BITS else 0
        return layer.num_weights * bits_of(weight_bits) + blocks * BLOCK_SCALE_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """``cost`` may be at most ``limit`` (in the cost's unit). ``option``: what the user asked for.

    A cost is shown to the user as ``cost * multiplier`` in ``figure_unit``, or, where ``inverse``, as
    ``multiplier / cost`` (a compression ratio).
    """

    cost: Cost
    limit: int
    option: str
    figure_unit: str
    multiplier: Fraction
    inverse: bool = False

    def figure(self, used: int) -> str:
        """``used`` in the user's unit with six digits, rounded so that the figure, typed as the limit, admits it."""
        if self.inverse:
            exact, rounding = (self.multiplier / used if used else Fraction(0)), ROUND_FLOOR
        else:
            exact, rounding = used * self.multiplier, ROUND_CEILING
        context = Context(prec=6, rounding=rounding)
        value = context.divide(Decimal(exact.numerator), Decimal(exact.denominator))
        return f"{value.normalize():f} {self.figure_unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A budget as a user asks for it: the ``value`` of an ``option``, for these indicators. ``source``: what was read
    from the file that its costs come from; None where they come from the indicators alone."""

    option: str
    value: Number
    indicators: Indicators
    source: Any = None

    def at_most(self, cost: Cost, unit: str, one: int = 1, *, where: str = "") -> Budget:
        """``value`` times ``one``, the cost of one ``unit``, is the limit. ``where``: said behind the option.

        Raises SettingError unless the value is a number above 0.
        """
        return self.budget(cost, self.limit(one), unit, Fraction(1, one), where=where)

    def limit(self, one: int) -> int:
        """``value`` times ``one``, rounded down."""
        return floor(positive(self.option, self.value) * one)

    def at_least(self, cost: Cost, unit: str, one: int) -> Budget:
        """``one`` divided by the cost is at least ``value``. Raises SettingError as `at_most`."""
        return self.budget(cost, floor(one / positive(self.option, self.value)), unit, Fraction(one), inverse=True)

    def budget(
        self, cost: Cost, limit: int, unit: str, multiplier: Fraction, *, inverse: bool = False, where: str = ""
    ) -> Budget:
        """A budget of this option whose limit is known."""
        return Budget(
            cost=cost,
            limit=limit,
            option=f"{self.option} {self.value}{where}",
            figure_unit=unit,
            multiplier=multiplier,
            inverse=inverse,
        )


def positive(option: str, value: Number) -> Fraction:
    """An option's value, exact. Raises SettingError unless it is a number above 0."""
    try:
        number = Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise SettingError(f"{option} {value!r} is not a number; expected one above 0") from error
    if number <= 0:
        raise SettingError(f"{option} is {value}; expected a number above 0")
    return number


def float_size(indicators: Indicators) -> int:
    """Bits of all weights as 32-bit floats, pinned layers included."""
    searched = sum(layer.num_weights for layer in indicators.layers)
    return 32 * (searched + sum(layer.num_weights for layer in indicators.pinned))


def pinned_cost(cost: Cost, indicators: Indicators) -> int:
    """The constant part of a cost: its own, and that of the pinned layers where they count."""
    own: int = getattr(cost, "constant", 0)
    if not cost.pinned:
        return own
    return own + sum(cost.of_layer(layer, layer.weight_bits, layer.act_bits) for layer in indicators.pinned)


def handovers_of(cost: Cost) -> Sequence[Handover]:
    """What a cost takes between layers; nothing for most costs."""
    found: Sequence[Handover] = getattr(cost, "handovers", ())
    return found


def handed_over(handover: Handover, pairs: Pairs) -> int:
    """What a handover takes of a policy."""
    return handover.between(*(pairs[layer] for layer in handover.layers))


def handover_range(handover: Handover, pairs: Sequence[BitPair]) -> tuple[int, int]:
    """The least and the most that a handover takes, where each of its layers has one of these pairs."""
    unlike = [list({handover.precision(layer, pair): pair for pair in pairs}.values()) for layer in handover.layers]
    taken = [handover.between(*chosen) for chosen in product(*unlike)]
    return min(taken), max(taken)


def total_cost(cost: Cost, indicators: Indicators, pairs: Pairs) -> int:
    """Cost of a whole policy in the cost's unit. Raises KeyError for a searched layer without an entry."""
    searched = sum(cost.of_layer(layer, *pairs[layer.name]) for layer in indicators.layers)
    between = sum(handed_over(one, pairs) for one in handovers_of(cost))
    return searched + between + pinned_cost(cost, indicators)


def cost_change(cost: Cost, indicators: Indicators, pairs: Pairs, changed: Pairs) -> int:
    """What a cost gains when some layers of a policy take other bits, their handovers included."""
    alone = sum(
        cost.of_layer(layer, *changed[layer.name]) - cost.of_layer(layer, *pairs[layer.name])
        for layer in indicators.layers
        if layer.name in changed
    )
    after = {**pairs, **changed} if handovers_of(cost) else pairs
    return alone + sum(
        handed_over(one, after) - handed_over(one, pairs)
        for one in handovers_of(cost)
        if not changed.keys().isdisjoint(one.layers)
    )


def uniform_pairs(indicators: Indicators, weight_bits: int, act_bits: int) -> dict[str, tuple[int, int]]:
    """One pair for every searched layer."""
    return {layer.name: (weight_bits, act_bits) for layer in indicators.layers}
