"""Builds whose scales are powers of two, trained and not: the engine gives the trained model's integers."""

import json
import math
from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.train.finetuned import FineTuned
from limpq_deploy.verdict.record import Verdict

from .conftest import Command


def test_a_build_with_powers_of_two_goes_to_its_verdict_and_differs_nowhere(
    copy: Path, settings: Path, run: Command
) -> None:
    result = run("build", "--config", settings, "--out", "out", "--scales", "pow2", "--json")
    assert result.exit_code in (0, 3), result.output  # a few steps promise no accuracy
    ran = {stage["name"]: stage["ran"] for stage in json.loads(result.stdout)["stages"]}
    assert (ran["indicators"], ran["search"], ran["finetune"]) == (False, False, True)
    parity = load_record(ParityReport, copy / "parity.json")
    for parts in (parity.tensors, parity.faithful, parity.end_to_end):
        assert sum(part.elements for part in parts) > 100_000
        assert [part.tensor for part in parts if part.mismatches] == []
    assert parity.logits_equal
    assert parity.trained_logits_equal
    assert parity.disagreements == ()
    verdict = load_record(Verdict, copy / "verdict.json")
    checks = {check.name: check for check in verdict.checks}
    assert checks["parity_power_of_two"].passed
    assert "0 of " in checks["parity_power_of_two"].detail
    assert verdict.accuracy is not None
    found = load_record(FineTuned, copy / "finetuned.json")
    assert found.scales == "pow2"
    assert found.top1.test == verdict.accuracy.mixed.value
    for tensor in (*found.weights, *found.activations):
        assert {math.frexp(scale)[0] for scale in tensor.params.scale} == {0.5}
    assert "--scales pow2" in (copy / "report.html").read_text()


def test_without_training_scales_are_powers_of_two_too(copy: Path, settings: Path, run: Command) -> None:
    options = ("--scales", "pow2", "--ptq", "--calibration-images", "64", "--policy", "policy.json")
    (copy.parent / "policy.json").write_bytes((copy / "policy.json").read_bytes())
    result = run("finetune", "--config", settings, "--out", "out", *options)
    assert result.exit_code == 0, result.output
    found = load_record(FineTuned, copy / "finetuned.json")
    assert found.calibrated is not None
    assert found.scales == "pow2"
    for tensor in (*found.weights, *found.activations):
        assert {math.frexp(scale)[0] for scale in tensor.params.scale} == {0.5}
