"""A policy that the user gives is taken only where it fits, and the refusal is one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import LimpqError, ModelError, RecordError, SettingError
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.given_policy import load_given, own_budget
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.policy import LayerBits, Policy

BITS = (2, 4, 8)
FALLING = (3.0, 2.0, 1.0)
INDICATORS = Indicators(
    model="tiny",
    bits=BITS,
    layers=tuple(
        LayerIndicators(name=name, macs=100, num_weights=10, weight=FALLING, act=FALLING, act_group=group)
        for name, group in (("a", None), ("b", "shared"), ("c", "shared"))
    ),
)


def given(tmp_path: Path, model: str | None = "tiny", **pairs: tuple[int, int]) -> Path:
    bits = {name: LayerBits(weight=weight, act=act) for name, (weight, act) in pairs.items()}
    write_record(Policy(bits=bits, objective=0.0, alpha=1.0, model=model), tmp_path / "given.json")
    return tmp_path / "given.json"


def test_a_policy_that_fits_says_what_it_uses(tmp_path: Path) -> None:
    file = given(tmp_path, a=(8, 8), b=(2, 4), c=(4, 4))
    policy = load_given(file, INDICATORS, (like_budget(INDICATORS, 8, 8),))
    assert policy.pairs() == {"a": (8, 8), "b": (2, 4), "c": (4, 4)}
    (cost,) = policy.costs
    assert (cost.used, cost.limit) == (100 * (64 + 8 + 16), 3 * 100 * 64)
    assert own_budget(INDICATORS, policy).limit == cost.used
    assert load_given(file, INDICATORS, ()).costs == ()


def test_an_older_file_without_the_models_name_is_taken(tmp_path: Path) -> None:
    assert load_given(given(tmp_path, None, a=(8, 8), b=(2, 4), c=(4, 4)), INDICATORS, ()).model == "tiny"


@pytest.mark.parametrize(
    ("model", "pairs", "error", "sentence"),
    [
        ("other", {"a": (4, 4)}, ModelError, "is a policy of 'other', and this build is of 'tiny'; .* --model other"),
        (
            "tiny",
            {"a": (4, 4), "b": (4, 4), "c": (4, 4), "d": (4, 4)},
            ModelError,
            "has an entry for 'd'; .* 3 ",
        ),
        ("tiny", {"a": (4, 4)}, ModelError, "has no entry for 'b' and 1 more; expected exactly the 3 searched layers"),
        ("tiny", {"a": (5, 4), "b": (3, 4), "c": (4, 4)}, SettingError, "'a' 5 weight bits; .* give --bits 2,3,4,5,8"),
        (
            "tiny",
            {"a": (4, 16), "b": (4, 4), "c": (4, 4)},
            SettingError,
            "'a' 16 activation bits; a build takes 2 to",
        ),
        (
            "tiny",
            {"a": (4, 4), "b": (4, 4), "c": (4, 8)},
            ModelError,
            "both read the tensor 'shared'; give",
        ),
        ("tiny", {"a": (8, 8), "b": (8, 8), "c": (4, 8)}, SettingError, "beyond --like w4a4; give a larger budget"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    tmp_path: Path, model: str, pairs: dict[str, tuple[int, int]], error: type[LimpqError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as refused:
        load_given(given(tmp_path, model, **pairs), INDICATORS, (like_budget(INDICATORS, 4, 4),))
    assert str(refused.value).startswith(str(tmp_path / "given.json"))
    assert "\n" not in str(refused.value)


def test_restrictions_hold_for_a_given_policy_too(tmp_path: Path) -> None:
    layers = (replace(INDICATORS.layers[0], pairs=((8, 8),)), *INDICATORS.layers[1:])
    with pytest.raises(SettingError, match="gives layer 'a' w4a4, which --space, --min-bits, --pin or --act-bits"):
        load_given(given(tmp_path, a=(4, 4), b=(4, 4), c=(4, 4)), replace(INDICATORS, layers=layers), ())


@pytest.mark.parametrize(("bits", "said"), [(0, "0 bits; expected 1 to 32"), (33, "33 bits"), (-4, "-4 bits")])
def test_widths_that_no_number_has_are_refused_on_reading(tmp_path: Path, bits: int, said: str) -> None:
    file = tmp_path / "policy.json"
    layer = {"weight": bits, "act": 4}
    file.write_text(json.dumps({"bits": {"a": layer}, "objective": 0.0, "alpha": 1.0, "format": "limpq.policy/1"}))
    with pytest.raises(RecordError, match=said):
        load_record(Policy, file)


@pytest.mark.parametrize("bits", [1, 9, 15, 31])
def test_widths_that_no_grid_has_are_no_build(bits: int) -> None:
    policy = Policy(bits={"a": LayerBits(weight=4, act=bits)}, objective=0.0, alpha=1.0)
    with pytest.raises(ModelError, match=f"layer 'a' {bits} activation bits, which no grid has"):
        policy.buildable_pairs("policy.json")
    assert Policy(bits={"a": LayerBits(weight=8, act=32)}, objective=0.0, alpha=1.0).buildable_pairs("p") == {
        "a": (8, 32)
    }
