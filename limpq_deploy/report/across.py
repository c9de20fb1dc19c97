"""What the pictures of fronts have across: a cost of policies by its name."""

from collections.abc import Callable
from dataclasses import dataclass

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import bits_of
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.policy.costs import BitOps, G, Pairs, WeightSize, total_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.latency_cost import latency_cost

NAMES = ("bitops", "size", "bytes", "latency")
BITOPS = "bitops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """A cost: its ``title`` with the unit, the ``unit`` alone, and what a policy costs in it."""

    name: str
    title: str
    unit: str
    of: Callable[[Pairs], float]


def across(name: str, indicators: Indicators, table: LatencyTable | None = None) -> Across:
    """One of `NAMES`. Raises SettingError where the indicators do not say how large activations are (bytes), or no
    table predicts times (latency)."""
    if name == "size":

        def size(pairs: Pairs) -> float:
            return total_cost(WeightSize(), indicators, pairs) / 2**23

        return Across(name=name, title="MiB of weights at their bits, pinned layers included", unit="MiB", of=size)
    if name == "bytes":
        lacking = next((layer.name for layer in indicators.layers if layer.act_elements is None), None)
        if lacking is not None:
            raise SettingError(
                f"--x bytes needs the sizes of activations, which the indicators lack (layer {lacking!r}); learn them "
                "again with `limpq-deploy indicators`, or draw against bitops or size"
            )

        def read(pairs: Pairs) -> float:
            layers = ((layer, pairs[layer.name]) for layer in indicators.layers)
            return (
                sum(one.num_weights * bits_of(w) + (one.act_elements or 0) * bits_of(a) for one, (w, a) in layers)
                / 2**23
            )

        title = "MiB that the searched layers read, weights and activations at their bits"
        return Across(name=name, title=title, unit="MiB", of=read)
    if name == "latency":
        if table is None:
            raise SettingError("--x latency needs measured times; give --latency-table FILE.json")
        cost = latency_cost(indicators, table)
        return Across(
            name=name,
            title="predicted latency, ms",
            unit="ms",
            of=lambda pairs: total_cost(cost, indicators, pairs) / 1e6,
        )
    if name != BITOPS:
        raise SettingError(f"--x is {name!r}; expected {', '.join(NAMES)}")
    return Across(
        name=name,
        title="G BitOps, pinned layers included",
        unit="G BitOps",
        of=lambda pairs: total_cost(BitOps(pinned=True), indicators, pairs) / G,
    )
