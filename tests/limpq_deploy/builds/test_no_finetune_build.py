"""Builds that ship the jointly trained network at the policy's bits."""

import json
from collections.abc import Callable
from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.train.finetuned import NOT_FINETUNED, NOT_TRAINED, FineTuned
from limpq_deploy.verdict.record import Verdict

from .conftest import Command


def test_a_build_without_fine_tuning_goes_on_from_the_joint_network_and_back(
    copy: Path, settings: Path, run: Command
) -> None:
    command = ("build", "--config", settings, "--out", "out")
    before = {name: (copy / name).read_bytes() for name in ("joint.safetensors", "indicators.json", "policy.json")}
    result = run(*command, "--no-finetune", "--json")
    assert result.exit_code in (0, 3), result.output
    ran = {stage["name"]: stage["ran"] for stage in json.loads(result.stdout)["stages"]}
    assert not any(ran[name] for name in ("float", "indicators", "search"))
    assert all(ran[name] for name in ("finetune", "int8", "export", "parity", "verdict"))
    assert before == {name: (copy / name).read_bytes() for name in before}
    assert "so these settings of [training] have no effect: finetune_steps" in result.stderr
    found = load_record(FineTuned, copy / "finetuned.json")
    assert found.calibrated is not None
    assert (found.calibrated.how, found.settings) == (NOT_FINETUNED, None)
    eight = load_record(FineTuned, copy / "int8.json").calibrated
    assert eight is not None
    assert eight.how == NOT_TRAINED
    verdict = load_record(Verdict, copy / "verdict.json")
    assert verdict.parity is not None
    assert (verdict.parity.mismatches, verdict.parity.logits_bit_equal) == (0, True)
    [note] = [note for note in verdict.notes if note.startswith(NOT_FINETUNED.capitalize())]
    assert "--no-finetune" in note
    hows = {one.name: one.how for one in verdict.candidates}
    assert (hows["mixed"], hows["int8"]) == ("jointly trained", "calibrated")
    page = (copy / "report.html").read_text()
    assert NOT_FINETUNED in page
    assert "Fine-tuning of the policy" not in page
    assert "--no-finetune" in page
    assert not any(stage["ran"] for stage in json.loads(run(*command, "--no-finetune", "--json").stdout)["stages"])
    plan = json.loads(run(*command, "--plan", "--json").stdout)
    runs = {stage["name"]: stage["runs"] for stage in plan["stages"]}
    assert (runs["search"], runs["finetune"]) == (False, True)


def test_what_contradicts_it_is_refused(here: Path, refused: Callable[..., str]) -> None:
    refused(
        "build",
        "--no-finetune",
        "--ptq",
        words=("--ptq trains nothing", "--no-finetune (finetune = false)", "leave one away"),
    )
    assert not Path("limpq-build").exists()
