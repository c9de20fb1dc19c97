"""Commands on the files of a finished build."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from limpq_deploy.calibration.records import from_json, load_record
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.cpu import this_cpu
from limpq_deploy.policy.policy import Policy
from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.verdict.record import Verdict

Command = Callable[..., Result]
Refused = Callable[..., str]


def test_search_finds_the_builds_own_policy(run: Command, copy: Path, here: Path) -> None:
    result = run("search", copy / "indicators.json", "--like", "w5a5", "--preview", copy, "--json")
    assert result.exit_code == 0
    found, built = load_record(Policy, here / "policy.json"), load_record(Policy, copy / "policy.json")
    assert from_json(Policy, result.stdout, "stdout") == found
    assert (found.bits, found.costs) == (built.bits, built.costs)
    assert found.tournament is not None
    assert built.tournament is not None
    assert replace(found.tournament, seconds=built.tournament.seconds) == built.tournament
    printed = run("search", copy / "indicators.json", "--like", "w5a5", "-o", "other.json").stdout
    assert "written to other.json" in printed
    assert all(name in printed for name in found.bits)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ("is not valid JSON", "damaged")),
        ("[]", ("holds a JSON list",)),
        ('{"format": "limpq.policy/1"}', ("'limpq.policy/1'", "expected 'limpq.indicators/1'")),
        ('{"format": "limpq.indicators/1", "model": "m", "bits": [2], "layers": 3}', ("layers",)),
    ],
)
def test_search_refuses_what_is_no_indicators_file(
    refused: Refused, here: Path, text: str, words: tuple[str, ...]
) -> None:
    (here / "indicators.json").write_text(text)
    refused("search", "indicators.json", "--like", "w4a4", words=("indicators.json", *words))
    assert not (here / "policy.json").exists()


def test_search_needs_a_budget_and_a_place_to_write(refused: Refused, copy: Path, here: Path) -> None:
    indicators = copy / "indicators.json"
    refused("search", indicators, words=("no budget was given", "--like"))
    (here / "file").write_text("mine")
    refused("search", indicators, "--like", "w4a4", "-o", "file/policy.json", words=("cannot write file/policy.json",))
    refused("search", "absent.json", "--like", "w4a4", words=("cannot read absent.json",))


def test_evaluate_counts_what_the_build_counted(run: Command, finished: Path, here: Path) -> None:
    verdict = load_record(Verdict, finished / "verdict.json")
    assert verdict.accuracy is not None
    mixed = verdict.accuracy.mixed
    assert isinstance(mixed, Accuracy)
    result = run("evaluate", finished / "model.qdq.onnx", "--data", "digits", "--json")
    assert json.loads(result.stdout) == {
        "images": mixed.images,
        "classes": 10,
        "correct": mixed.correct,
        "top1": mixed.top1,
        "correct_top5": mixed.correct_top5,
        "top5": mixed.top5,
        "model": str(finished / "model.qdq.onnx"),
        "runtime": "onnxruntime",
        "split": "test",
    }
    printed = run("evaluate", finished / "model.qdq.onnx", "--data", "digits", "--batch", "7").stdout
    assert printed.startswith(f"top-1 {mixed.top1:.2f} % ({mixed.correct} of 359 images of test)")


def test_evaluate_refuses_what_is_no_model_or_no_data(refused: Refused, finished: Path, settings: Path) -> None:
    model = finished / "model.qdq.onnx"
    refused("evaluate", model, "--data", "imagefolder:absent", words=("data folder absent does not exist",))
    refused("evaluate", settings, "--data", "digits", words=("tiny.toml is not an ONNX file",))
    refused("evaluate", "absent.onnx", "--data", "digits", words=("cannot read absent.onnx",))


def test_evaluate_refuses_classes_that_the_model_does_not_know(refused: Refused, finished: Path, here: Path) -> None:
    for number in range(10):
        folder = here / "animals" / "test" / f"animal{number}"
        folder.mkdir(parents=True)
        Image.new("L", (16, 16)).save(folder / "1.png")
    words = ("class 0 of", "is '0', of data set", "it is 'animal0'", "--classes")
    refused("evaluate", finished / "model.qdq.onnx", "--data", "imagefolder:animals", words=words)


def test_lint_passes_the_engine_and_names_every_float_node_of_the_float_model(run: Command, finished: Path) -> None:
    good = run("lint", finished / "model.qdq.onnx", "--target", "onnxruntime", "--json")
    assert good.exit_code == 0
    assert from_json(LintReport, good.stdout, "stdout").float_compute == ()
    bad = run("lint", finished / "baselines/float.onnx", "--target", "onnxruntime", "--json")
    assert bad.exit_code == 3
    assert len(from_json(LintReport, bad.stdout, "stdout").float_compute) >= 10
    assert "runs in float" in run("lint", finished / "baselines/float.onnx", "--target", "onnxruntime").stdout


def test_lint_takes_a_version_of_tensorrt_and_says_each_rule_once(run: Command, finished: Path) -> None:
    model = finished / "model.qdq.onnx"
    newest = json.loads(run("lint", model, "--target", "tensorrt", "--json").stdout)
    older = json.loads(run("lint", model, "--tensorrt", "8.6", "--target", "tensorrt", "--json").stdout)
    assert (newest["tensorrt"], older["tensorrt"]) == ("11", "8.6")
    assert set(newest["findings"][0]) == {"rule", "severity", "node", "consequence", "remedy"}
    assert "opset" in {one["rule"] for one in older["findings"]} - {one["rule"] for one in newest["findings"]}
    told = run("lint", model, "--target", "tensorrt")
    assert told.exit_code == 3
    for rule in {one["rule"] for one in newest["findings"]}:
        assert " ".join(told.stdout.split()).count(f"({rule})") == 1
    wrong = run("lint", model, "--tensorrt", "11")
    assert wrong.exit_code == 2
    assert "the target is onnxruntime" in " ".join(wrong.stderr.split())


def test_lint_takes_the_target_from_a_file_that_says_it_and_asks_for_it_otherwise(run: Command, finished: Path) -> None:
    told = run("lint", finished / "model.qdq.onnx")
    assert (told.exit_code, told.stdout.split(";")[0]) == (0, "rules of onnxruntime")
    asked = run("lint", finished / "baselines/float.onnx")
    assert (asked.exit_code, asked.stdout) == (2, "")
    said = " ".join(asked.stderr.split())
    assert "Missing option '--target'" in said
    assert "float.onnx does not say for which runtime it is written; choose onnxruntime or tensorrt" in said
    assert run("lint", "absent.onnx").exit_code == 1


def test_bench_times_models_in_one_run_and_keeps_samples(run: Command, finished: Path, here: Path) -> None:
    models = (finished / "model.qdq.onnx", finished / "baselines/float.onnx")
    result = run("bench", *models, "--seconds", "0.1", "--threads", "1", "-o", "latency.json", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert [series["name"] for series in report["series"]] == ["model.qdq.onnx", "float.onnx"]
    assert all(len(series["samples_ms"]) >= 50 for series in report["series"])
    assert json.loads((here / "latency.json").read_text()) == report


def test_verify_replays_the_canaries(run: Command, finished: Path) -> None:
    result = run("verify", finished / "bundle", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["canaries"]["bit_equal"] is True
    assert report["canaries"]["images"] == 16
    assert "bit for bit" in run("verify", finished / "bundle").stdout


def test_verify_refuses_a_bundle_that_was_tampered_with_by_name(refused: Refused, copy: Path) -> None:
    bundle = copy / "bundle"
    model = bytearray((bundle / "model.onnx").read_bytes())
    model[5000] ^= 1
    (bundle / "model.onnx").write_bytes(model)
    refused("verify", bundle, words=("'model.onnx' was altered",))
    (bundle / "model.onnx").unlink()
    refused("verify", bundle, "--json", words=("'model.onnx' is listed in manifest.json but missing",))
    refused("verify", "absent", words=("bundle absent is refused",))


def test_parity_is_measured_again_and_recorded(run: Command, copy: Path, here: Path, settings: Path) -> None:
    shutil.move(copy, here / "moved")
    (here / "moved/parity.json").unlink()
    result = run("parity", "moved", "--json")
    assert result.exit_code == 0
    report = from_json(ParityReport, result.stdout, "stdout")
    assert report.exact
    assert report.images == 256
    assert load_record(ParityReport, here / "moved/parity.json") == report
    assert "bit-equal" in run("parity", "moved").stdout


def test_parity_says_what_is_missing(refused: Refused, copy: Path, here: Path) -> None:
    refused("parity", "absent", words=("absent is no build directory", "--out"))
    (copy / "finetuned.safetensors").unlink()
    refused("parity", "out", words=("finetuned.safetensors", "is missing", "run the build again"))
    (copy / "config.json").write_text("{}")
    refused("parity", "out", words=("config.json is not what the stage 'settings' wrote",))


def test_doctor_tells_what_is_usable_and_what_is_not(run: Command) -> None:
    diagnosis = json.loads(run("doctor", "--json").stdout)
    usable = {item["name"]: item["usable"] for kind in ("runtimes", "extras") for item in diagnosis[kind]}
    assert usable["onnxruntime"] is True
    assert usable["train"] is True
    printed = run("doctor").stdout
    for item in (item for kind in ("runtimes", "extras", "devices") for item in diagnosis[kind]):
        assert item["name"] in printed
        assert item["detail"]


def test_a_build_says_where_its_8_bit_weights_may_saturate(first_result: Result, run: Command) -> None:
    notes = [line for line in first_result.stderr.splitlines() if line.startswith("note: ")]
    assert any("--pinned-bits 7 would be exact and faster" in line for line in notes) == this_cpu().may_saturate
    assert ("--pinned-bits 7" in " ".join(run("doctor").stdout.split())) == this_cpu().may_saturate
