"""Searches after a build go by what its tournament found: one measure, alpha and outlier rule everywhere."""

import json
from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.costs import BitOps, total_cost, uniform_pairs
from limpq_deploy.policy.front import Front
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import search_policy

from .conftest import limpq_deploy

LIKE = "w5a5"


def bits_of(text: str) -> dict[str, tuple[int, int]]:
    return {name: (bits["weight"], bits["act"]) for name, bits in json.loads(text)["bits"].items()}


def test_search_sweep_and_python_give_the_builds_own_policy_for_its_own_budget(finished: Path, here: Path) -> None:
    own = load_record(Policy, finished / "policy.json")
    file = finished / "indicators.json"
    indicators = load_record(Indicators, file)
    assert indicators.found is not None
    assert own.tournament is not None
    searched = limpq_deploy("search", file, "--like", LIKE, "-o", "searched.json", "--json")
    assert bits_of(searched.stdout) == own.pairs()
    assert json.loads(searched.stdout)["importance"] == own.importance == indicators.found.importance
    assert search_policy(indicators, [like_budget(indicators, 5, 5)]).pairs() == own.pairs()

    limit = total_cost(BitOps(pinned=True), indicators, uniform_pairs(indicators, 5, 5)) / 1e9
    swept = limpq_deploy("sweep", file, "--gbitops", f"{limit:.9f}:{limit:.9f}:1", "-o", "front.json", "--json")
    front = json.loads(swept.stdout)
    assert [bits_of(json.dumps(point["policy"])) for point in front["points"]] == [own.pairs()]
    assert (front["importance"], front["alpha"], front["outliers"]) == (
        indicators.found.importance,
        indicators.found.alpha,
        indicators.found.outliers,
    )
    assert load_record(Front, here / "front.json").importance == indicators.found.importance

    compared = limpq_deploy("diff", finished / "policy.json", "searched.json", "--indicators", file, "--json")
    assert json.loads(compared.stdout)["layers"] == []
    assert json.loads(compared.stdout)["importance"] == own.importance


def test_every_answer_prints_measure_alpha_and_outlier_rule(finished: Path, here: Path) -> None:
    file, policy = finished / "indicators.json", finished / "policy.json"
    found = load_record(Indicators, file).found
    assert found is not None
    said = f"measure {found.importance}, alpha {found.alpha:g}"
    for arguments in (
        ("search", file, "--like", "w4a4"),
        ("sweep", file, "--all"),
        ("diff", policy, "policy.json", "--indicators", file),
        ("preview", "policy.json", "--build", finished),
        ("table", "policy.json", "--indicators", file, "-o", "table.csv"),
    ):
        answered = limpq_deploy(*arguments).stdout
        assert said in answered, arguments
        assert "outliers: " in answered, arguments


def test_an_indicators_file_made_anew_is_told_again_what_was_found(copy: Path, settings: Path) -> None:
    before = load_record(Indicators, copy / "indicators.json")
    (copy / "joint.safetensors").unlink()
    again = limpq_deploy("build", "--config", settings, "--out", "out", "--json")
    assert again.exit_code == 0, again.output
    ran = {one["name"]: one["ran"] for one in json.loads(again.stdout)["stages"]}
    assert ran["indicators"]
    assert load_record(Indicators, copy / "indicators.json").found == before.found is not None
