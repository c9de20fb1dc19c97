"""Search spaces: which pairs of bit-widths layers choose from. All candidates with all candidates is the default.

    w*a*            every candidate for weights, every candidate for activations
    w*a8, w*a32     weights only, activations at one width (32: float)
    w8a*            activations only
    native:TARGET   the pairs that a target's hardware executes (`TargetSpec.native_pairs`; linear layers have
                    ``linear_pairs`` besides, where the indicators record what is a linear layer); FP8 where the
                    indicators know it
    formats:F,G,..  each layer as a whole in one of these `numbers.formats.FORMATS`

Widths that were not learned get an indicator as `widths.with_widths` says: 0 at 16 bits and above, else extrapolated,
and the policy's source says so.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FORMATS, FP8
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import TARGETS
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.widths import SPACE_NOTE, noted, with_widths

NATIVE = "native:"
FORMATS_SPACE = "formats:"
REFUSED = {"nvfp4": " (NVIDIA's compiler takes FP4 with dynamic scales alone, in products, from sm120)"}
"""Why formats that exist are none of these."""

FORMS = "w*a*, w*aN, wNa* with 1 to 32 bits, native:TARGET, or formats:int8,fp8,fp16"


def in_space(indicators: Indicators, space: str | None) -> Indicators:
    """Indicators whose layers choose inside a space, among what they may take anyway.

    Raises SettingError for a space that is not understood, a target without integer pairs, and a layer that may take
    nothing of the space.
    """
    if space is None:
        return indicators
    if space.startswith(NATIVE):
        return _native(indicators, space)
    if space.startswith(FORMATS_SPACE):
        widths = formats_named(space.removeprefix(FORMATS_SPACE).split(","))
        return _narrowed(indicators, space, set(widths), lambda layer: [(width, width) for width in widths])
    match = re.fullmatch(r"w(\*|\d{1,2})a(\*|\d{1,2})", space)
    fixed = [int(text) for text in match.groups() if text != "*"] if match is not None else []
    if match is None or len(fixed) > 1 or not all(1 <= bits <= 32 for bits in fixed):
        raise SettingError(f"--space {space!r} is not understood; expected {FORMS}")
    if not fixed:
        return indicators
    if match[1] == "*":
        return _narrowed(
            indicators, space, set(fixed), lambda layer: [(w, fixed[0]) for w in _candidates(indicators, layer, 0)]
        )
    return _narrowed(
        indicators, space, set(fixed), lambda layer: [(fixed[0], a) for a in _candidates(indicators, layer, 1)]
    )


def formats_named(names: Sequence[str]) -> tuple[int, ...]:
    """Widths of formats by their names, ascending. Raises SettingError for others."""
    for name in names:
        if name not in FORMATS:
            raise SettingError(
                f"formats names {name or 'nothing'!r}; expected some of {', '.join(FORMATS)}{REFUSED.get(name, '')}"
            )
    return tuple(sorted({FORMATS[name] for name in names}))


def _native(indicators: Indicators, space: str) -> Indicators:
    """Every layer with the pairs that a target has for its kind."""
    target = space.removeprefix(NATIVE)
    if target not in TARGETS:
        raise SettingError(f"--space {space} names no target; expected one of {', '.join(TARGETS)}")
    spec = TARGETS[target]
    if len(spec.native_pairs) < 2:
        raise SettingError(f"--space {space} leaves nothing to choose: this target executes floats only")
    native = tuple(pair for pair in spec.native_pairs if FP8 not in pair or FP8 in indicators.bits)
    for_linear = (*native, *spec.linear_pairs)
    offered = {layer.name: for_linear if layer.kind == "linear" else native for layer in indicators.layers}
    widths = {bits for pairs in offered.values() for pair in pairs for bits in pair}
    found = _narrowed(indicators, space, widths, lambda layer: list(offered[layer.name]))
    unknown = [layer.name for layer in indicators.layers if layer.kind is None]
    if not (unknown and spec.linear_pairs):
        return found
    pairs = " and ".join(f"w{weight_bits}a{act_bits}" for weight_bits, act_bits in spec.linear_pairs)
    note = (
        f"{pairs} is for linear layers, and the indicators do not say which of {len(unknown)} layers are: none was "
        "offered it; renew the indicators with `limpq-deploy indicators --fresh`"
    )
    return replace(found, source=noted(found.source, SPACE_NOTE, note))


def _narrowed(
    indicators: Indicators, space: str, widths: set[int], pairs_of: Callable[[LayerIndicators], list[BitPair]]
) -> Indicators:
    """Every layer with these pairs; where a file admits only some pairs, with those among them."""
    admitted: list[tuple[BitPair, ...]] = []
    for layer in indicators.layers:
        pairs = pairs_of(layer)
        if layer.pairs is not None and space.startswith(NATIVE):
            pairs = [pair for pair in pairs if pair in layer.pairs]
            if not pairs:
                raise SettingError(f"layer {layer.name!r} may take no pair of --space {space}; its file admits others")
        admitted.append(tuple(pairs))
    wider = with_widths(indicators, widths)
    return replace(
        wider,
        layers=tuple(replace(layer, pairs=pairs) for layer, pairs in zip(wider.layers, admitted, strict=True)),
        source=noted(wider.source, "space", space),
    )


def _candidates(indicators: Indicators, layer: LayerIndicators, which: int) -> list[int]:
    """Widths that a layer may take: of its weight (0) or of its activation (1)."""
    pairs = product(indicators.bits, indicators.bits) if layer.pairs is None else layer.pairs
    return sorted({pair[which] for pair in pairs})
