"""Which file to ship: cases in figures that were measured, and rules that hold for any."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.verdict.candidates import SIMPLEST, AccuracyPair, Candidate, CandidateName, Compared, SpeedPair
from limpq_deploy.verdict.recommendation import Objective, Recommendation, recommend, recommend_by_batch, sentence

FILES: dict[CandidateName, str] = {
    "float": "baselines/float.onnx",
    "int8": "baselines/uniform8.qdq.onnx",
    "fp8": "baselines/fp8.qdq.onnx",
    "uniform": "baselines/uniform.qdq.onnx",
    "mixed": "model.qdq.onnx",
}


def candidate(name: CandidateName, accuracy: float, size: int, ms: float | None, **more: Any) -> Candidate:
    fields = {
        "file": FILES[name],
        "accuracy_low": accuracy - 1,
        "accuracy_high": accuracy + 1,
        "bitops_nominal": {"float": 1024, "int8": 64}.get(name, 36),
        "bitops_realised": 1024 if name == "float" else 64,
        "moved_bytes": None,
        "bits": "w6a6",
    }
    return Candidate(name=name, accuracy=accuracy, bytes=size, latency_ms=ms, **{**fields, **more})


def compared(*candidates: Candidate, noise: float = 0.5, jitter: float = 0.01) -> Compared:
    """Differences of accuracy beyond ``noise`` points are told apart, ratios of speed beyond ``jitter``."""
    accuracies, speeds = [], []
    for first, second in itertools.permutations(candidates, 2):
        points = first.accuracy - second.accuracy
        p_worse = 0.001 if points < -noise else 0.4
        accuracies.append(
            AccuracyPair(
                first=first.name,
                second=second.name,
                points=points,
                low=points - noise,
                high=points + noise,
                p_first_worse=p_worse,
            )
        )
        if first.latency_ms is not None and second.latency_ms is not None:
            ratio = second.latency_ms / first.latency_ms
            speeds.append(
                SpeedPair(
                    first=first.name,
                    second=second.name,
                    ratio=ratio,
                    low=ratio * (1 - jitter),
                    high=ratio * (1 + jitter),
                )
            )
    return Compared(candidates=candidates, accuracies=accuracies, speeds=speeds)


def shipped(found: Compared, objective: Objective = "balanced") -> Recommendation:
    return recommend(found, own_file=FILES["mixed"], objective=objective)


RESNET20 = (
    candidate("float", 91.8, 1_100_000, 1.1),
    candidate("int8", 91.6, 308_832, 0.746),
    candidate("uniform", 90.6, 315_161, 0.90),
    candidate("mixed", 90.0, 315_161, 0.928),
)


def test_a_policy_that_int8_beats_in_everything_is_amber_and_int8_is_shipped() -> None:
    found = shipped(compared(*RESNET20))
    assert (found.candidate, found.file) == ("int8", FILES["int8"])
    assert not found.own_on_front
    assert {one.candidate: one.by for one in found.dominated} == {"float": "int8", "uniform": "int8", "mixed": "int8"}
    said = sentence(found, "passed")
    assert said.startswith(
        "kept its promises, but ship int8 (baselines/uniform8.qdq.onnx): beside the policy's own file"
    )
    assert "1.60 points better" in said
    assert "2 % smaller, 1.24 times as fast here" in said
    assert "bits below 8 win stored bytes alone on this target" in said
    assert "--storage int4 packs them" in said


def test_a_net_that_lost_everything_and_is_slower_ships_float_or_int8() -> None:
    bad = compared(
        candidate("float", 85.0, 1_000_000, 1.0),
        candidate("int8", 60.0, 300_000, 1.2),
        candidate("mixed", 15.0, 310_000, 1.0 / 0.69),
    )
    found = recommend(bad, own_file=FILES["mixed"], max_drop=1.0)
    assert found.candidate == "float"
    assert not found.own_on_front
    assert "70.00 points better" in found.why


def test_stored_bytes_bring_a_policy_to_the_front_and_what_unpacks_them_is_said() -> None:
    stored = candidate("mixed", 91.4, 315_161, 0.928, stored_file="model.stored.onnx", stored_bytes=150_000)
    found = shipped(compared(*RESNET20[:3], stored), "size")
    assert found.candidate == found.own == "mixed"
    assert found.own_on_front
    assert "model.stored.onnx has 150,000 bytes, and `limpq-deploy unpack` makes model.qdq.onnx of it" in found.note
    assert "bits below 8 win stored bytes alone on this target, which executes them as 8-bit integers" in found.note
    assert sentence(found, "passed").startswith("ship mixed (model.qdq.onnx)")


def test_bytes_moved_are_won_only_where_the_compilers_record_shows_fewer() -> None:
    eight = candidate("int8", 91.6, 308_832, None, moved_bytes=1_000_000)
    alike = candidate("mixed", 91.4, 315_161, None, moved_bytes=995_000)
    fewer = candidate("mixed", 80.0, 315_161, None, moved_bytes=700_000)
    assert "win stored bytes alone" in shipped(compared(eight, alike)).note
    assert "win stored bytes and bytes moved (700,000 against 1,000,000)" in shipped(compared(eight, fewer)).note


def test_where_weights_alone_are_integers_nothing_is_said_of_8_bit_integers() -> None:
    plain = candidate("float", 91.8, 1_100_000, 1.1)
    eight = candidate("int8", 91.6, 308_832, 1.1, bitops_realised=1024)
    own = candidate("mixed", 80.0, 315_161, 1.1, bitops_realised=1024)
    assert "which computes in floats" in shipped(compared(plain, eight, own)).note


def test_a_stored_file_that_is_larger_than_the_other_is_no_gain() -> None:
    own = candidate("mixed", 91.4, 300_000, 0.9, stored_file="model.stored.onnx", stored_bytes=310_000)
    assert own.size == 300_000


def test_inside_noise_the_cheaper_wins_and_at_one_cost_the_simpler() -> None:
    alike = compared(
        candidate("int8", 90.0, 300_000, 1.0),
        candidate("uniform", 90.1, 300_000, 1.0),
        candidate("mixed", 90.2, 300_000, 1.0),
    )
    found = shipped(alike)
    assert found.candidate == "int8"
    assert {one.candidate for one in found.dominated} == {"uniform", "mixed"}
    cheaper = compared(
        candidate("float", 90.2, 900_000, 1.0),
        candidate("int8", 90.0, 300_000, 0.5),
        candidate("mixed", 90.2, 200_000, 0.5),
    )
    assert shipped(cheaper).candidate == "mixed"


@pytest.mark.parametrize(
    ("objective", "expected"), [("accuracy", "float"), ("size", "mixed"), ("latency", "int8"), ("balanced", "int8")]
)
def test_the_objective_decides_among_files_of_which_none_dominates(objective: Objective, expected: str) -> None:
    front = compared(
        candidate("float", 92.0, 1_000_000, 1.0),
        candidate("int8", 91.3, 300_000, 0.5),
        candidate("mixed", 91.2, 200_000, 0.9),
    )
    found = shipped(front, objective)
    assert found.candidate == expected
    assert found.dominated == ()
    assert found.own_on_front


def test_moved_bytes_stand_for_time_where_nothing_can_be_timed() -> None:
    found = shipped(
        compared(
            candidate("float", 90.0, 900_000, None, moved_bytes=8_000_000, kernels=30),
            candidate("int8", 90.0, 300_000, None, moved_bytes=4_000_000, kernels=30),
            candidate("mixed", 90.0, 300_000, None, moved_bytes=6_000_000, kernels=40),
        )
    )
    assert found.candidate == "int8"
    assert "moves 4,000,000 bytes against 6,000,000 at batch 1" in found.why


def test_a_policy_of_uniform_bits_is_its_own_file_by_either_name() -> None:
    uniform = candidate("uniform", 91.0, 200_000, 0.5, file=FILES["mixed"])
    found = shipped(compared(candidate("float", 90.0, 900_000, 1.0), uniform, candidate("mixed", 91.0, 200_000, 0.5)))
    assert (found.candidate, found.own, found.own_on_front) == ("uniform", "uniform", True)
    assert [(one.candidate, one.by) for one in found.dominated if one.candidate == "mixed"] == [("mixed", "uniform")]


figures = st.tuples(st.floats(10, 99), st.integers(10_000, 1_000_000), st.floats(0.1, 10))


@given(st.lists(figures, min_size=5, max_size=5), st.sampled_from(["accuracy", "size", "latency", "balanced"]))
def test_what_is_shipped_is_never_dominated_and_its_losses_are_within_the_promise(
    rows: list[tuple[float, int, float]], objective: Objective
) -> None:
    candidates = [candidate(name, *row) for name, row in zip(FILES, rows, strict=True)]
    found = compared(*candidates)
    chosen = recommend(found, own_file=FILES["mixed"], objective=objective)
    assert chosen.candidate not in {one.candidate for one in chosen.dominated}
    assert {one.candidate for one in chosen.dominated} < set(SIMPLEST)
    assert chosen.own_on_front == ("mixed" not in {one.candidate for one in chosen.dominated})
    best, plain = found.named(chosen.candidate), found.named("float")
    dominated_float = "float" in {one.candidate for one in chosen.dominated}
    assert dominated_float or found.accuracy(best, plain).high >= -1.0


RTX = {
    "float": candidate("float", 90.0, 900_000, None, moved_bytes=5_000_000, bits="FP16"),
    "int8": candidate("int8", 90.0, 250_000, None, moved_bytes=6_000_000),
    "mixed": candidate("mixed", 90.0, 200_000, None, moved_bytes=7_000_000),
}


def own_compiler(**changes: Any) -> Compared:
    return replace(compared(*({**RTX, **changes}.values())), own_compiler=True)


def test_where_floats_move_less_and_nothing_was_timed_they_are_shipped_and_that_is_said() -> None:
    for objective in ("balanced", "latency", "accuracy"):
        found = shipped(own_compiler(), objective)
        assert found.candidate == "float"
        assert "moves 5,000,000 bytes against 7,000,000" in found.why
        assert "float (FP16) moves fewer bytes for one image than the policy's own file" in found.note
        assert "of which no gain in time is expected" in sentence(found, "passed")


def test_whoever_asks_for_small_files_gets_them_and_is_told_what_they_move() -> None:
    found = shipped(own_compiler(), "size")
    assert found.candidate == "mixed"
    assert "(5,000,000 against 7,000,000)" in sentence(found, "passed")


def test_an_integer_file_that_moves_less_is_still_shipped() -> None:
    less = candidate("int8", 90.0, 250_000, None, moved_bytes=4_000_000)
    assert shipped(own_compiler(int8=less)).candidate == "int8"
    assert "no gain in time" in shipped(own_compiler(int8=less)).note  # of the policy's own


def test_a_relatives_compiler_and_a_measured_time_do_not_rule_integers_out() -> None:
    assert shipped(compared(*RTX.values())).candidate != "float"
    timed = {name: replace(one, latency_ms=ms) for (name, one), ms in zip(RTX.items(), (1.0, 0.5, 0.5), strict=True)}
    assert shipped(own_compiler(**timed)).candidate != "float"


def test_weights_count_among_the_bytes_that_are_moved() -> None:
    """Integers whose kernels hand on more, and read weights of half the size, move less in all."""
    heavy = {name: replace(one, weight_bytes=4_000_000 if name == "float" else 1_000_000) for name, one in RTX.items()}
    found = shipped(own_compiler(**heavy))
    assert found.candidate == "int8"
    assert "moves 7,000,000 bytes against 8,000,000" in found.why
    assert "no gain in time" not in found.note


def of_batches(name: CandidateName, size: int, one: int, eight: int, batch: int = 1) -> Candidate:
    moved = {"batch_1": one, "batch_8": eight}
    here = moved[f"batch_{batch}"]
    return candidate(name, 90.0, size, None, moved_bytes=here, moved_by_batch=moved, batch=batch, bits=name)


def test_where_the_answer_differs_by_batch_and_none_was_asked_for_both_are_told() -> None:
    def found(batch: int, *, asked: bool = False) -> Recommendation:
        rows = (
            of_batches("float", 900_000, 9_000_000, 20_000_000, batch),
            of_batches("mixed", 200_000, 7_000_000, 30_000_000, batch),
        )
        files = replace(compared(*rows), own_compiler=True)
        return recommend_by_batch(files, own_file=FILES["mixed"], asked=asked)

    assert found(1).candidate == "mixed"
    assert "that is for batch 1; at batch 8 it would be float" in found(1).note
    assert "float 9,000,000 and 20,000,000, mixed 7,000,000 and 30,000,000" in found(1).note
    assert (found(8, asked=True).candidate, "--batch" in found(8, asked=True).note) == ("float", False)
    assert "for a batch of 8 than the policy's own file" in found(8, asked=True).note
    assert "at batch" not in found(1, asked=True).note


def test_where_the_answer_is_the_same_at_every_batch_nothing_is_said_of_batches() -> None:
    rows = (of_batches("float", 900_000, 9_000_000, 60_000_000), of_batches("mixed", 200_000, 7_000_000, 50_000_000))
    files = replace(compared(*rows), own_compiler=True)
    assert recommend_by_batch(files, own_file=FILES["mixed"]) == shipped(files)


def test_fp8_is_shipped_where_it_is_more_accurate_than_int8_and_int8_where_nothing_tells_them_apart() -> None:
    def found(fp8: float) -> Recommendation:
        rows = {
            "int8": candidate("int8", 89.2, 250_000, None, moved_bytes=4_000_000),
            "fp8": candidate("fp8", fp8, 250_000, None, moved_bytes=4_000_000, bits="fp8"),
        }
        return shipped(own_compiler(**rows), "latency")

    assert (found(90.0).candidate, found(90.0).file) == ("fp8", "baselines/fp8.qdq.onnx")
    assert "int8" in {one.candidate for one in found(90.0).dominated}
    assert found(89.3).candidate == "int8"  # which runs on more GPUs
    assert next(one.by for one in found(89.3).dominated if one.candidate == "fp8") == "int8"
