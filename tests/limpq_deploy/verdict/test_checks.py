import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import ActQuantizer, LayerPlacement, Placement
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries, Threads
from limpq_deploy.export.timing.timing_statistics import latency_stats
from limpq_deploy.policy.policy import BudgetUse
from limpq_deploy.train.evaluate import Accuracy, PairedComparison, binomial_tail
from limpq_deploy.verdict.checks import judge
from limpq_deploy.verdict.record import (
    AccuracyResult,
    BitOpsCount,
    EndToEndParity,
    LayerParity,
    Limits,
    Verdict,
    count_bitops,
    same_bits_everywhere,
)

IMAGES = 4000


def accuracy(correct: int) -> Accuracy:
    return Accuracy(images=IMAGES, classes=10, correct=correct, top1=100 * correct / IMAGES)


def paired(only_first: int, only_second: int) -> PairedComparison:
    p = binomial_tail(only_second, only_first + only_second)
    return PairedComparison(images=IMAGES, only_first=only_first, only_second=only_second, p_first_worse=p)


def series(name: str, ms: float, threads: Threads = "default", doubts: tuple[str, ...] = ()) -> LatencySeries:
    samples, turns = tuple(ms + 0.001 * (k % 5) for k in range(50)), (10,) * 5
    return LatencySeries(
        name=name,
        threads=threads,
        batch=1,
        samples_ms=samples,
        turns=turns,
        warm_up_calls=3,
        settle_calls=5,
        stats=latency_stats(samples, turns, seed=0),
        doubts=doubts,
    )


def engine_parity(**changes: Any) -> EndToEndParity:
    facts = {"images": 256, "codes": 100_000, "mismatches": 500, "logits_bit_equal": False, "max_lsb": 1}
    return EndToEndParity(**{**facts, "layer_by_layer": True, **changes})


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"mismatches": 1001}, False),
        ({"max_lsb": 2}, False),
        ({"lost_bounds": ("conv1_codes",)}, False),
        ({"codes": 0, "mismatches": 0}, False),
    ],
)
def test_an_engine_that_scales_in_floats_may_be_a_step_off_at_ties_and_no_more(
    changes: dict[str, Any], passed: bool
) -> None:
    found = judge(model="m", target="tensorrt", budgets=(), bitops=(), limits=Limits(), parity=engine_parity(**changes))
    check = next(check for check in found.checks if check.name == "parity_engine")
    assert check.passed is passed
    assert ("codes leave the grid of conv1_codes" in check.detail) is ("lost_bounds" in changes)
    assert "parity_end_to_end" not in {check.name for check in found.checks}


def latency(mixed: float = 1.0, plain: float = 2.0, doubts: tuple[str, ...] = ()) -> LatencyReport:
    return LatencyReport(
        environment=read_environment(()),
        protocols=(LatencyProtocol(),),
        series=(
            series("mixed", mixed, doubts=doubts),
            series("float", plain),
            series("uniform8", 1.5),
            series("mixed", 5.0, threads=1),
        ),
    )


PARITY = EndToEndParity(images=256, codes=1_000_000, mismatches=0, logits_bit_equal=True)
LAYERS = LayerParity(
    images=256,
    layers=9,
    codes=1_000_000,
    mismatches=3,
    max_lsb=1,
    max_tie_distance=1e-4,
    top1_agreement=1.0,
    disagreements=0,
)
ACCURACY = AccuracyResult(
    float=accuracy(3920),
    mixed=accuracy(3900),
    uniform=accuracy(3880),
    uniform8=accuracy(3920),
    uniform_bits="w4a4",
    against_uniform=paired(50, 30),
    against_float=paired(20, 40),
)


