"""Costs of published networks at 224x224 against published tables; first and last layer at 8 bits."""

import pytest
import torch

from limpq_deploy.export.targets import REFERENCE
from limpq_deploy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.layers import trace
from limpq_deploy.models import create_model
from limpq_deploy.placement import place
from limpq_deploy.search.costs import BitOps, WeightSize, total_cost

BITS = (2, 3, 4, 6, 8)


@pytest.fixture(scope="module")
def costs() -> dict[str, Indicators]:
    return {name: _indicators(name) for name in ("mobilenet_v1", "torchvision/resnet18")}


def _indicators(name: str) -> Indicators:
    with torch.device("meta"):
        model, info = create_model(name)
    assert info.preprocess is not None
    traced = trace(model.to_empty(device="cpu"), info.preprocess.shape)
    placement = place(traced, REFERENCE, model=name)
    none = (1.0,) * len(BITS)
    return Indicators(
        model=name,
        bits=BITS,
        layers=tuple(
            LayerIndicators(name=one.name, macs=one.macs, num_weights=one.num_weights, weight=none, act=none)
            for one in placement.searched
        ),
        pinned=tuple(
            PinnedLayer(name=one.name, macs=one.macs, num_weights=one.num_weights, weight_bits=8, act_bits=8)
            for one in placement.pinned
        ),
    )


def _uniform(indicators: Indicators, pair: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {layer.name: pair for layer in indicators.layers}


@pytest.mark.parametrize(
    ("name", "pair", "published"),
    [
        ("mobilenet_v1", (4, 4), 9.68),
        ("mobilenet_v1", (3, 3), 5.78),
        ("mobilenet_v1", (6, 4), 14.13),
        ("torchvision/resnet18", (2, 2), 14.37),
        ("torchvision/resnet18", (3, 3), 22.85),
        ("torchvision/resnet18", (4, 4), 34.71),
        ("torchvision/resnet18", (8, 8), 116.10),
    ],
)
def test_bitops_are_those_of_the_published_tables(
    costs: dict[str, Indicators], name: str, pair: tuple[int, int], published: float
) -> None:
    """Within one unit of the second decimal: the MobileNetV1 table is 0.006 to 0.011 above our count throughout, as if
    it counted 0.1 to 0.17 million MACs more at 8 bits (ResNet-18 agrees to the last digit)."""
    indicators = costs[name]
    giga = total_cost(BitOps(pinned=True), indicators, _uniform(indicators, pair)) / 1e9
    assert abs(round(giga, 2) - published) < 0.011


def test_mobilenet_v1_takes_4_mib_at_8_bits(costs: dict[str, Indicators]) -> None:
    indicators = costs["mobilenet_v1"]
    bits = total_cost(WeightSize(), indicators, _uniform(indicators, (8, 8)))
    assert bits / 8 / 2**20 == pytest.approx(4.01, abs=0.01)
