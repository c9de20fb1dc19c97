"""Average bit-widths, and the memory that activations take while the model runs, as costs and budgets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.formats import bits_of
from limpq_deploy.policy.costs import MIB, Asked, Budget, LayerShape
from limpq_deploy.policy.indicators import ActMoment
from limpq_deploy.policy.objective import group_leaders

Recorded = TypeVar("Recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBits:
    """``num_weights * weight_bits`` of the searched layers; divided by their weights: bits of a weight on average."""

    @property
    def name(self) -> str:
        return "weight_bits_searched"

    @property
    def unit(self) -> str:
        return "bits"

    @property
    def pinned(self) -> bool:
        return False

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return layer.num_weights * bits_of(weight_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActBits:
    """``act_elements * act_bits`` of the tensors that searched layers read; divided by their elements: bits of an
    activation on average. ``elements``: by layer; a tensor that several layers read stands at the first."""

    elements: Mapping[str, int]

    @property
    def name(self) -> str:
        return "act_bits_searched"

    @property
    def unit(self) -> str:
        return "bits"

    @property
    def pinned(self) -> bool:
        return False

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return self.elements.get(layer.name, 0) * bits_of(act_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActMemory:
    """Bits of all activations in memory at one moment, for one image, codes packed to their width."""

    moment: ActMoment

    @property
    def name(self) -> str:
        return f"act_memory at {self.moment.name}"

    @property
    def unit(self) -> str:
        return "bits"

    @property
    def pinned(self) -> bool:
        return False

    @property
    def constant(self) -> int:
        return self.moment.fixed_bits

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return self.moment.tensors.get(layer.name, 0) * bits_of(act_bits)


def weight_bits_budget(asked: Asked) -> Budget:
    """Bits of a weight on average over the searched layers, each weight counting once."""
    total = sum(layer.num_weights for layer in asked.indicators.layers)
    return asked.at_most(WeightBits(), "bits per weight", max(total, 1))


def act_bits_budget(asked: Asked) -> Budget:
    """Bits of an activation on average over the tensors that searched layers read, each element counting once.

    Raises ModelError where the indicators do not know the tensors' sizes.
    """
    leaders = group_leaders(asked.indicators)
    elements = {
        layer.name: _recorded(layer.act_elements, "act_elements", asked)
        for layer in asked.indicators.layers
        if leaders[layer.name] == layer.name
    }
    return asked.at_most(ActBits(elements=elements), "bits per activation", max(sum(elements.values()), 1))


def act_memory_budgets(asked: Asked) -> tuple[Budget, ...]:
    """At no moment do activations of one image take more memory than ``value`` MiB (2^20 bytes).

    One budget per moment, without those that another one implies and those that the widest candidates everywhere keep
    (of which the largest stays, where all are such). Raises ModelError where the indicators do not know the moments.
    """
    limit = asked.limit(MIB)
    moments = _recorded(asked.indicators.moments, "moments", asked)
    widest = bits_of(asked.indicators.bits[-1])

    def most(moment: ActMoment) -> int:
        return moment.fixed_bits + widest * sum(moment.tensors.values())

    by_size = sorted(moments, key=lambda moment: (-most(moment), moment.name))
    kept: list[ActMoment] = []
    for moment in by_size[:1] + [one for one in by_size[1:] if most(one) > limit]:
        if not any(_implies(other, moment) for other in kept):
            kept.append(moment)
    return tuple(
        asked.at_most(ActMemory(moment=moment), "MiB of activations", MIB, where=f" (at {moment.name})")
        for moment in kept
    )


def _implies(larger: ActMoment, smaller: ActMoment) -> bool:
    """Whether no policy takes more at ``smaller`` than at ``larger``."""
    return larger.fixed_bits >= smaller.fixed_bits and all(
        larger.tensors.get(name, 0) >= elements for name, elements in smaller.tensors.items()
    )


def _recorded(value: Recorded | None, field: str, asked: Asked) -> Recorded:
    if value is None:
        raise ModelError(
            f"{asked.option} {asked.value} needs {field!r} in the indicators of {asked.indicators.model!r}, which an "
            "older version or another program wrote without; renew them with `limpq-deploy indicators --fresh`"
        )
    return value
