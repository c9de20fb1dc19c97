"""The bits that an engine really executes."""

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.records.placement import FLOAT_BITS, BitPair
from limpq_deploy.export.runtimes.base import INTEGER, Engine

EXECUTED_BITS: dict[str, BitPair] = {
    **dict.fromkeys(INTEGER, (8, 8)),
    **{"float8": (FP8, FP8), "float16": (16, 16), "bfloat16": (16, 16)},
}
"""(weight, activation) bits of an engine's layer by its precision; all others are float32."""

PRECISION_UNKNOWN = frozenset({"unknown", "absent"})
"""Words of an engine's record for layers whose precision its inspector does not report, and for those that it lacks."""


def executed_bits(engine: Engine) -> dict[str, BitPair]:
    """(weight, activation) widths that the engine executes by layer: an integer layer runs 8 by 8 bits, and so does one
    in FP8, whose products are those of floats. Layers of unknown precision are left out."""
    return {
        name: EXECUTED_BITS.get(precision, (FLOAT_BITS, FLOAT_BITS))
        for name, precision in engine.layer_precision.items()
        if precision not in PRECISION_UNKNOWN
    }


def layers_of_unknown_precision(engine: Engine) -> tuple[str, ...]:
    """Layers whose precision the engine does not report, or that it lacks."""
    return tuple(name for name, precision in engine.layer_precision.items() if precision in PRECISION_UNKNOWN)
