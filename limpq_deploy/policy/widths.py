"""Bit-widths that no training has seen: indicators of 0 at 16 bits and above, else read off the learned ones."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import exp, log
from typing import Any

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.indicators import Indicators, LayerIndicators

SPACE_NOTE = "space_note"
"""Key of a source under which a search space says what it could not know."""

LOSSLESS_BITS = 16
"""From here on a width costs no accuracy that is worth counting."""


def with_widths(indicators: Indicators, widths: Collection[int]) -> Indicators:
    """Indicators that know these widths too. Layers go on choosing among the widths that they had.

    An indicator at 16 bits and above is 0; one of another new width is `estimated` from the learned ones, and
    ``source`` says so under ``extrapolated`` (layers keep no trace of their training: first values and rival measures
    know the learned widths only). Raises SettingError for a width outside 1 to 32.
    """
    new = sorted(set(widths) - set(indicators.bits))
    if not new:
        return indicators
    if FP8 in new:
        raise SettingError(
            f"the indicators of {indicators.model!r} do not know FP8 (the width 9), of which no other width tells "
            "anything; build with --formats int8,fp8"
        )
    if not 1 <= new[0] <= new[-1] <= 32:
        raise SettingError(f"a width of {new[0] if new[0] < 1 else new[-1]} bits makes no sense; expected 1 to 32")
    bits = tuple(sorted({*indicators.bits, *new}))
    before = tuple(product(indicators.bits, indicators.bits))
    guesses = guessed_widths(indicators)
    learned = [width for width in indicators.bits if width < LOSSLESS_BITS and width not in guesses]
    guesses = sorted({*guesses, *(width for width in new if width < LOSSLESS_BITS)})
    source = indicators.source
    if guesses:
        source = noted(source, "extrapolated", {"bits": guesses, "from_bits": learned})
    return replace(
        indicators,
        bits=bits,
        layers=tuple(
            _wider(layer, indicators.bits, learned, bits, layer.pairs or before) for layer in indicators.layers
        ),
        source=source,
    )


def knowing(indicators: Indicators, *policies: Mapping[str, BitPair]) -> Indicators:
    """Indicators with an entry at every width of given policies, so that they can be priced: as `with_widths`, but a
    layer that could take every pair still can."""
    wider = with_widths(indicators, {width for pairs in policies for pair in pairs.values() for width in pair})
    before = {layer.name: layer.pairs for layer in indicators.layers}
    return replace(wider, layers=tuple(replace(layer, pairs=before[layer.name]) for layer in wider.layers))


def guessed_note(indicators: Indicators, *policies: Mapping[str, BitPair]) -> str | None:
    """Which importance these policies take that no training gave; None where all of it was learned, or is 0 by its
    width."""
    used = {width for pairs in policies for pair in pairs.values() for width in pair}
    guessed = [width for width in guessed_widths(indicators) if width in used]
    if not guessed:
        return None
    learned = [width for width in indicators.bits if width < LOSSLESS_BITS and width not in guessed_widths(indicators)]
    missing, known = (", ".join(map(str, widths)) for widths in (guessed, learned))
    return (
        f"no importance was learned at {missing} bits: objectives are estimates, extrapolated from {known or 'no'} bits"
    )


def guessed_widths(indicators: Indicators) -> list[int]:
    """Widths whose indicators are no training's, as ``source`` says."""
    note = indicators.source.get("extrapolated") if isinstance(indicators.source, dict) else None
    return [int(width) for width in note["bits"]] if isinstance(note, dict) and "bits" in note else []


def source_notes(source: Any) -> list[str]:
    """What a source says of indicators that no training gave, in sentences for people."""
    found = source if isinstance(source, dict) else {}
    notes = [found[SPACE_NOTE]] if isinstance(found.get(SPACE_NOTE), str) else []
    guessed = found.get("extrapolated")
    if isinstance(guessed, dict) and guessed.get("bits"):
        bits, learned = (", ".join(map(str, guessed.get(key) or ())) for key in ("bits", "from_bits"))
        notes.append(f"no importance was learned at {bits} bits: it is extrapolated from {learned or 'nothing'} bits")
    return notes


def estimated(bits: Sequence[int], values: Sequence[float], width: int) -> float:
    """Indicator at a width that was not learned, from those that were (``bits`` ascending).

    Between two learned widths: on the geometric line between them. Outside: on the geometric line fitted to all of them
    by least squares, log s = a + b * bits, but no larger than the widest learned one (no smaller than the narrowest).
    Zeros have no logarithm: with fewer than two other values, a bit less doubles the nearest value, as it does a step.
    """
    if width >= LOSSLESS_BITS or not bits:
        return 0.0
    known = dict(zip(bits, values, strict=True))
    below = [bit for bit in known if bit <= width]
    above = [bit for bit in known if bit >= width]
    if below and above:
        low, high = known[below[-1]], known[above[0]]
        if below[-1] == above[0] or low <= 0 or high <= 0:
            return min(low, high)
        share = (width - below[-1]) / (above[0] - below[-1])
        return exp((1 - share) * log(low) + share * log(high))
    nearest = below[-1] if below else above[0]
    positive = {bit: log(value) for bit, value in known.items() if value > 0}
    if len(positive) < 2 or known[nearest] <= 0:
        return float(known[nearest] * 2.0 ** (nearest - width))
    mean_bits, mean_log = (sum(some) / len(positive) for some in (positive, positive.values()))
    slope = sum((bit - mean_bits) * (value - mean_log) for bit, value in positive.items())
    slope /= sum((bit - mean_bits) ** 2 for bit in positive)
    line = exp(min(mean_log + slope * (width - mean_bits), 600.0))
    return min(line, known[nearest]) if below else max(line, known[nearest])


def noted(source: Any, key: str, value: Any) -> dict[str, Any]:
    """A source with one more fact; a source that is no object is kept as ``source``."""
    return {**(source if isinstance(source, dict) else {"source": source}), key: value}


def _wider(
    layer: LayerIndicators,
    before: tuple[int, ...],
    learned: Sequence[int],
    bits: tuple[int, ...],
    pairs: tuple[BitPair, ...],
) -> LayerIndicators:
    def values(entries: tuple[float, ...]) -> tuple[float, ...]:
        known = dict(zip(before, entries, strict=True))
        seen = [known[width] for width in learned]
        return tuple(known[width] if width in known else estimated(learned, seen, width) for width in bits)

    return replace(
        layer,
        weight=values(layer.weight),
        act=values(layer.act),
        pairs=pairs,
        weight_init=None,
        act_init=None,
        measures=None,
    )
