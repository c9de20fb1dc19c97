"""The bits that an engine really executes."""

from limpq_deploy.export.records.placement import FLOAT_BITS, BitPair
from limpq_deploy.export.runtimes.base import INTEGER, Engine

EXECUTED_BITS: dict[str, BitPair] = {**dict.fromkeys(INTEGER, (8, 8)), "float16": (16, 16), "bfloat16": (16, 16)}
"""(weight, activation) bits of an engine's layer by its precision; all others are float32."""

UNTOLD = frozenset({"unknown", "absent"})
"""Words of an engine's record for layers of which its inspector tells no precision, and for those that it lacks."""


def executed_bits(engine: Engine) -> dict[str, BitPair]:
    """(weight, activation) bits that the engine executes by layer: an integer layer runs 8 by 8 bits. Without the
    layers of which the engine does not tell it."""
    return {
        name: EXECUTED_BITS.get(precision, (FLOAT_BITS, FLOAT_BITS))
        for name, precision in engine.layer_precision.items()
        if precision not in UNTOLD
    }


def untold_layers(engine: Engine) -> tuple[str, ...]:
    """Layers of which the engine does not tell in which precision it runs them."""
    return tuple(name for name, precision in engine.layer_precision.items() if precision in UNTOLD)
