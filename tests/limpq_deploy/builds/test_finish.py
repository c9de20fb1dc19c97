"""A build that was handed over without an engine, finished against a stand-in for TensorRT: what is checked before it,
what stands when it is repeated or stopped, what its verdict says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cryptography", reason="needs the extra limpq-deploy[serve]")

from limpq_deploy.export.ship.manifest import MANIFEST, SIGNATURE
from limpq_deploy.export.ship.signature import write_key_pair
from limpq_deploy.export.ship.verify import verify_bundle
from limpq_deploy.pipeline.stages import finish as finishing
from limpq_deploy.pipeline.stages.measure import LATENCY_OF_FILES

from .conftest import QUICK

Command = Callable[..., Any]

FINISHED = ["received", "engine", "parity", "latency", "candidates", "audit", "verdict", "report", "bundle"]


@pytest.fixture
def keys(here: Path) -> tuple[Path, Path]:
    pair = here / "a.key", here / "a.key.pub"
    write_key_pair(*pair)
    return pair


def ran(result: Any) -> list[str]:
    return [stage["name"] for stage in json.loads(result.stdout)["stages"] if stage["ran"]]


def test_the_records_of_the_file_as_written_say_what_was_measured_and_what_was_not(built: Path) -> None:
    accuracy = json.loads((built / "accuracy.json").read_text())["accuracy"]
    assert "on onnxruntime, optimisations off" in accuracy["of"]
    parity = json.loads((built / "parity.json").read_text())
    assert (parity["tensors"], parity["images"]) == ([], 256)
    assert max(one["max_lsb"] for one in parity["faithful"]) <= 1
    verdict = json.loads((built / "verdict.json").read_text())
    assert (verdict["outcome"], "latency" in verdict) == ("incomplete", False)
    checks = {check["name"]: check["passed"] for check in verdict["checks"]}
    assert checks["parity_layer_by_layer"]
    assert checks["accuracy_against_float"]
    reasons = {one["name"]: one["reason"] for one in verdict["not_measured"]}
    reasons.pop("compiler_accepts", None)  # where NVIDIA's compiler is not installed
    assert set(reasons) == {"parity_engine", "integers_everywhere", "latency"}
    assert all(reason.startswith("no GPU here") for reason in reasons.values())
    manifest = json.loads((built / "bundle" / MANIFEST).read_text())
    assert (manifest["answered_by"], "engine" in manifest) == ("onnxruntime", False)
    page = (built / "report.html").read_text()
    assert "no GPU here" in page


def test_the_bundle_is_verified_by_the_answers_of_the_runtime_that_gave_them(bundle: Path, run: Command) -> None:
    done = run("verify", bundle, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["canaries"]["bit_equal"]
    run("ship", bundle, "models", "--backend", "python")
    assert run("verify", "models/resnet8").exit_code == 0


def test_a_bundle_is_finished_once_and_its_limits_are_judged(bundle: Path, gpu: None, run: Command, here: Path) -> None:
    result = run("finish", bundle, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert ran(result) == [stage["name"] for stage in found["stages"]] == FINISHED
    assert found["verdict"]["outcome"] == "passed"
    assert found["next"] == "limpq-deploy ship limpq-finish REPOSITORY --backend tensorrt"
    checks = {check["name"]: check["detail"] for check in found["verdict"]["checks"]}
    assert "limit 100 ms" in checks["latency"]
    assert "on onnxruntime, optimisations off" in found["verdict"]["accuracy"]["of"]
    parity = json.loads((here / "limpq-finish/parity.json").read_text())
    assert (parity["mode"], parity["clips"]["lost"]) == ("layer by layer", [])
    assert sum(one["elements"] for one in parity["tensors"]) > 0
    handed = json.loads((bundle / "build/handed-parity.json").read_text())
    assert parity["faithful"] == handed["faithful"] != []
    assert "The engine puts 256 of 256 images into the class of the file as written." in parity["notes"]
    engine = json.loads((here / "limpq-finish/engine.json").read_text())
    assert engine["plan"]["settings"]["batch"] == "1:2:8"
    manifest = json.loads((here / "limpq-finish/bundle" / MANIFEST).read_text())
    assert "answered_by" not in manifest
    assert {"model.plan", "model.engine.json"} <= {file["name"] for file in manifest["files"]}
    assert not any(file["name"].startswith("build/") for file in manifest["files"])
    assert ran(run("finish", bundle, "--json")) == []
    (here / "limpq-finish/latency.json").unlink()
    assert ran(run("finish", bundle, "--json"))[0] == "latency"
    assert run("ship", "limpq-finish", "models", "--backend", "tensorrt").exit_code == 0


def test_what_is_handed_over_is_not_finished_twice(
    bundle: Path, gpu: None, run: Command, refused: Command, finished: Path
) -> None:
    assert run("finish", bundle).exit_code == 0
    refused("finish", "limpq-finish/bundle", words=("was made for tensorrt and is finished",))
    refused("finish", "limpq-finish", words=("is finished",))
    refused("finish", finished / "bundle", words=("was made for onnxruntime and is finished", "--no-engine"))
    run("ship", bundle, "models", "--backend", "python")
    refused("finish", "models/resnet8", words=("is a model of a repository",))
    refused("finish", "absent", words=("manifest.json",))


def test_stopped_in_a_stage_it_goes_on_with_that_stage(
    bundle: Path, gpu: None, run: Command, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    def stopped(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(LATENCY_OF_FILES), "step", _with(LATENCY_OF_FILES.name, stopped))
        result = run("finish", bundle, "--json")
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr
    assert not (here / "limpq-finish/bundle").exists()
    assert ran(run("finish", bundle, "--json")) == FINISHED[FINISHED.index("latency") :]


def _with(name: str, run: Callable[..., str]) -> Callable[..., Any]:
    """`Stage.step` with another function for the stage of this name."""
    from limpq_deploy.pipeline.stages.declaration import Stage

    own = Stage.step
    return lambda stage, *given: replace(own(stage, *given), run=run) if stage.name == name else own(stage, *given)


@pytest.mark.parametrize(
    "name", ["model.onnx", "build/policy.json", "build/config.json", "build/images.npy", "build/baselines/float.onnx"]
)
def test_one_changed_bit_anywhere_is_refused_before_anything_is_read(
    name: str, bundle: Path, gpu: None, refused: Command, here: Path
) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused("finish", bundle, words=(f"'{name}' was altered",))
    (bundle / name).unlink()
    refused("finish", bundle, words=(f"'{name}' is listed in manifest.json but missing",))
    assert not (here / "limpq-finish").exists()


def test_a_signature_is_checked_first_and_given_to_what_comes_out(
    bundle: Path, gpu: None, run: Command, refused: Command, keys: tuple[Path, Path], here: Path
) -> None:
    private, public = keys
    refused("finish", bundle, "--key", public, words=("signature",))
    assert run("sign", bundle, private).exit_code == 0
    other = here / "b.key", here / "b.key.pub"
    write_key_pair(*other)
    refused("finish", bundle, "--key", other[1], words=("another key",))
    assert not (here / "limpq-finish").exists()
    assert "signature was not checked" in run("finish", bundle, "--out", "unchecked").stderr
    done = run("finish", bundle, "--key", public, "--sign", other[0])
    assert done.exit_code == 0, done.output
    assert "not checked" not in done.stderr
    assert verify_bundle(here / "limpq-finish/bundle", other[1]).signature_checked
    assert ran(run("finish", bundle, "--key", public, "--json")) == []  # a signature is no other bundle
    again = run("ship", "limpq-finish", "models", "--backend", "tensorrt", "--key", other[1], "--sign", other[0])
    assert again.exit_code == 0, again.output


def test_a_signed_bundle_of_a_build_is_still_what_its_stage_wrote(
    built: Path, run: Command, keys: tuple[Path, Path], here: Path
) -> None:
    copy = shutil.copytree(built, here / "out")
    assert run("sign", copy / "bundle", keys[0]).exit_code == 0
    assert (copy / "bundle" / SIGNATURE).stat().st_size == 72  # the time of signing, and Ed25519
    assert run("ship", copy, "models", "--key", keys[1], "--sign", keys[0]).exit_code == 0


def test_results_lie_neither_in_the_bundle_nor_in_a_build(
    bundle: Path, gpu: None, refused: Command, built: Path
) -> None:
    before = sorted(bundle.rglob("*"))
    refused("finish", bundle, "--out", bundle / "out", words=("lies in the bundle",))
    refused("finish", bundle, "--out", built, words=("is the folder of a build",))
    assert sorted(bundle.rglob("*")) == before


def test_a_check_that_fails_on_the_gpu_fails_the_verdict(
    built: Path, gpu: None, run: Command, here: Path, settings: Path
) -> None:
    copy = shutil.copytree(built, here / "out")
    limits = ("--max-latency-ms", "0.01", "--batch", "1:2:8")
    words = ("build", "--config", settings, "--target", "tensorrt", "--no-engine", *QUICK, *limits, "--out", copy)
    assert run(*words).exit_code == 0
    result = run("finish", copy)  # the folder of the build will do
    assert result.exit_code == 3
    assert "FAILED latency" in result.stdout
    refused = run("ship", "limpq-finish", "models", "--backend", "tensorrt")
    assert (refused.exit_code, "'failed' (latency)" in refused.stderr) == (1, True)


def test_images_that_do_not_fit_the_model_are_told(
    bundle: Path, gpu: None, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signed bundle may still be one of another program's making."""
    monkeypatch.setattr(finishing, "verify_bundle", lambda *_: verify_bundle(bundle))
    np.save(bundle / "build/images.npy", np.zeros((2, 3, 8, 8), np.uint8))
    monkeypatch.setattr(finishing, "verify_bundle", lambda *_: type("R", (), {"signed": False})())
    refused("finish", bundle, words=("images.npy holds uint8 [2, 3, 8, 8]", "expected pixels of [1, 16, 16]"))