def verdict(**changes: Any) -> Verdict:
    facts: dict[str, Any] = {
        "model": "resnet8",
        "target": "onnxruntime",
        "budgets": (BudgetUse(name="bitops", used=100, limit=100, unit="BitOps"),),
        "bitops": (),
        "limits": Limits(),
        "accuracy": ACCURACY,
        "parity": PARITY,
        "layer_parity": LAYERS,
        "float_nodes": (),
        "latency": latency(),
    }
    return judge(**(facts | changes))


def failed(result: Verdict) -> list[str]:
    return [check.name for check in result.checks if not check.passed]


def test_a_result_within_every_limit_passes_with_each_check_named() -> None:
    result = verdict()
    assert result.passed
    assert [check.name for check in result.checks] == [
        "budget_bitops",
        "parity_end_to_end",
        "parity_layer_by_layer",
        "integers_everywhere",
        "accuracy_against_float",
        "accuracy_against_uniform",
    ]
    assert from_json(Verdict, to_json(result), "verdict.json") == result


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"budgets": (BudgetUse(name="size", used=101, limit=100, unit="bits"),)}, "budget_size"),
        ({"parity": dataclasses.replace(PARITY, mismatches=1)}, "parity_end_to_end"),
        ({"parity": dataclasses.replace(PARITY, logits_bit_equal=False)}, "parity_end_to_end"),
        ({"parity": dataclasses.replace(PARITY, codes=0)}, "parity_end_to_end"),
        ({"layer_parity": dataclasses.replace(LAYERS, max_lsb=2)}, "parity_layer_by_layer"),
        ({"layer_parity": dataclasses.replace(LAYERS, mismatches=10)}, "parity_layer_by_layer"),
        ({"layer_parity": dataclasses.replace(LAYERS, max_tie_distance=0.2)}, "parity_layer_by_layer"),
        ({"float_nodes": ("conv1_fused",)}, "integers_everywhere"),
        ({"accuracy": dataclasses.replace(ACCURACY, against_float=paired(20, 100))}, "accuracy_against_float"),
        ({"accuracy": dataclasses.replace(ACCURACY, against_uniform=paired(1, 9))}, "accuracy_against_uniform"),
        ({"limits": Limits(max_latency_ms=0.9)}, "latency"),
        ({"limits": Limits(min_speedup=2.5)}, "speedup"),
    ],
)
def test_each_broken_promise_fails_its_own_check(change: dict[str, Any], check: str) -> None:
    result = verdict(**change)
    assert (result.outcome, result.passed) == ("failed", False)
    assert failed(result) == [check]


def test_limits_are_met_by_equality() -> None:
    assert verdict(layer_parity=dataclasses.replace(LAYERS, mismatches=0, codes=10)).passed


@pytest.mark.parametrize(
    ("part", "checks"),
    [
        ("parity", ["parity_end_to_end"]),
        ("layer_parity", ["parity_layer_by_layer"]),
        ("float_nodes", ["integers_everywhere"]),
        ("accuracy", ["accuracy_against_float", "accuracy_against_uniform"]),
    ],
)
def test_what_was_not_measured_is_said_and_neither_passes_nor_fails(part: str, checks: list[str]) -> None:
    result = verdict(**{part: None}, reasons={part: "--no-engine was given"})
    assert (result.outcome, result.passed) == ("incomplete", False)
    assert [(one.name, one.reason) for one in result.not_measured] == [
        (name, "--no-engine was given") for name in checks
    ]
    assert not {check.name for check in result.checks} & set(checks)


def test_a_failure_beats_what_was_not_measured() -> None:
    assert verdict(parity=None, float_nodes=("conv1",)).outcome == "failed"


def test_without_limits_latency_is_reported_and_no_check() -> None:
    result = verdict(latency=None)
    assert result.passed
    assert verdict(latency=None, limits=Limits(max_latency_ms=1, min_speedup=1)).outcome == "incomplete"


