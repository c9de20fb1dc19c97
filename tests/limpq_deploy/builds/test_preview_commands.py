import json
import shutil
from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.policy.front import Front
from limpq_deploy.policy.importance_names import MEASURES, carried
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.train.finetuned import FineTuned
from limpq_deploy.workspace.workspace import BuildState

from .conftest import limpq_deploy


def test_a_build_records_every_candidate_and_measures_all_importances(finished: Path) -> None:
    policy = load_record(Policy, finished / "policy.json")
    assert policy.tournament is not None
    names = [candidate.name for candidate in policy.tournament.candidates]
    assert policy.tournament.chosen in names
    assert [one.loss for one in policy.tournament.candidates] == sorted(
        one.loss for one in policy.tournament.candidates
    )
    assert policy.tournament.candidates[0].behind == 0.0
    assert "uniform w5a5" in names
    assert carried(load_record(Indicators, finished / "indicators.json")) == tuple(MEASURES)
    page = (finished / "report.html").read_text()
    assert all(name in page for name in names)


def test_a_preview_of_the_builds_policy_is_the_one_it_won_with(finished: Path) -> None:
    tournament = load_record(Policy, finished / "policy.json").tournament
    assert tournament is not None
    result = limpq_deploy("preview", finished / "policy.json", "--build", finished, "--json")
    (found,) = json.loads(result.stdout).values()
    best = next(one for one in tournament.candidates if one.name == tournament.chosen)
    assert (found["top1"], found["loss"]) == (best.top1, best.loss)


def test_a_policy_of_other_layers_or_widths_is_refused_by_name(finished: Path, tmp_path: Path) -> None:
    policy = load_record(Policy, finished / "policy.json")
    some = dict(list(policy.bits.items())[1:])
    write_record(replace(policy, bits=some), tmp_path / "short.json")
    result = limpq_deploy("preview", tmp_path / "short.json", "--build", finished)
    assert result.exit_code == 1
    assert "no entry for 'layer1.conv1'" in result.stderr
    name = next(iter(policy.bits))
    for width in (8, 9):
        wide = {**policy.bits, name: replace(policy.bits[name], weight=width)}
        write_record(replace(policy, bits=wide), tmp_path / "wide.json")
        result = limpq_deploy("preview", tmp_path / "wide.json", "--build", finished)
        assert result.exit_code == 1
        assert f"{width} weight bits" in result.stderr


def test_a_folder_that_is_no_build_is_refused_with_what_it_lacks(finished: Path, tmp_path: Path) -> None:
    result = limpq_deploy("preview", finished / "policy.json", "--build", tmp_path)
    assert result.exit_code == 1
    assert "has no config.json" in result.stderr


def test_search_lets_measures_compete_on_a_build_and_one_measure_needs_none(finished: Path, tmp_path: Path) -> None:
    indicators, out = finished / "indicators.json", tmp_path / "policy.json"
    result = limpq_deploy("search", indicators, "--like", "w3a3", "--preview", finished, "-o", out)
    assert result.exit_code == 0, result.stderr
    policy = load_record(Policy, out)
    assert policy.tournament is not None
    assert policy.tournament.why in " ".join(result.stdout.split())
    for name in MEASURES:
        limpq_deploy("search", indicators, "--like", "w3a3", "--importance", name, "-o", out)
        assert load_record(Policy, out).importance == name
        assert load_record(Policy, out).tournament is None


def test_indicators_of_another_build_are_refused(finished: Path, tmp_path: Path) -> None:
    indicators = load_record(Indicators, finished / "indicators.json")
    layers = (replace(indicators.layers[0], num_weights=1), *indicators.layers[1:])
    write_record(replace(indicators, layers=layers), tmp_path / "other.json")
    result = limpq_deploy("search", tmp_path / "other.json", "--like", "w3a3", "--preview", finished)
    assert result.exit_code == 1
    assert "are not those of" in result.stderr


def test_a_sweep_previews_every_point(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "front.json"
    result = limpq_deploy(
        "sweep", finished / "indicators.json", "--gbitops", "0.03:0.06:3", "--preview", finished, "-o", out
    )
    assert result.exit_code == 0, result.stderr
    front = load_record(Front, out)
    assert len(front.points) == 3
    for point in front.points:
        assert point.preview is not None
        assert f"{point.preview.loss:.4f}" in result.stdout


def test_policies_are_compared_by_the_measure_that_found_them(finished: Path, tmp_path: Path) -> None:
    indicators = finished / "indicators.json"
    for name, like in (("a", "w3a3"), ("b", "w4a4")):
        limpq_deploy("search", indicators, "--like", like, "--importance", "kl", "-o", tmp_path / f"{name}.json")
    result = limpq_deploy("diff", tmp_path / "a.json", tmp_path / "b.json", "--indicators", indicators, "--json")
    objective = next(total for total in json.loads(result.stdout)["totals"] if total["name"] == "objective")
    first = load_record(Policy, tmp_path / "a.json")
    assert abs(objective["before"] - first.objective) < 1e-9


def test_fine_tuning_from_the_joint_network_begins_with_another_accuracy(
    finished: Path, settings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    result = limpq_deploy("finetune", "--config", settings, "--finetune-start", "joint", "--out", out)
    assert result.exit_code == 0, result.output
    before, after = (load_record(FineTuned, folder / "finetuned.json") for folder in (finished, out))
    assert before.settings is not None
    assert after.settings is not None
    assert (before.settings.start, after.settings.start) == ("float", "joint")
    assert before.candidates != after.candidates


def test_a_build_says_how_far_scales_moved(finished: Path) -> None:
    stages = load_record(BuildState, finished / "stages.json").stages
    assert "scales moved" in stages["indicators"].said
