"""What the user forbids a search: a space of pairs, lower bounds, pinned and tied layers, by name or glob pattern.

A restriction becomes part of the indicators (`LayerIndicators.pairs` and ``tie``), so that everything that reads them,
search, fronts, prices and conflicts, keeps it. A pinned layer stays a searched layer, with one pair to choose from:
it counts in every budget as before. ``source``, and so the policy's, names what was asked.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.admitted import admitted_pairs, components, tie_classes
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.spaces import in_space
from limpq_deploy.policy.widths import noted, with_widths

TENSORS: tuple[str, ...] = ("weight", "act")


def restrict(
    indicators: Indicators,
    *,
    space: str | None = None,
    min_bits: Sequence[str] = (),
    pin: Sequence[str] = (),
    tie: Sequence[str] = (),
) -> Indicators:
    """Indicators under the user's restrictions.

    ``space``: as in `spaces.in_space`. ``min_bits``: ``NAME=4`` (weight and activation), ``NAME.weight=4``,
    ``NAME.act=4``. ``pin``: ``NAME=w8a8``; of several for one layer the last holds, and lower bounds do not touch a
    pinned layer. ``tie``: names, separated by commas, of layers that share weight and activation bits. A NAME may be a
    glob pattern (``layer1.*``), of which ``*`` matches dots too. Pins at widths that were not learned get an indicator
    as `widths.with_widths` says.

    Raises SettingError for text that is not understood, a name that matches no searched layer (with near ones), a bound
    that no candidate meets, ties that overlap, and restrictions that leave a layer nothing.
    """
    indicators = in_space(indicators, space)
    if not (min_bits or pin or tie):
        return indicators
    ties = _ties(indicators, tie)
    tied = [replace(layer, tie=ties.get(layer.name, layer.tie)) for layer in indicators.layers]
    pinned = _spread(_pins(indicators, pin), tied)
    bounds = _bounds(indicators, min_bits)
    wider = with_widths(replace(indicators, layers=tuple(tied)), {width for pair in pinned.values() for width in pair})
    layers = [
        replace(layer, pairs=(pinned[layer.name],))
        if layer.name in pinned
        else _bounded(layer, bounds.get(layer.name, (0, 0)), indicators.bits)
        for layer in wider.layers
    ]
    given = {"min_bits": list(min_bits), "pin": list(pin), "tie": list(tie)}
    restricted = replace(
        wider,
        layers=tuple(_as_pinned_neighbours(layers, pinned)),
        source=noted(wider.source, "restrictions", {name: texts for name, texts in given.items() if texts}),
    )
    admitted_pairs(restricted)
    return restricted


def matching(indicators: Indicators, pattern: str, option: str) -> list[str]:
    """Names of the searched layers that a name or glob pattern means, at least one. Raises SettingError."""
    names = [layer.name for layer in indicators.layers]
    found = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
    if found:
        return found
    if pattern in (layer.name for layer in indicators.pinned):
        raise SettingError(
            f"{option} names {pattern!r}, which is pinned in the indicators file already; leave it away or renew the "
            "file with other --pinned-bits"
        )
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"its layers are {_listed(names)}"
    raise SettingError(f"{option} {pattern!r} matches no searched layer of {indicators.model!r}; {hint}")


def _bounds(indicators: Indicators, texts: Sequence[str]) -> dict[str, BitPair]:
    """Least (weight_bits, act_bits) by layer; of several bounds the highest."""
    found: dict[str, BitPair] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or re.fullmatch(r"\d{1,2}", number) is None:
            raise SettingError(
                f"--min-bits {text!r} is not understood; expected NAME=BITS, NAME.weight=BITS or NAME.act=BITS"
            )
        tensors, bits = TENSORS, int(number)
        stem, _, tensor = name.rpartition(".")
        if tensor in TENSORS and name not in {layer.name for layer in indicators.layers}:
            name, tensors = stem, (tensor,)
        for layer in matching(indicators, name, "--min-bits"):
            weight_bits, act_bits = found.get(layer, (0, 0))
            found[layer] = (
                max(weight_bits, bits if "weight" in tensors else 0),
                max(act_bits, bits if "act" in tensors else 0),
            )
    return found


def _pins(indicators: Indicators, texts: Sequence[str]) -> dict[str, BitPair]:
    found: dict[str, BitPair] = {}
    for text in texts:
        match = re.fullmatch(r"(.+)=w(\d{1,2})a(\d{1,2})", text)
        if match is None or not all(1 <= int(bits) <= 32 for bits in match.groups()[1:]):
            raise SettingError(
                f"--pin {text!r} is not understood; expected NAME=wNaM with 1 to 32 bits, such as a=w8a8"
            )
        for layer in matching(indicators, match[1], "--pin"):
            found[layer] = int(match[2]), int(match[3])
    return found


def _ties(indicators: Indicators, texts: Sequence[str]) -> dict[str, str]:
    before = {layer.name: layer.tie for layer in indicators.layers if layer.tie is not None}
    found: dict[str, str] = {}
    for text in texts:
        names = [name for part in text.split(",") for name in matching(indicators, part.strip(), "--tie")]
        names = list(dict.fromkeys(names))
        if len(names) < 2:
            raise SettingError(f"--tie {text!r} matches only {names[0]!r}; expected two layers or more")
        for name in names:
            if name in found or name in before:
                other = found.get(name) or before[name]
                raise SettingError(f"--tie {text!r} and the tie {other!r} both hold {name!r}; make one of them")
            found[name] = text
    return found


def _bounded(layer: LayerIndicators, bound: BitPair, bits: Sequence[int]) -> LayerIndicators:
    if bound == (0, 0):
        return layer
    pairs = tuple(
        pair
        for pair in (product(bits, bits) if layer.pairs is None else layer.pairs)
        if pair[0] >= bound[0] and pair[1] >= bound[1]
    )
    if not pairs:
        raise SettingError(
            f"--min-bits asks for at least w{bound[0]}a{bound[1]} in layer {layer.name!r}, and no candidate is that "
            f"wide; the widths are {_listed(bits)}"
        )
    return replace(layer, pairs=pairs)


def _spread(pinned: dict[str, BitPair], layers: Sequence[LayerIndicators]) -> dict[str, BitPair]:
    """Pins, where those of one tied layer hold for all. Raises SettingError where they differ."""
    spread: dict[str, BitPair] = {}
    for unit in tie_classes(layers):
        found = {pinned[layer.name]: layer.name for layer in unit if layer.name in pinned}
        if len(found) > 1:
            first, second = list(found.values())[:2]
            raise SettingError(f"--pin gives {first!r} and {second!r} different bits, but they are tied; give one pair")
        spread.update({layer.name: pair for pair in found for layer in unit})
    return spread


def _as_pinned_neighbours(layers: Sequence[LayerIndicators], pinned: dict[str, BitPair]) -> Iterator[LayerIndicators]:
    """Layers, where a pin's activation width holds for all that read the same tensor. Raises SettingError where two
    pins want different widths of one tensor."""
    acts: dict[str, int] = {}
    for group in components(layers):
        found = {pinned[layer.name][1]: layer.name for layer in group if layer.name in pinned}
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise SettingError(
                f"--pin gives {first!r} {one} and {second!r} {other} activation bits, but both share one activation "
                "bit-width; give them the same"
            )
        acts.update({layer.name: act_bits for act_bits in found for layer in group if layer.name not in pinned})
    for layer in layers:
        act_bits = acts.get(layer.name)
        if act_bits is None or layer.pairs is None:  # None: every width, that one too
            yield layer
        else:
            yield replace(layer, pairs=tuple(dict.fromkeys((weight_bits, act_bits) for weight_bits, _ in layer.pairs)))


def _listed(items: Sequence[object]) -> str:
    shown = ", ".join(map(str, items[:6]))
    return shown if len(items) <= 6 else f"{shown} and {len(items) - 6} more"
