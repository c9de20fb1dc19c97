"""Models timed from the command line: names, batches, runtimes, results gathered and compared."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.cli.main import main
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime
from limpq_deploy.export.timing.report import LatencyReport
from limpq_deploy.latency.bench import named_models
from limpq_deploy.workspace.file_names import FP8_MODEL
from limpq_deploy.workspace.step import digest_of
from limpq_deploy.workspace.workspace import STATE, BuildState


def save_model(path: Path, name: str = "net", size: int = 8) -> Path:
    """A ReLU of a small image; its metadata say what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ends = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", 3, size, size]) for tensor in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"limpq.model": name})
    onnx.save(model, path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def build(tmp_path: Path) -> Path:
    for file in ("model.qdq.onnx", "baselines/float.onnx", "baselines/uniform8.qdq.onnx"):
        save_model(tmp_path / "build" / file)
    return tmp_path / "build"


def test_a_build_is_timed_as_mixed_float_and_uniform_beside_other_files(build: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other.onnx")
    assert list(named_models([build, other])) == ["mixed", "float", "uniform8", "other.onnx"]
    save_model(tmp_path / "second/model.qdq.onnx")
    assert list(named_models([build, tmp_path / "second"])) == [
        "build/mixed",
        "build/float",
        "build/uniform8",
        "second/mixed",
    ]
    with pytest.raises(ModelError, match=r"holds no model\.qdq\.onnx"):
        named_models([build / "baselines"])


def test_fp8_is_timed_where_this_build_made_it(build: Path) -> None:
    save_model(build / FP8_MODEL)
    assert list(named_models([build])) == ["mixed", "float", "uniform8", "fp8"]
    for made in (True, False):  # else it was left by an earlier build in the folder
        files = [path.relative_to(build).as_posix() for path in build.rglob("*.onnx")]
        written = {name: digest_of(build / name) for name in files if made or name != FP8_MODEL}
        write_record(BuildState(stages={}, written=written), build / STATE)
        assert ("fp8" in named_models([build])) is made


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    first, second = (save_model(tmp_path / folder / "m.onnx") for folder in "ab")
    assert list(named_models([first, second])) == [str(first), str(second)]


def test_every_batch_size_is_a_run_of_its_own_and_the_file_says_what_was_timed(build: Path, tmp_path: Path) -> None:
    done = run("bench", build, "--batch", "1,3", "--threads", 1, "--seconds", 0.1, "--json", "-o", tmp_path / "o.json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "o.json").read_text()) == found
    assert [(one["name"], one["batch"]) for one in found["series"]] == [
        (name, batch) for batch in (1, 3) for name in ("mixed", "float", "uniform8")
    ]
    assert found["model"] == "net"
    assert set(found["files"]) == {"mixed", "float", "uniform8"}
    assert found["protocols"][0]["inputs"] == 4


def test_on_one_thread_the_cpu_time_of_every_call_stands_beside_the_clocks(build: Path) -> None:
    found = json.loads(run("bench", build, "--seconds", 0.1, "--json").stdout)["series"]
    for one in found:
        if one["threads"] == 1:
            assert len(one["parts_ms"]["cpu"]) == len(one["samples_ms"])
            # A thread computes no longer than it took; clocks of other resolutions may disagree by a hair.
            assert sum(one["parts_ms"]["cpu"]) <= 1.01 * sum(one["samples_ms"])
        else:
            assert one["parts_ms"] == {}


def test_results_are_merged_and_compared(build: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    for file in files:
        assert run("bench", build, "--threads", 1, "--seconds", 0.1, "-o", file).exit_code == 0
    merged = run("bench", "merge", *files, "--json")
    (table,) = json.loads(merged.stdout)["tables"]
    assert (table["model"], len(table["rows"])) == ("net", 6)
    assert "over float" in run("bench", "merge", *files).stdout
    changes = json.loads(run("bench", "compare", *files, "--json").stdout)["changes"]
    assert [one["name"] for one in changes] == ["mixed", "float", "uniform8"]
    assert "times as fast" in run("bench", "compare", *files).stdout
    other = json.loads(files[1].read_text())
    other["environment"]["cpu"] = "another"
    files[1].write_text(json.dumps(other))
    refused = run("bench", "compare", *files)
    assert refused.exit_code == 1
    assert "different environments" in refused.output


@pytest.mark.parametrize(
    "words", [("--batch", "0"), ("--batch", "1,x"), ("--streams", "0"), ("--streams", "65"), ("--seconds", "0")]
)
def test_options_that_make_no_sense_are_wrong_usage(build: Path, words: tuple[str, ...]) -> None:
    assert run("bench", build, *words).exit_code == 2


@pytest.mark.parametrize("words", [("--batch", "0", "m.onnx"), ("--nonsense",)])
def test_wrong_usage_of_bench_is_answered_in_the_words_that_were_typed(words: tuple[str, ...]) -> None:
    said = CliRunner().invoke(main, ["bench", *words], prog_name="limpq-deploy").output.splitlines()
    assert said[:2] == [
        "Usage: limpq-deploy bench [OPTIONS] DIR|MODEL.onnx...",
        "Try 'limpq-deploy bench --help' for help.",
    ]


def test_an_unknown_runtime_is_named_with_the_known_ones(build: Path) -> None:
    done = run("bench", build, "--runtime", "abacus")
    assert done.exit_code == 1
    assert "known runtimes: " in done.output


def test_settings_of_an_engines_builder_are_refused_where_none_is_built(build: Path) -> None:
    for words in (
        ("--workspace-mib", 64),
        ("--builder-level", 0),
        ("--builds", 2, "--runtime", "onnxruntime-cuda"),
        ("--no-tf32",),
        ("--float-type", "float16"),
        ("--engine-batch", "1:8:8"),
    ):
        done = run("bench", build, *words)
        assert (done.exit_code, "which builds no engines" in done.output) == (1, True), done.output
    done = run("bench", build / "model.qdq.onnx", "--server", "http://localhost:1/tiny", "--streams", 2)
    assert (done.exit_code, "--streams has no effect with --server" in done.output) == (1, True), done.output
    done = run("bench", build, "--server", "http://localhost:1/tiny", "--builds", 2)
    assert (done.exit_code, "no effect with --server" in done.output) == (1, True), done.output
    done = run("bench", build, "--runtime", "tensorrt", "--builder-level", 9)
    assert (done.exit_code, "builder level is 9; expected 0 to 5" in done.output) == (1, True), done.output


def test_help_shows_the_options_of_timing_and_the_other_commands() -> None:
    shown = run("bench", "--help").output
    for word in ("--batch", "--streams", "--runtime", "--server", "merge", "compare"):
        assert word in shown


def test_several_runs_at_once_are_series_of_their_own_with_images_per_second(build: Path, tmp_path: Path) -> None:
    file = tmp_path / "here.json"
    done = run("bench", build, "--threads", 1, "--streams", "1,2", "--seconds", 0.1, "-o", file)
    assert done.exit_code == 0, done.output
    report = load_record(LatencyReport, file)
    assert {(one.name, one.streams) for one in report.series} == {
        (name, streams) for name in ("mixed", "float", "uniform8") for streams in (1, 2)
    }
    assert [one.streams for one in report.protocols] == [1, 2]
    head = next(line for line in done.stdout.splitlines() if line.startswith("model"))
    assert "at once" in head
    assert "images/s" in head
    many = report.find("mixed", threads=1, streams=2)
    assert f"{many.images_per_second:,.0f}" in done.stdout
    assert "at once" in run("bench", "merge", file).stdout
    compared = run("bench", "compare", file, file)
    assert len([line for line in compared.stdout.splitlines() if line.startswith("mixed")]) == 2


def test_threads_of_a_runtime_that_computes_on_a_device_are_refused(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevice(OnnxRuntime):
        name = "onnxruntime-cuda"

    monkeypatch.setattr("limpq_deploy.latency.bench.runtime_named", lambda name, options: OnDevice())
    done = run("bench", build, "--runtime", "onnxruntime-cuda", "--threads", 1)
    assert (done.exit_code, "--threads has no effect on onnxruntime-cuda" in done.output) == (1, True), done.output
    done = run("bench", build, "--runtime", "onnxruntime-cuda", "--seconds", 0.1, "--json")
    assert {series["threads"] for series in json.loads(done.stdout)["series"]} == {"default"}