def test_latency_limits_are_about_the_default_threads() -> None:
    result = verdict(limits=Limits(max_latency_ms=1.1, min_speedup=1.9))
    assert result.passed  # the single thread takes 5 ms
    assert result.latency is not None
    assert {(gain.over, gain.threads) for gain in result.latency.speedups} == {
        ("float", "default"),
        ("uniform8", "default"),
    }


def test_doubts_stand_beside_the_figure() -> None:
    result = verdict(limits=Limits(max_latency_ms=2), latency=latency(doubts=("busy machine",)))
    assert result.checks[-1].detail.endswith("; doubtful: busy machine")


def test_an_engine_slower_than_float_is_told() -> None:
    result = verdict(latency=latency(mixed=3.0, plain=2.0))
    assert result.passed
    assert any("slower than float" in note for note in result.notes)


def test_worse_than_uniform_within_noise_passes_and_is_told() -> None:
    result = verdict(accuracy=dataclasses.replace(ACCURACY, uniform=accuracy(3910), against_uniform=paired(30, 40)))
    assert result.passed
    assert "worse, within the noise of 4,000 images (p = 0.14)" in result.checks[-1].detail
    assert any("0.25 points worse than w4a4" in note and "-0.67 to +0.17" in note for note in result.notes)


def test_no_uniform_policy_within_the_budget_is_a_note_but_an_untrained_one_is_missing() -> None:
    none = dataclasses.replace(ACCURACY, uniform=None, uniform_bits=None, against_uniform=None)
    assert verdict(accuracy=none).passed
    assert any("No uniform policy keeps the budgets" in note for note in verdict(accuracy=none).notes)
    untrained = dataclasses.replace(ACCURACY, uniform=None, against_uniform=None)
    assert [one.name for one in verdict(accuracy=untrained).not_measured] == ["accuracy_against_uniform"]


def test_accuracies_on_different_images_are_not_compared() -> None:
    other = Accuracy(images=10, classes=10, correct=9, top1=90.0)
    with pytest.raises(ValueError, match="cannot be compared"):
        verdict(accuracy=dataclasses.replace(ACCURACY, uniform8=other))


def test_a_verdict_that_contradicts_its_checks_cannot_exist() -> None:
    with pytest.raises(ValueError, match="the checks say 'failed'"):
        dataclasses.replace(verdict(float_nodes=("conv1",)), outcome="passed", passed=True)


def layer(name: str, macs: int, pinned_bits: int | None) -> LayerPlacement:
    return LayerPlacement(
        name=name, kind="conv", input="x", macs=macs, num_weights=9, out_channels=1, pinned_bits=pinned_bits
    )


PLACEMENT = Placement(
    model="tiny",
    target="onnxruntime",
    input_shape=(1, 2, 2),
    layers=(layer("first", 10, 8), layer("conv", 100, None)),
    quantizers=(ActQuantizer(name="x", tensor="x", signed=False, bits=8),),
)


def test_nominal_bitops_are_what_was_asked_and_realised_what_the_target_executes() -> None:
    mixed = count_bitops("policy", PLACEMENT, {"conv": (3, 4)})
    assert (mixed.nominal_searched, mixed.nominal_all) == (1200, 1200 + 640)
    assert (mixed.realised_searched, mixed.realised_all) == (6400, 6400 + 640)


def test_bitops_of_the_float_model_count_pinned_layers_in_float_too() -> None:
    plain = count_bitops("float", PLACEMENT, same_bits_everywhere(PLACEMENT, 32, 32))
    assert plain.nominal_all == plain.realised_all == 110 * 1024


def test_what_the_engine_reports_counts_before_what_the_target_promises() -> None:
    mixed = count_bitops("policy", PLACEMENT, {"conv": (3, 4)}, realised={"conv": (32, 32)})
    assert mixed.realised_searched == 100 * 1024