def test_pixels_go_the_same_road(finished: Path, settings: Path, gpu: None, run: Command, here: Path) -> None:
    out = shutil.copytree(finished, here / "out")
    words = ("build", "--config", settings, "--target", "tensorrt", "--no-engine", *QUICK, "--input", "uint8")
    assert run(*words, "--out", out).exit_code == 0
    assert run("verify", out / "bundle").exit_code == 0
    result = run("finish", out / "bundle", "--json")
    assert result.exit_code == 0, result.output
    assert run("ship", "limpq-finish", "models", "--backend", "tensorrt").exit_code == 0
    assert (here / "models/resnet8/1/model.onnx").read_bytes() == (out / "model.uint8.onnx").read_bytes()


def test_weights_alone_go_the_same_road(finished: Path, settings: Path, gpu: None, run: Command, here: Path) -> None:
    out = shutil.copytree(finished, here / "out")
    words = ("build", "--config", settings, "--target", "tensorrt", "--no-engine", *QUICK, "--act-bits", "float")
    done = run(*words, "--like", "w4a16", "--out", out)
    assert done.exit_code == 0, done.output
    result = run("finish", out / "bundle", "--json")
    assert result.exit_code in (0, 3), result.output
    found = json.loads(result.stdout)
    assert "audit" not in [stage["name"] for stage in found["stages"]]
    assert {one["name"] for one in found["verdict"]["not_measured"]} >= {"parity_end_to_end", "parity_layer_by_layer"}
