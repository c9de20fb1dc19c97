"""``build --plan``: what would run and why, of a finished build, and that it is what then runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Command = Callable[..., Result]
Why = Callable[..., dict[str, str]]


@pytest.fixture
def why(run: Command, settings: Path) -> Why:
    """By stage, why it would run; those that would not are left away."""

    def ask(*options: str | Path) -> dict[str, str]:
        result = run("build", "--config", settings, "--out", "out", "--plan", "--json", *options)
        assert result.exit_code == 0, result.output
        return {one["name"]: one["why"] for one in json.loads(result.stdout)["stages"] if one["runs"]}

    return ask


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def edit_state(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = json.loads((copy / "stages.json").read_text())
    change(state["stages"])
    (copy / "stages.json").write_text(json.dumps(state))


def test_of_nothing_every_stage_never_ran_and_nothing_is_written(here: Path, why: Why) -> None:
    found = why()
    assert set(found.values()) == {
        "never ran",
        *(text for text in found.values() if text.startswith("never ran; only")),
    }
    assert list(found)[:4] == ["given", "float", "indicators", "search"]
    assert list(found)[-1] == "bundle"
    assert list(here.iterdir()) == []


def test_of_a_finished_build_nothing_runs_and_every_stage_says_what_it_depends_on(
    copy: Path, run: Command, settings: Path, why: Why
) -> None:
    before = contents(copy)
    assert why() == {}
    result = run("build", "--config", settings, "--out", "out", "--plan", "--json")
    assert contents(copy) == before
    stages = {one.pop("name"): one for one in json.loads(result.stdout)["stages"]}
    assert stages["finetune"].keys() == {"title", "settings", "facts", "reads", "writes", "runs", "why", "seconds"}
    assert stages["finetune"]["writes"] == ["finetuned.safetensors", "finetuned.json"]
    assert stages["finetune"]["reads"][0] == "policy.json (pairs)"
    assert {"scales", "seed", "training.finetune_steps"} <= {*stages["finetune"]["settings"]}
    assert stages["finetune"]["facts"] == ["model", "data", "training"]
    assert {one["why"].split(";")[0] for one in stages.values()} <= {"up to date", "not needed"}
    text = run("build", "--config", settings, "--out", "out", "--plan").stdout
    assert text.startswith("0 of ")
    assert "reads: policy.json (pairs), float.safetensors" in text


def test_the_setting_that_was_changed_is_named_and_what_reads_its_files_comes_after(copy: Path, why: Why) -> None:
    found = why("--like", "w4a4")
    assert found["search"] == found["report"] == "--like changed"
    assert found["finetune"] == "after policy, which runs"
    assert "only where a uniform policy" in found["uniform"]
    assert found["engine"] == "after export, which runs"
    assert not found.keys() & {"given", "float", "indicators"}
    assert why("--ema", "0.5", "--storage", "int4")["export"] == "--storage changed"
    assert why("--act-bits", "5")["indicators"] == "--act-bits changed"
    assert why("--seed", "1", "--distill", "0.5")["indicators"] == "--seed, --distill changed"
    ptq = why("--ptq")
    assert (ptq["indicators"], ptq["finetune"]) == ("--ptq changed", "--ptq changed")
    assert not ptq.keys() & {"given", "float"}
    assert why("--fresh")["given"] == "begun afresh, as --fresh asks"


def test_a_lost_file_is_named_and_the_build_then_runs_what_was_planned(
    copy: Path, why: Why, run: Command, settings: Path
) -> None:
    (copy / "accuracy.json").unlink()
    with (copy / "bundle/labels.txt").open("a") as stream:
        stream.write("more")
    found = why()
    assert found == {
        "accuracy": "accuracy.json is missing",
        "verdict": "after accuracy, which runs",
        "report": "after accuracy, which runs",
        "bundle": "bundle is not what it wrote",
    }
    result = run("build", "--config", settings, "--out", "out", "--json")
    ran = {one["name"] for one in json.loads(result.stdout)["stages"] if one["ran"]}
    assert {"accuracy", "bundle"} <= ran <= found.keys()  # equal files stop a change
    assert why() == {}


def test_other_sources_and_other_libraries_are_said(copy: Path, why: Why) -> None:
    edit_state(copy, lambda stages: stages["float"].update(sources="0" * 64))
    edit_state(copy, lambda stages: stages["latency"]["libraries"].update(onnxruntime="1.0"))
    found = why()
    assert found["float"] == "sources changed"
    assert found["indicators"] == "after float model, which runs"
    assert found["latency"].startswith("onnxruntime is ")


def test_a_stage_of_a_version_that_recorded_no_names_says_that_inputs_changed(copy: Path, why: Why) -> None:
    edit_state(copy, lambda stages: [stage.pop("named") for stage in stages.values()])
    assert why() == {}
    assert why("--like", "w4a4")["search"] == "inputs changed"


def test_a_stage_that_never_ended_never_ran(copy: Path, why: Why) -> None:
    edit_state(copy, lambda stages: stages.pop("export"))
    found = why()
    assert found["export"] == "never ran"
    assert found["engine"] == "after export, which runs"


def test_no_engine_is_needed_for_a_plan(copy: Path, why: Why) -> None:
    found = why("--target", "tensorrt", "--builds", "2")  # it is not installed here
    assert "audit" in found
    assert found["engine"] == "--builds, --target changed"


def test_what_a_build_refuses_a_plan_refuses(here: Path, refused: Callable[..., str]) -> None:
    refused("build", "--max-mib", "0.001", "--plan", "--json", words=("no policy meets the budget: --max-mib 0.001",))
    assert list(here.iterdir()) == []


def test_the_time_of_what_would_run_is_told_and_nothing_is_tried_out_where_nothing_would(
    copy: Path, run: Command, settings: Path
) -> None:
    result = run("build", "--config", settings, "--out", "out", "--plan", "--json")
    assert {one["seconds"] for one in json.loads(result.stdout)["stages"]} == {0.0}
    text = run("build", "--config", settings, "--out", "out", "--plan", "--fresh").stdout
    assert re.match(r"\d+ of \d+ stages would run, in about \d+ (s|min)", text)
    assert re.search(r"^\+ fine-tuning: begun afresh, as --fresh asks \[about \d+ s\]$", text, re.MULTILINE)
