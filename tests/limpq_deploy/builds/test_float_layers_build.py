"""Builds whose policy leaves layers in float."""

from collections.abc import Callable
from pathlib import Path

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.verdict.record import Verdict

from .conftest import Command


def test_a_given_policy_may_leave_layers_in_float_and_the_verdict_counts_them_as_planned(
    copy: Path, settings: Path, run: Command
) -> None:
    policy = load_record(Policy, copy / "policy.json")
    floats = {"layer2.conv2", "layer3.conv2"}
    bits = {name: LayerBits(weight=32, act=32) if name in floats else one for name, one in policy.bits.items()}
    write_record(Policy(bits=bits, objective=0.0, alpha=1.0, model="resnet8"), Path("mine.json"))
    result = run("build", "--config", settings, "--out", "out", "--like", "w32a32", "--ptq", "--policy", "mine.json")
    assert result.exit_code in (0, 3), result.output
    precision = load_record(Engine, copy / "engine.json").layer_precision
    assert {name for name, found in precision.items() if found == "float32"} == floats
    verdict = load_record(Verdict, copy / "verdict.json")
    checks = {check.name: check.passed for check in verdict.checks}
    assert checks["floats_as_planned"]
    assert checks["integers_everywhere"]
    assert checks["parity_end_to_end"]
    mixed = verdict.bitops[0]
    assert mixed.realised_all > mixed.nominal_all > verdict.bitops[-2].realised_all
    assert "32" in (copy / "report.html").read_text()


def test_a_search_among_native_pairs_leaves_layers_in_float(copy: Path, settings: Path, run: Command) -> None:
    options = ("--space", "native:onnxruntime", "--bits", "8", "--like", "w16a16", "--ptq", "--importance", "scale")
    result = run("compile", "--config", settings, "--out", "out", *options)
    assert result.exit_code == 0, result.output
    pairs = load_record(Policy, copy / "policy.json").pairs()
    assert set(pairs.values()) == {(8, 8), (32, 32)}
    precision = load_record(Engine, copy / "engine.json").layer_precision
    assert {name: precision[name] for name in pairs} == {
        name: "float32" if pair == (32, 32) else "u8s8" for name, pair in pairs.items()
    }


def test_a_pair_that_the_target_does_not_execute_is_refused_before_anything_is_done(
    here: Path, finished: Path, refused: Callable[..., str]
) -> None:
    policy = load_record(Policy, finished / "policy.json")
    first, *others = policy.bits
    for weight, act, words in (
        (16, 16, ("16 weight bits",)),
        (4, 32, (repr(first), "w4a32", "leaves layers in float as w32a32")),
    ):
        bits = {first: LayerBits(weight=weight, act=act), **{name: policy.bits[name] for name in others}}
        write_record(Policy(bits=bits, objective=0.0, alpha=1.0), Path("mine.json"))
        refused("build", "--policy", "mine.json", "--bits", "2,3,4,5,6", words=words)
    refused("build", "--pin", "layer1.conv1=w4a32", "--like", "w8a8", words=("layer1.conv1", "w4a32", "w32a32"))
    refused("build", "--space", "w*a16", "--like", "w8a8", words=("16 bits", "kept in float, 32"))
    assert not Path("limpq-build").exists()