def test_layers_kept_in_float_by_the_policy_are_named_and_have_to_run_so() -> None:
    found = verdict(planned_float={"conv2": "float32", "conv3": "float32"})
    checks = {check.name: check for check in found.checks}
    assert found.passed
    assert "but for conv2, conv3, which the policy keeps in float" in checks["integers_everywhere"].detail
    assert checks["floats_as_planned"].detail == "2 of 2 layers that the policy keeps in float run so"
    fused = verdict(planned_float={"conv2": "float32", "conv3": "u8s8"})
    assert [check.name for check in fused.checks if not check.passed] == ["floats_as_planned"]
    assert "not conv3 (u8s8)" in {check.name: check for check in fused.checks}["floats_as_planned"].detail
    assert "floats_as_planned" not in {check.name for check in verdict().checks}
    unknown = verdict(planned_float={"conv2": "float32", "conv3": "unknown"})
    assert [(one.name, one.reason) for one in unknown.not_measured] == [
        ("floats_as_planned", "the engine does not report the precision of conv3")
    ]


@pytest.mark.parametrize(
    ("change", "passed"),
    [({}, True), ({"mismatches": 1}, False), ({"logits_bit_equal": False}, False), ({"codes": 0}, False)],
)
def test_with_powers_of_two_the_trained_model_has_to_equal_the_engine(change: dict[str, Any], passed: bool) -> None:
    equal = EndToEndParity(images=256, codes=1_000_000, mismatches=0, logits_bit_equal=True)
    result = verdict(trained_parity=dataclasses.replace(equal, **change))
    check = next(check for check in result.checks if check.name == "parity_power_of_two")
    assert (check.passed, result.passed) == (passed, passed)
    assert "codes of the trained model differ from those of the engine" in check.detail


def executed(**gbitops: int) -> tuple[BitOpsCount, ...]:
    """Realised BitOps by name, in G."""
    return tuple(
        BitOpsCount(
            name=name,
            nominal_searched=value,
            nominal_all=value,
            realised_searched=10**9 * value,
            realised_all=10**9 * value,
        )
        for name, value in gbitops.items()
    )


def test_an_engine_that_executes_fewer_bitops_than_a_uniform_one_has_to_be_faster() -> None:
    fewer = executed(mixed=5, uniform8=9)
    kept = verdict(bitops=fewer, latency=latency(mixed=1.0))
    check = next(one for one in kept.checks if one.name == "faster_than_uniform8")
    assert check.passed
    assert "5 G BitOps executed against 9 G, and 1.50 times its speed" in check.detail
    assert failed(verdict(bitops=fewer, latency=latency(mixed=1.6))) == ["faster_than_uniform8"]


def test_an_engine_that_executes_as_many_bitops_promises_no_speed_and_says_what_its_clips_cost() -> None:
    work = executed(mixed=9, uniform8=9)
    narrow = (replace(work[0], nominal_all=3), work[1])
    result = verdict(bitops=narrow, latency=latency(mixed=1.6))
    assert "faster_than_uniform8" not in {check.name for check in result.checks}
    assert any("executes as many BitOps as uniform8 and runs at 0.94 times its speed" in note for note in result.notes)
    faster = verdict(bitops=narrow, latency=latency(mixed=1.0))
    assert not any("as many BitOps" in note for note in faster.notes)
    alike = verdict(bitops=work, latency=latency(mixed=1.6))
    assert not any("Clips of their own" in note for note in alike.notes)


def with_fp32(mixed: float, half: float, full: float) -> LatencyReport:
    """What a build for TensorRT times: float is FP16 there."""
    named = (("mixed", mixed), ("float", half), ("fp32", full), ("uniform8", 1.0))
    return LatencyReport(
        environment=read_environment(()),
        protocols=(LatencyProtocol(),),
        series=tuple(series(name, ms) for name, ms in named),
    )


