"""Where all policies have one importance, the search says that a tie chose its own."""

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.calibration.records import write_record
from limpq_deploy.cli.main import main
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.tie_warning import tie_warning


def of_widths(bits: tuple[int, ...], *values: tuple[float, ...]) -> Indicators:
    """Layers a, b, ... with these indicators for weights and activations alike."""
    layers = [
        LayerIndicators(name=name, macs=10, num_weights=5, weight=one, act=one)
        for name, one in zip("abc", values, strict=False)
    ]
    return Indicators(model="small", bits=bits, layers=tuple(layers))


NOTHING_AT_8 = restrict(of_widths((8,), (0.0,), (0.0,)), space="native:onnxruntime")


def found(indicators: Indicators, measure: str = "kl") -> Policy:
    return replace(search_policy(indicators, [like_budget(indicators, 32, 32)], outliers="keep"), importance=measure)


def test_a_measure_that_is_0_at_every_native_pair_is_told_with_what_chose_and_what_would_tell_them_apart() -> None:
    assert tie_warning(found(NOTHING_AT_8), NOTHING_AT_8) == (
        "the measure kl decides nothing here: all policies have one importance, and the one of least bitops_searched "
        "was taken; --importance scale tells them apart"
    )
    assert "--importance" not in (tie_warning(found(NOTHING_AT_8, "scale"), NOTHING_AT_8) or "")


def test_nothing_is_said_where_one_layer_has_a_choice_that_matters_or_none_has_any() -> None:
    one = restrict(of_widths((8,), (0.0,), (0.1,)), space="native:onnxruntime")
    assert tie_warning(found(one), one) is None
    fixed = restrict(NOTHING_AT_8, pin=["*=w8a8"])
    assert tie_warning(found(fixed), fixed) is None


def test_the_search_command_says_it(tmp_path: Path) -> None:
    write_record(of_widths((8,), (0.0,), (0.0,)), tmp_path / "indicators.json")
    words = ["search", str(tmp_path / "indicators.json"), "--space", "native:onnxruntime", "--like", "w32a32"]
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "policy.json")])
    assert "the measure scale decides nothing here" in " ".join(done.output.split())


VALUE = st.sampled_from([0.0, 0.5, 1.0])


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=3), like=st.sampled_from([2, 4]))
def test_it_is_said_where_every_policy_has_the_objective_of_the_one_found(
    values: list[tuple[float, float]], like: int
) -> None:
    indicators = of_widths((2, 4), *values)
    try:
        policy = search_policy(indicators, [like_budget(indicators, like, like)], outliers="keep")
    except InfeasiblePolicy:
        return
    importance = treat_outliers(indicators, "keep")
    widest, narrowest, others = ({layer.name: pair for layer in indicators.layers} for pair in ((4, 4), (2, 2), (4, 2)))
    objectives = {
        objective_of(indicators, importance, {**narrowest, name: pair}, 2.0, "this")
        for name in narrowest
        for pair in (narrowest[name], others[name], (2, 4), widest[name])
    }
    assert (tie_warning(policy, indicators) is not None) == (objectives == {policy.objective})
