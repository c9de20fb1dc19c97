"""A bundle for TensorRT is verified on an engine with the settings of its build; on a stand-in for the bindings."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.cli.main import main
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.reference.self_test import tiny_images
from limpq_deploy.export.runtimes.tensorrt import runtime as trt
from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt
from limpq_deploy.export.ship.bundle import write_bundle
from limpq_deploy.export.ship.signature import sign_bytes, write_key_pair
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.serving.ship import ship

from .trt_stand_in import Builder, HostMemory

OPTIONS = EngineOptions(level=1, tf32=False, workspace_mib=64, batch=BatchRange(least=1, best=4, most=16))


def bundle_of(model: Path, folder: Path, options: EngineOptions | None = OPTIONS) -> Path:
    """What a build with these settings ships; None: as before settings were recorded."""
    images = tiny_images(4)
    write_bundle(
        folder,
        {"model.onnx": model, "labels.txt": b"".join(b"%d\n" % number for number in range(10))},
        model="tiny",
        target="tensorrt",
        model_file="model.onnx",
        canary_inputs_NCHW=images,
        canary_outputs=TensorRt(options).load(model).run(images),
        environment=read_environment(),
        versions={"limpq-deploy": "0"},
        policy={"bits": {}},
        verdict={"outcome": "passed", "checks": []},
        engine=options,
    )
    return folder


def verify(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["verify", str(folder), *words])


def test_verify_takes_the_engine_of_the_build_where_this_machine_keeps_it(
    memory: HostMemory, model: Path, tmp_path: Path
) -> None:
    bundle = bundle_of(model, tmp_path / "bundle")
    done = verify(bundle)
    assert (done.exit_code, Builder.builds) == (0, 1), done.output


def test_elsewhere_an_engine_with_the_same_settings_is_built(
    memory: HostMemory, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(model, tmp_path / "bundle")
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "other"))
    assert verify(bundle).exit_code == 0
    (record,) = (tmp_path / "other").rglob("*.engine.json")
    plan = json.loads(record.read_text())["plan"]
    assert plan["flags"] == ["EXPLICIT_BATCH", "INT8", "FP16"]
    assert (plan["settings"]["builder_optimization_level"], plan["settings"]["batch"]) == ("1", "1:4:16")


def test_a_bundle_without_settings_is_verified_with_the_default_ones(
    memory: HostMemory, model: Path, tmp_path: Path
) -> None:
    bundle = bundle_of(model, tmp_path / "bundle", None)
    assert "engine" not in json.loads((bundle / "manifest.json").read_text())
    assert verify(bundle).exit_code == 0
    (record,) = (tmp_path / "cache").rglob("*.engine.json")
    assert json.loads(record.read_text())["plan"]["settings"]["builder_optimization_level"] == "3"


def test_settings_stay_with_a_model_in_a_repository(memory: HostMemory, model: Path, tmp_path: Path) -> None:
    ship(bundle_of(model, tmp_path / "bundle"), tmp_path / "models", ServingOptions(backend="python"), name="tiny")
    done = verify(tmp_path / "models/tiny")
    assert (done.exit_code, Builder.builds) == (0, 1), done.output


@pytest.mark.parametrize(
    ("engine", "finding"),
    [
        ({"level": 9}, "manifest.json: the builder level is 9; expected 0 to 5"),
        (
            {"batch": {"least": 4, "best": 1, "most": 1}},
            "manifest.json: the batch range is 4:1:1; expected",
        ),
        ({"typing": "loose"}, "engine.typing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    memory: HostMemory, model: Path, tmp_path: Path, engine: dict[str, object], finding: str
) -> None:
    bundle = bundle_of(model, tmp_path / "bundle")
    changed(bundle, engine)
    done = verify(bundle)
    assert (done.exit_code, finding in done.output, "is refused" in done.output) == (1, True, True), done.output


def test_changed_settings_of_a_signed_bundle_are_refused_before_they_are_read(
    memory: HostMemory, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(model, tmp_path / "bundle")
    private, public = tmp_path / "release.key", tmp_path / "release.key.pub"
    write_key_pair(private, public)
    (bundle / "manifest.sig").write_bytes(sign_bytes((bundle / "manifest.json").read_bytes(), private, bundle))
    assert verify(bundle, "--key", str(public)).exit_code == 0
    changed(bundle, {"level": 9})
    monkeypatch.setattr(trt.TensorRt, "load", lambda *arguments, **named: pytest.fail("an engine was loaded"))
    done = verify(bundle, "--key", str(public))
    assert (done.exit_code, "was altered" in done.output, "level" in done.output) == (1, True, False), done.output


def test_a_target_without_engines_has_no_settings_of_them(memory: HostMemory, model: Path, tmp_path: Path) -> None:
    bundle = bundle_of(model, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "target": "onnxruntime"}))
    done = verify(bundle)
    assert (done.exit_code, "it has settings of an engine, and the target is 'onnxruntime'" in done.output) == (1, True)


def changed(bundle: Path, engine: dict[str, object]) -> None:
    """Other settings in a manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["engine"] |= engine
    (bundle / "manifest.json").write_text(json.dumps(manifest))
