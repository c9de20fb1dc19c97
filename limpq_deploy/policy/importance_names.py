"""The importance measures by name, and indicators read by one of them. No torch here."""

from dataclasses import dataclass, replace
from typing import Any

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.outliers import OutlierMode

SCALE = "scale"
"""The paper's: the learned scale itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureInfo:
    """``alpha``: weight of weights against activations where nothing else is asked for: 2 for learned scales, as in the
    paper; 1 where both are measured in one unit. ``outliers``: the treatment of entries that grow with the bits."""

    alpha: float
    outliers: OutlierMode
    what: str


MEASURES: dict[str, MeasureInfo] = {
    SCALE: MeasureInfo(alpha=2.0, outliers="forbid", what="the learned scale (Tang et al., LIMPQ, ECCV 2022)"),
    "kl": MeasureInfo(alpha=1.0, outliers="repair", what="divergence of the logits with this tensor alone at b bits"),
    "loss": MeasureInfo(alpha=1.0, outliers="repair", what="increase of the loss with this tensor alone at b bits"),
    "fisher": MeasureInfo(alpha=1.0, outliers="repair", what="squared gradient times quantization error, per image"),
}


def read_by(indicators: Indicators, name: str) -> Indicators:
    """Indicators whose ``weight`` and ``act`` are those of one measure, and which carry no other; `search_policy` takes
    them as any others.

    Raises SettingError for an unknown measure, or one that the indicators do not carry.
    """
    if name not in MEASURES:
        raise SettingError(f"--importance is {name!r}; expected {', '.join(MEASURES)}")
    if name == SCALE and FP8 in indicators.bits and carried(indicators):
        raise SettingError(
            f"--importance {SCALE} compares scales, and those of FP8 say nothing of its steps; give --importance kl"
        )
    if name == SCALE:
        return replace(indicators, layers=tuple(replace(layer, measures=None) for layer in indicators.layers))
    return replace(
        indicators,
        layers=tuple(_read(layer, name, indicators) for layer in indicators.layers),
        source=_source(indicators, name),
    )


def carried(indicators: Indicators) -> tuple[str, ...]:
    """The measures that every layer of the indicators has, the paper's first; it is not one beside FP8, whose scale
    says nothing of its steps."""
    scales = FP8 not in indicators.bits
    return tuple(
        name
        for name in MEASURES
        if (name == SCALE and scales)
        or all(layer.measures is not None and name in layer.measures for layer in indicators.layers)
    )


def default_measure(indicators: Indicators) -> str:
    """The measure to search with where none is asked for: ``kl`` where the indicators carry it, else the scales."""
    return "kl" if "kl" in carried(indicators) else SCALE


def _read(layer: LayerIndicators, name: str, indicators: Indicators) -> LayerIndicators:
    found = (layer.measures or {}).get(name)
    if found is None:
        known = ", ".join(carried(indicators))
        raise SettingError(
            f"--importance {name} is not in the indicators of {indicators.model!r} (layer {layer.name!r} lacks it; "
            f"there are: {known}); learn them again with `limpq-deploy indicators`"
        )
    return replace(layer, weight=found.weight, act=found.act, measures=None)


def _source(indicators: Indicators, name: str) -> Any:
    """What the indicators' source says, with the measure they are read by."""
    if isinstance(indicators.source, dict):
        return {**indicators.source, "importance": name}
    return indicators.source if indicators.source is None else {"indicators": indicators.source, "importance": name}
