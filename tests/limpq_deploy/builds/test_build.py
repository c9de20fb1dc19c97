"""A whole build: what it prints and leaves, what runs again when something changes, and its exit codes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from limpq_deploy.calibration.records import load_record
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.verdict.record import Verdict

Command = Callable[..., Result]

TRAINED = ["given", "float", "indicators", "search", "finetune", "uniform", "int8"]
STAGES = [*TRAINED, "export", "engine", "parity", "accuracy", "latency", "candidates", "study", "verdict"]
STAGES += ["what-if", "report", "bundle"]


def ran(result: Result) -> list[str]:
    """Names of the stages that ran, by the JSON outcome."""
    return [stage["name"] for stage in json.loads(result.stdout)["stages"] if stage["ran"]]


def uniform_won(out: Path) -> bool:
    """Whether uniform bits previewed best: a matter of the CPU's kernels after so few steps. There is no uniform model
    to be trained beside them then."""
    return load_record(Comparison, out / "comparison.json").same


def all_of(stages: list[str], out: Path) -> list[str]:
    """The stages that a build goes through."""
    return [name for name in stages if name != "uniform" or not uniform_won(out)]


def passed(result: Result) -> list[str]:
    return [stage["name"] for stage in json.loads(result.stdout)["stages"]]


def test_a_build_leaves_the_files_of_the_contract(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        *("indicators.json", "policy.json", "finetuned.safetensors", "finetuned.json", "model.qdq.onnx"),
        *("parity.json", "latency.json", "verdict.json", "report.html", "bundle"),
    }
    assert not [path for path in finished.rglob("*") if path.name.endswith(".tmp")]
    verdict = load_record(Verdict, finished / "verdict.json")
    assert verdict.passed
    assert verdict.parity is not None
    assert (verdict.parity.mismatches, verdict.parity.logits_bit_equal) == (0, True)
    assert verdict.float_nodes == ()


def test_the_policy_is_the_tournaments_choice_and_within_its_budget(finished: Path) -> None:
    policy = load_record(Policy, finished / "policy.json")
    indicators = load_record(Indicators, finished / "indicators.json")
    assert policy.tournament is not None
    candidates = policy.tournament.candidates
    [chosen] = [one for one in candidates if one.name == policy.tournament.chosen]
    assert policy.bits == chosen.bits
    assert [one.loss for one in candidates] == sorted(one.loss for one in candidates)
    assert chosen == candidates[0] or (chosen.behind_low is not None and chosen.behind_low <= 0)  # a tie
    mixed = [one for one in policy.tournament.candidates if len({(b.weight, b.act) for b in one.bits.values()}) > 1]
    assert len(mixed) >= 2
    assert uniform_won(finished) == (chosen not in mixed)
    used = sum(layer.macs * policy.bits[layer.name].weight * policy.bits[layer.name].act for layer in indicators.layers)
    [cost] = policy.costs
    assert (cost.used, cost.limit) == (used, 25 * sum(layer.macs for layer in indicators.layers))
    assert used <= cost.limit


def test_a_build_closes_with_one_screen_of_figures(first_result: Result, finished: Path) -> None:
    text = first_result.stdout
    policy = load_record(Policy, finished / "policy.json")
    bits = policy.bits["layer1.conv1"]
    expected = (
        *("resnet8 for onnxruntime: passed", "mixed", "w5a5", "float", "nominal", "realised", "p50", "times as fast"),
        *("codes differ", f"layer1.conv1 w{bits.weight}a{bits.act}", "conv1 w8a8*", "out/report.html", "out/bundle"),
    )
    for word in expected:
        assert word in text
    assert len(text.splitlines()) < 45  # a busy machine is told of in four lines more
    assert max(map(len, text.splitlines())) <= 140


def test_a_log_has_a_plain_line_where_each_stage_begins_and_one_where_it_ends(
    first_result: Result, finished: Path
) -> None:
    lines = [line for line in first_result.stderr.splitlines() if not line.startswith(("note: ", "  "))]
    assert len(lines) == 2 * len(all_of(STAGES, finished))
    for begun, ended in zip(lines[::2], lines[1::2], strict=True):
        assert begun.startswith("> ")
        assert ended.startswith(f"+ {begun[2:]}")
    assert "\x1b" not in first_result.output
    assert "\r" not in first_result.output


def test_a_second_build_does_nothing_and_says_so(run: Command, settings: Path, copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != "config.json"}
    result = run("build", "--config", settings, "--out", "out", "--json")
    assert result.exit_code == 0
    assert passed(result) == all_of(STAGES, copy)
    assert ran(result) == []
    assert result.stderr.count("[unchanged]") == len(passed(result))
    assert {path: path.read_bytes() for path in before} == before


def test_json_is_one_object_and_all_else_goes_to_stderr(run: Command, settings: Path, copy: Path) -> None:
    result = run("build", "--config", settings, "--out", "out", "--json")
    assert len(result.stdout.splitlines()) == 1
    outcome = json.loads(result.stdout)
    assert outcome["verdict"]["format"] == "limpq.verdict/1"
    assert outcome["stopped_after"] == "bundle"


def test_a_new_budget_runs_from_the_search_on_and_trains_no_indicators(
    run: Command, settings: Path, copy: Path
) -> None:
    result = run("build", "--config", settings, "--out", "out", "--like", "w3a3", "--no-engine", "--json")
    assert result.exit_code == 0, result.output
    assert ran(result) == all_of(["search", "finetune", "uniform", "export"], copy)
    assert load_record(Policy, copy / "policy.json").costs[0].limit * 25 == 9 * budget_of_five_bits(copy)
    outcome = json.loads(result.stdout)
    assert outcome["verdict"] is None
    assert "verdict.json" in outcome["outdated"]


def budget_of_five_bits(copy: Path) -> int:
    return 25 * sum(layer.macs for layer in load_record(Indicators, copy / "indicators.json").layers)


def test_another_seed_changes_every_stage(run: Command, settings: Path, copy: Path) -> None:
    float_before = (copy / "float.safetensors").read_bytes()
    result = run("finetune", "--config", settings, "--out", "out", "--seed", "1", "--json")
    assert ran(result) == ["given", "float", "indicators", "search", "finetune"]
    assert (copy / "float.safetensors").read_bytes() != float_before


def test_fresh_does_all_again_and_equal_seeds_give_equal_files(run: Command, settings: Path, copy: Path) -> None:
    trained = [f"{name}.safetensors" for name in ("float", "joint", "finetuned", "uniform")]
    names = [*(name for name in trained if (copy / name).exists()), "model.qdq.onnx"]
    assert len(names) == 5 - uniform_won(copy)
    before = {name: (copy / name).read_bytes() for name in names}
    bits = load_record(Policy, copy / "policy.json").bits
    result = run("export", "--config", settings, "--out", "out", "--fresh", "--json")
    assert ran(result) == all_of([*TRAINED, "export"], copy)
    assert {name: (copy / name).read_bytes() for name in names} == before
    assert load_record(Policy, copy / "policy.json").bits == bits


@pytest.mark.parametrize(
    ("name", "stage", "damage"),
    [
        ("indicators.json", "indicators", b'{"format": "limpq.indicators/1"}'),
        ("policy.json", "search", b""),
        ("finetuned.safetensors", "finetune", b"\x00" * 4096),
    ],
)
def test_a_damaged_output_is_noticed_and_made_again(
    run: Command, settings: Path, copy: Path, name: str, stage: str, damage: bytes
) -> None:
    model = (copy / "model.qdq.onnx").read_bytes()
    (copy / name).write_bytes(damage)
    result = run("build", "--config", settings, "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    assert ran(result)[0] == stage
    assert (copy / name).read_bytes() != damage
    assert (copy / "model.qdq.onnx").read_bytes() == model


def test_damaged_bookkeeping_costs_time_and_nothing_else(run: Command, settings: Path, copy: Path) -> None:
    finetuned = (copy / "finetuned.safetensors").read_bytes()
    (copy / "stages.json").write_text("{")
    result = run("finetune", "--config", settings, "--out", "out", "--json")
    assert ran(result) == ["given", "float", "indicators", "search", "finetune"]
    assert (copy / "finetuned.safetensors").read_bytes() == finetuned


def test_a_failed_check_gives_exit_code_3_and_its_name_each_time(run: Command, settings: Path, copy: Path) -> None:
    for stages in (["verdict", "report", "bundle"], []):
        arguments = ("build", "--config", settings, "--out", "out", "--min-speedup", "1000")
        result = run(*arguments, "--json")
        assert result.exit_code == 3
        assert ran(result) == stages
        failed = [check["name"] for check in json.loads(result.stdout)["verdict"]["checks"] if not check["passed"]]
        assert failed == ["speedup"]
    printed = run(*arguments)
    assert printed.exit_code == 3
    assert "FAILED speedup" in printed.stdout


def test_the_reference_target_stops_after_training_and_says_why(run: Command, settings: Path, copy: Path) -> None:
    arguments = ("build", "--config", settings, "--out", "out", "--target", "reference")
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert passed(result) == all_of(TRAINED[:-1], copy)  # no file of 8 bits to train for
    assert "never exported" in json.loads(result.stdout)["why"]
    assert "never exported" in " ".join(run(*arguments).stdout.split())


def test_a_build_for_tensorrt_goes_as_far_as_a_cpu_can_where_there_is_no_tensorrt(
    run: Command, settings: Path, copy: Path
) -> None:
    result = run("build", "--config", settings, "--out", "out", "--target", "tensorrt", "--no-engine", "--json")
    assert result.exit_code == 0, result.output
    judged = ["export", "parity", "accuracy", "candidates", "verdict", "what-if", "report", "bundle"]
    assert passed(result) == all_of([*TRAINED, *judged], copy)
    outcome = json.loads(result.stdout)
    assert (outcome["why"], outcome["verdict"]["outcome"]) == (None, "incomplete")
    assert outcome["next"].startswith("limpq-deploy finish out/bundle")
    assert {"engine.json", "latency.json", "audit.json"} <= set(outcome["outdated"])  # of the build before
    checked = run("lint", copy / "model.qdq.onnx", "--json")
    assert (checked.exit_code, json.loads(checked.stdout)["target"]) == (0, "tensorrt")


def test_the_users_weights_are_not_trained_again(run: Command, settings: Path, copy: Path, here: Path) -> None:
    shutil.copy(copy / "float.safetensors", here / "mine.safetensors")
    result = run("indicators", "--config", settings, "--out", "out2", "--weights", "mine.safetensors", "--json")
    assert result.exit_code == 0, result.output
    mine, trained = (json.loads((here / out / "float.json").read_text()) for out in ("out2", "out"))
    assert mine["source"] == "mine.safetensors"
    assert "float_steps without effect" in result.stderr
    assert mine["top1"] == trained["top1"]
    assert (here / "out2/float.safetensors").read_bytes() == (copy / "float.safetensors").read_bytes()


def test_the_engine_can_be_compiled_alone(run: Command, settings: Path, copy: Path) -> None:
    (copy / "engine.json").unlink()
    result = run("compile", "--config", settings, "--out", "out", "--json")
    assert result.exit_code == 0
    assert ran(result) == ["engine"]
    assert set(json.loads((copy / "engine.json").read_text())["layer_precision"].values()) == {"u8s8"}


def test_a_limit_within_the_interval_is_not_decided_said_loudly_and_no_exit_code(
    run: Command, settings: Path, copy: Path
) -> None:
    before = load_record(Verdict, copy / "verdict.json").accuracy
    assert before is not None
    lost = before.float.value - before.mixed.value
    arguments = ("build", "--config", settings, "--out", "out", "--max-accuracy-drop", f"{lost + 0.01:.4f}")
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert ran(result) == ["verdict", "report", "bundle"]
    verdict = json.loads(result.stdout)["verdict"]
    assert (verdict["outcome"], verdict["passed"]) == ("undecided", False)
    [left] = verdict["undecided"]
    assert left["name"] == "accuracy_against_float"
    assert "95 % interval" in left["detail"]
    assert "images" in left["needs"]
    assert all(check["passed"] is True for check in verdict["checks"])
    assert "undecided: 5 checks; not decided: accuracy_against_float (what would decide: about" in result.stderr
    printed = run(*arguments)
    assert printed.exit_code == 0
    assert "undecided, 5 of 5 checks kept, 1 not decided" in printed.stdout
    assert "NOT DECIDED accuracy_against_float" in printed.stdout
    page = (copy / "report.html").read_text()
    assert "Not decided" in page
    assert "1 check is not decided" in page
    shipped = run("ship", "out", "models", "--json")
    assert shipped.exit_code == 0, shipped.output
    assert any("does not decide accuracy_against_float" in note for note in json.loads(shipped.stdout)["notes"])


def test_each_accuracy_says_of_what_it_is(finished: Path) -> None:
    trained, measured = (json.loads((finished / name).read_text()) for name in ("finetuned.json", "accuracy.json"))
    assert "in PyTorch" in trained["of"]
    assert "accuracy.json" in trained["of"]
    images = measured["accuracy"]["mixed"]["images"]
    assert trained["top1"]["test_images"] == trained["float_top1"]["test_images"] == images
    assert measured["accuracy"]["of"] == f"the exported files on onnxruntime, {images:,} images of test"
    assert json.loads((finished / "float.json").read_text())["of"] == "the float model in PyTorch"
    assert measured["accuracy"]["of"] in (finished / "report.html").read_text()
