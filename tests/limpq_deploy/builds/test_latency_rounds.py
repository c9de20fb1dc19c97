"""A latency limit brought into a real build: profiled, searched, timed and corrected before anything is fine-tuned."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.latency.rounds import Rounds
from limpq_deploy.latency.study import LatencyStudy
from limpq_deploy.pipeline.config import Config, make_config
from limpq_deploy.pipeline.stages.run import run_build
from limpq_deploy.policy.budgets import latency_budget
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.train.settings import Training

Command = Callable[..., Result]

CONFIG = Config(
    bits=(8,),
    space="native:onnxruntime",
    importance="scale",
    latency_seconds=0.1,
    training=Training(float_steps=3, joint_steps=2),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build up to its search, with a limit that every policy keeps."""
    config = replace(CONFIG, max_latency_ms=1000.0, out=tmp_path_factory.mktemp("rounds") / "build")
    run_build(config, until="search", say=lambda passed: None)
    return config.out


def test_a_limit_alone_is_searched_over_native_pairs_and_one_beside_a_budget_is_a_check() -> None:
    alone = make_config({"max_latency_ms": 2.0})
    assert (alone.space, alone.bits, alone.goes_round, alone.budget_like) == ("native:onnxruntime", (8,), True, None)
    beside = make_config({"max_latency_ms": 2.0, "like": "w4a4"})
    assert (beside.space, beside.goes_round, beside.budget_like) == (None, False, "w4a4")
    assert not make_config({"max_latency_ms": 2.0, "engine": False}).goes_round
    assert make_config({"max_latency_ms": 2.0, "target": "reference"}).space is None
    assert make_config({"max_latency_ms": 2.0, "target": "tensorrt"}).space == "native:tensorrt"
    assert make_config({"max_latency_ms": 2.0, "like": "w4a4", "space": "native:onnxruntime"}).goes_round


def test_a_build_profiles_this_machine_and_keeps_its_rounds(built: Path) -> None:
    table = load_record(LatencyTable, built / "latency-table.json")
    rounds = load_record(Rounds, built / "latency-rounds.json")
    policy = load_record(Policy, built / "policy.json")
    assert {time.layers[0] for time in table.times} >= set(policy.bits)
    assert table.threads == "default"
    assert rounds.last.pairs == policy.pairs()
    assert rounds.last.holds
    assert 1 <= len(rounds.rounds) <= 4
    assert set(policy.pairs().values()) == {(32, 32)}  # nothing keeps the layers from their floats


def test_the_corrected_table_is_one_that_a_search_reads(built: Path) -> None:
    rounds = load_record(Rounds, built / "latency-rounds.json")
    indicators = load_record(Indicators, built / "indicators.json")
    budget = latency_budget(indicators, rounds.table, 1000)
    assert budget.limit == 10**9


def test_a_limit_that_no_policy_keeps_is_refused_before_fine_tuning_with_the_smallest_figure(built: Path) -> None:
    config = replace(CONFIG, max_latency_ms=1e-5, out=built)
    with pytest.raises(InfeasiblePolicy, match=r"--max-latency-ms 1e-05 allows .* smallest reachable is"):
        run_build(config, until="search", say=lambda passed: None)


def test_a_build_that_fails_names_what_is_left_of_an_earlier_one(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    said: list[str] = []
    with pytest.raises(InfeasiblePolicy, match="--fresh profiles it anew"):
        run_build(replace(CONFIG, max_latency_ms=1e-5, out=folder), say=lambda passed: None, note=said.append)
    [told] = [sentence for sentence in said if "of an earlier build" in sentence]
    assert "report.html, verdict.json, bundle and" in told


def test_a_finished_build_says_how_far_bitops_predict_latency(finished: Path) -> None:
    study = load_record(LatencyStudy, finished / "latency-study.json")
    verdict = json.loads((finished / "verdict.json").read_text())
    page = (finished / "report.html").read_text()
    assert study.realised.policies >= 5
    assert {point.sweep for point in study.points} == {"native", "narrow"}
    assert any("executed BitOps" in note for note in verdict["notes"])
    assert "How far BitOps predict latency" in page
    assert "<svg" in page.partition("How far BitOps predict latency")[2].partition("</section>")[0]


def test_a_build_is_profiled_by_what_executes_it_alone(run: Command, finished: Path) -> None:
    done = run("profile", finished, "--runtime", "tensorrt")
    assert done.exit_code == 1
    assert "is a build for onnxruntime, whose quantizers tensorrt does not execute" in " ".join(done.output.split())


def test_a_builds_model_is_profiled_from_its_files(run: Command, finished: Path, here: Path) -> None:
    result = run("profile", finished, "--seconds", "0.05", "--graphs", "2", "--threads", "1", "--json")
    assert result.exit_code == 0, result.output
    table = load_record(LatencyTable, here / "latency-table.json")
    assert json.loads(result.stdout)["format"] == "limpq.latency-table/1"
    indicators = load_record(Indicators, finished / "indicators.json")
    assert latency_budget(indicators, table, 5).limit == 5_000_000
    words = ("--latency-table", "latency-table.json", "--max-latency-ms", "5")
    searched = run("search", finished / "indicators.json", *words)
    assert searched.exit_code == 0, searched.output


def test_a_profile_without_an_engine_refuses_settings_of_its_builder(
    refused: Callable[..., str], finished: Path
) -> None:
    refused("profile", finished, "--builds", "2", words=("the runtime is onnxruntime", "builds no engines"))


def test_what_is_no_build_cannot_be_profiled(refused: Callable[..., str], here: Path) -> None:
    refused("profile", here, words=("has no baselines/float.onnx", "name the --out directory of a build"))