def test_beside_fp32_float_is_the_uniform_fp16_engine_and_is_called_so() -> None:
    work = executed(mixed=9, uniform8=9, float=36)
    limits = Limits(min_speedup=1.5)
    kept = verdict(bitops=work, limits=limits, latency=with_fp32(mixed=1.0, half=2.0, full=8.0))
    checks = {check.name: check for check in kept.checks}
    assert "9 G BitOps executed against 36 G, and 2.00 times its speed" in checks["faster_than_float16"].detail
    assert checks["speedup"].detail.startswith("2.00 times as fast as float (FP16) (95 %")
    assert any(note.startswith("Float is the float model's engine in FP16; fp32 is") for note in kept.notes)
    slower = verdict(bitops=work, limits=limits, latency=with_fp32(mixed=3.0, half=2.0, full=8.0))
    assert failed(slower) == ["speedup", "faster_than_float16"]
    assert any("The mixed engine is slower than float (FP16): " in note for note in slower.notes)


@pytest.mark.parametrize("engine", ["mixed", "float"])
def test_executed_bitops_that_are_assumed_in_part_promise_no_speed_and_the_check_is_not_measured(engine: str) -> None:
    work, times = executed(mixed=9, uniform8=9, float=36), with_fp32(mixed=3.0, half=2.0, full=8.0)
    found = verdict(bitops=work, latency=times, precision_unknown={engine: ("conv1", "conv2")})
    assert "faster_than_float16" not in {check.name for check in found.checks}
    [missing] = found.not_measured
    assert missing.name == "faster_than_float16"
    assert f"the precision of 2 layers of the {engine} engine (conv1, conv2) is unknown" in missing.reason
    assert found.outcome == "incomplete"
    more = verdict(
        bitops=executed(mixed=40, uniform8=9, float=36), latency=times, precision_unknown={engine: ("conv1",)}
    )
    assert not more.not_measured  # nothing is promised


def test_without_an_fp32_series_nothing_is_said_of_float_types() -> None:
    found = verdict(bitops=executed(mixed=9, uniform8=9, float=144), limits=Limits(min_speedup=1.5), latency=latency())
    assert "faster_than_float16" not in {check.name for check in found.checks}
    assert not any("FP16" in text for text in (*found.notes, *(check.detail for check in found.checks)))


def test_more_bitops_than_uniform_8_bits_promise_no_speed_either() -> None:
    result = verdict(bitops=executed(mixed=20, uniform8=9), latency=latency(mixed=3.0))
    assert "faster_than_uniform8" not in {check.name for check in result.checks}


def test_a_file_that_nvidias_compiler_builds_as_planned_passes() -> None:
    word = CompilerWord(accepted=True, detail="NVIDIA's compiler accepts it: 41 kernels")
    [check] = [check for check in verdict(compiler=word).checks if check.name == "compiler_accepts"]
    assert (check.passed, check.detail) == (True, word.detail)


@pytest.mark.parametrize(
    ("word", "detail"),
    [
        (CompilerWord(accepted=False, detail="it refuses the model"), "it refuses the model"),
        (
            CompilerWord(accepted=True, detail="accepted", as_floats=("conv1",)),
            "accepted; planned in integers and compiled to floats: conv1",
        ),
    ],
)
def test_a_file_that_it_refuses_or_compiles_otherwise_fails(word: CompilerWord, detail: str) -> None:
    result = verdict(compiler=word)
    assert failed(result) == ["compiler_accepts"]
    assert detail in [check.detail for check in result.checks]


def test_without_the_compiler_nothing_passes_by_its_absence() -> None:
    """A reason stands there until the target's own engine has run."""
    word = CompilerWord(accepted=None, detail="it is not installed")
    found = judge(model="m", target="tensorrt", budgets=(), bitops=(), limits=Limits(), compiler=word)
    assert {"compiler_accepts": "it is not installed"}.items() <= {
        one.name: one.reason for one in found.not_measured
    }.items()
    assert not found.passed
    assert "compiler_accepts" not in str(verdict(compiler=word, latency=latency()))
    assert "compiler_accepts" not in str(verdict())
