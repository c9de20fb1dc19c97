import dataclasses

import pytest

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.policy.importance_names import carried, read_by
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, Measure


def two_layers(measures: dict[str, Measure] | None) -> Indicators:
    layer = LayerIndicators(name="conv", macs=10, num_weights=5, weight=(3.0, 1.0), act=(2.0, 0.5), measures=measures)
    return Indicators(
        model="net", bits=(2, 4), layers=(layer, dataclasses.replace(layer, name="last")), source={"steps": 3}
    )


KL = {"kl": Measure(weight=(9.0, 0.0), act=(7.0, 0.0))}


def test_the_papers_measure_is_the_indicators_themselves() -> None:
    indicators = two_layers(KL)
    read = read_by(indicators, "scale")
    assert [(layer.weight, layer.act) for layer in read.layers] == [
        (layer.weight, layer.act) for layer in indicators.layers
    ]
    assert carried(read) == ("scale",)


def test_another_measure_takes_the_place_of_the_scales_and_is_named_in_the_source() -> None:
    read = read_by(two_layers(KL), "kl")
    assert [(layer.weight, layer.act) for layer in read.layers] == [((9.0, 0.0), (7.0, 0.0))] * 2
    assert read.source == {"steps": 3, "importance": "kl"}


def test_carried_measures_are_those_of_every_layer() -> None:
    indicators = two_layers(KL)
    assert carried(indicators) == ("scale", "kl")
    half = dataclasses.replace(
        indicators, layers=(indicators.layers[0], dataclasses.replace(indicators.layers[1], measures=None))
    )
    assert carried(half) == ("scale",)


def test_a_measure_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingError, match=r"--importance fisher is not in the indicators of 'net'.*scale, kl"):
        read_by(two_layers(KL), "fisher")
    with pytest.raises(SettingError, match="'entropy'; expected scale, kl, loss, fisher"):
        read_by(two_layers(KL), "entropy")


def test_a_measure_with_another_number_of_entries_is_refused_on_reading() -> None:
    with pytest.raises(ValueError, match="layer 'conv' has 1 kl act indicators; expected one for each of the bits"):
        two_layers({"kl": Measure(weight=(9.0, 0.0), act=(7.0,))})
