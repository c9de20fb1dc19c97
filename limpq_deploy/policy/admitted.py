"""Which bit-widths a layer may take, and which layers are decided together."""

from collections.abc import Sequence
from itertools import product

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8, whole
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.indicators import Indicators, LayerIndicators


def components(layers: Sequence[LayerIndicators]) -> list[list[LayerIndicators]]:
    """Layers that are decided together, each list where its first layer stands.

    Layers of one ``act_group`` or of one ``tie`` are, and so are those that several of these connect. All of them then
    have one activation bit-width.
    """
    root: dict[tuple[str, str], tuple[str, str]] = {}

    def find(label: tuple[str, str]) -> tuple[str, str]:
        while root.setdefault(label, label) != label:
            label = root[label]
        return label

    for layer in layers:
        if layer.act_group is not None and layer.tie is not None:
            root[find(("act_group", layer.act_group))] = find(("tie", layer.tie))
    groups: dict[tuple[str, str], list[LayerIndicators]] = {}
    for layer in layers:
        if layer.tie is not None:
            key = find(("tie", layer.tie))
        elif layer.act_group is not None:
            key = find(("act_group", layer.act_group))
        else:
            key = ("layer", layer.name)
        groups.setdefault(key, []).append(layer)
    return list(groups.values())


def tie_classes(layers: Sequence[LayerIndicators]) -> list[list[LayerIndicators]]:
    """Layers that share both bit-widths; a layer without a tie is alone."""
    classes: dict[tuple[str, str], list[LayerIndicators]] = {}
    for layer in layers:
        key = ("layer", layer.name) if layer.tie is None else ("tie", layer.tie)
        classes.setdefault(key, []).append(layer)
    return list(classes.values())


def admitted_pairs(indicators: Indicators) -> dict[str, frozenset[BitPair]]:
    """(weight_bits, act_bits) that a layer may take, by name; a layer that may take all candidates is left out.

    FP8 is taken for both or for neither. Layers that share bit-widths may take what all of them admit. Raises
    SettingError where that is nothing.
    """
    if all(layer.pairs is None for layer in indicators.layers) and FP8 not in indicators.bits:
        return {}
    everything = frozenset(filter(whole, product(indicators.bits, indicators.bits)))
    found: dict[str, frozenset[BitPair]] = {}
    for layers in components(indicators.layers):
        if all(layer.pairs is None for layer in layers) and FP8 not in indicators.bits:
            continue
        classes = tie_classes(layers)
        admitted = [
            frozenset.intersection(everything, *(frozenset(one.pairs) for one in tied if one.pairs is not None))
            for tied in classes
        ]
        acts = frozenset.intersection(*(frozenset(act for _, act in pairs) for pairs in admitted))
        for tied, pairs in zip(classes, admitted, strict=True):
            common = frozenset(pair for pair in pairs if pair[1] in acts)
            if not common:
                raise nothing_in_common(layers)
            found.update({layer.name: common for layer in tied})
    return found


def nothing_in_common(layers: Sequence[LayerIndicators]) -> SettingError:
    """What is said where layers that are decided together, or one alone, have no bit-widths left."""
    names = ", ".join(layer.name for layer in layers[:4]) + (", ..." if len(layers) > 4 else "")
    if len(layers) == 1:
        return SettingError(
            f"layer {names} may take no bit-widths: what --min-bits, --pin or --space leave are outlier entries; "
            "loosen them or give --outliers repair"
        )
    return SettingError(
        f"layers {names} share bit-widths, but --min-bits, --pin, --space and outliers leave none that all of them may "
        "take; give them the same bounds"
    )
