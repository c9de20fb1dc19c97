"""The objective of a policy, apart from any solver."""

from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.objective import objective_of, terms_of
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import Policy

GOLDEN = Path(__file__).parents[2] / "golden"

TIED = Indicators(
    model="small",
    bits=(2, 4),
    layers=(
        LayerIndicators(name="a", macs=1, num_weights=1, weight=(3.0, 2.0), act=(5.0, 4.0), act_group="x"),
        LayerIndicators(name="b", macs=1, num_weights=1, weight=(1.0, 2.0), act=(5.0, 4.0), act_group="x"),
    ),
)


def test_the_published_policy_has_the_published_objective() -> None:
    indicators = load_record(Indicators, GOLDEN / "resnet50_official_macs.indicators.json")
    published = load_record(Policy, GOLDEN / "resnet50_w3a4_cr12.2.policy.json")
    importance = treat_outliers(indicators, "forbid")
    found = objective_of(indicators, importance, published.pairs(), 2.0, "published")
    assert found == pytest.approx(4.61743923, abs=1e-8)  # published with eight decimals


def test_a_shared_activation_counts_once_and_is_charged_to_the_first_layer() -> None:
    importance = treat_outliers(TIED, "keep")
    pairs = {"a": (4, 2), "b": (2, 2)}
    assert terms_of(TIED, importance, pairs, 2.0, "this") == {"a": (4.0, 5.0), "b": (2.0, 0.0)}
    assert objective_of(TIED, importance, pairs, 2.0, "this") == 11.0


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"a": (4, 2)}, r"this does not fit the indicators of 'small' .*no entry for 'b'"),
        ({"a": (4, 2), "b": (4, 2), "c": (4, 2)}, r"unknown 'c'"),
        ({"a": (4, 2), "b": (3, 2)}, r"gives layer 'b' 3 weight bits"),
        ({"a": (4, 2), "b": (4, 4)}, r"'a' 2 and 'b' 4 activation bits"),
        ({"a": (4, 2), "b": (2, 2)}, r"layer 'b' 2 weight bits, an outlier entry"),
    ],
)
def test_what_cannot_be_priced_is_refused(pairs: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        objective_of(TIED, treat_outliers(TIED, "forbid"), pairs, 2.0, "this")
