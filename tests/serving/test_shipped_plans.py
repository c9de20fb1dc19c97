"""Plans that are shipped, held against the records of their engines. The plans are bytes that nobody opens."""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.cli.main import main
from limpq_deploy.export.records.engine_record import Machine, OneBuild, Plan
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.tensorrt.runtime import keep_engine, record_path
from limpq_deploy.export.ship.repository import load_serving
from limpq_deploy.export.ship.shipped_plans import PlanNotShipped
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.export.ship.triton.served_io import ConfigRefused
from limpq_deploy.export.ship.verify import load_manifest
from limpq_deploy.serving.ship import ShipRefused, ship

MakeBundle = Callable[..., Path]
TENSORRT = ServingOptions(backend="tensorrt")


def write_plan(
    path: Path,
    model: Path,
    capability: str = "9.0",
    batch: str = "1:1:64",
    *,
    magic: bytes = b"ftrt",
    version: str = "10.9",
    runtime: str = "tensorrt",
) -> Path:
    """Bytes in place of a plan, with the record that a build of this model would leave beside it."""
    data = magic + f"bytes that only a GPU server would read, for {capability}".encode()
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    plan = Plan(
        sha256=sha256,
        size=len(data),
        machine=Machine(
            gpu=f"GPU {capability}", compute_capability=capability, tensorrt=version, system="Linux x86_64"
        ),
        typing="strong",
        flags=(),
        settings={"batch": batch},
        builds=(OneBuild(seconds=1.0, plan_bytes=len(data), plan_sha256=sha256, layers=0),),
        chosen=0,
        layers=(),
    )
    engine = Engine(
        model_sha256=sha256_of(model),
        runtime=runtime,
        version=version,
        provider=plan.machine.gpu,
        threads=None,
        options={},
        layer_precision={},
        plan=plan,
    )
    write_record(engine, path.with_suffix(".engine.json"))
    return path


def test_plans_of_several_gpus_are_shipped_with_their_records(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(target="tensorrt")
    plans = {cc: write_plan(tmp_path / f"{cc[0]}.plan", bundle / "model.onnx", cc) for cc in ("8.0", "9.0")}
    done = ship(bundle, tmp_path / "models", TENSORRT, plans=plans)
    assert done.notes == ()
    folder = tmp_path / "models/tiny"
    listed = {file.name for file in load_manifest(folder).files}
    assert {f"1/model_cc{cc}.{kind}" for cc in (80, 90) for kind in ("plan", "engine.json")} <= listed
    [version] = load_serving(folder).shipped
    assert [gpu.gpu for gpu in version.gpus] == ["GPU 8.0", "GPU 9.0"]


def test_bytes_that_are_no_plan_are_shipped_by_force_alone_and_the_manifest_tells(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    plan = tmp_path / "some.plan"
    plan.write_bytes(np.random.default_rng(0).bytes(3000))
    bundle, command = make_bundle(target="tensorrt"), ("--backend", "tensorrt", "--plan", str(plan))
    refused = CliRunner().invoke(main, ["ship", str(bundle), str(tmp_path / "models"), *command])
    assert refused.exit_code == 1
    assert "does not begin as TensorRT's plans do" in refused.stderr
    assert "has no record (some.engine.json)" in refused.stderr
    assert "--force, which the manifest records" in refused.stderr
    assert not (tmp_path / "models").exists()
    done = CliRunner().invoke(main, ["ship", str(bundle), str(tmp_path / "models"), *command, "--force"])
    assert done.exit_code == 0, done.output
    [version] = load_serving(tmp_path / "models/tiny").shipped
    assert version.gpus == ()
    assert "has no record (some.engine.json) beside it" in version.forced
    assert version.forced.endswith("shipped with --force")
    assert version.forced in done.stderr.replace("\n", " ")


def test_a_failed_verdict_and_a_doubtful_plan_are_both_recorded(make_bundle: MakeBundle, tmp_path: Path) -> None:
    plan = tmp_path / "some.plan"
    plan.write_bytes(b"ftrt, as plans begin, and nothing else is known")
    bundle = make_bundle(target="tensorrt", verdict={"outcome": "failed", "checks": []})
    ship(bundle, tmp_path / "models", TENSORRT, plans={"": plan}, force=True)
    forced = load_serving(tmp_path / "models/tiny").shipped[0].forced
    assert "the verdict was 'failed'" in forced
    assert "some.plan has no record" in forced
    assert "does not begin" not in forced


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"magic": b"PK\3\4"}, "does not begin as TensorRT's plans do"),
        ({"magic": b""}, "does not begin as TensorRT's plans do"),
        ({"magic": b"vtrt"}, "is an engine of TensorRT-RTX, which Triton's tensorrt backend does not load"),
        ({"runtime": "tensorrt_rtx"}, "is an engine of tensorrt_rtx, and the build is for tensorrt"),
        ({"version": "10.13"}, "was built by TensorRT 10.13, and the build's engine by 10.9"),
        ({"capability": "8.6"}, "was built on GPU 8.6, and the build's engine on GPU 9.0"),
    ],
)
def test_a_plan_of_another_target_version_or_gpu_than_the_builds_is_refused(
    change: dict[str, Any], doubt: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    (tmp_path / "build").mkdir()
    bundle = make_bundle("build/bundle", target="tensorrt")
    model, build = bundle / "model.onnx", tmp_path / "build"
    write_plan(tmp_path / "own.plan", model)
    shutil.copy(tmp_path / "own.engine.json", build / "engine.json")
    assert ship(build, tmp_path / "models", TENSORRT, plans={"": tmp_path / "own.plan"}).notes == ()
    other = write_plan(tmp_path / "other.plan", model, **change)
    with pytest.raises(PlanNotShipped, match=re.escape(f"other.plan {doubt}")):
        ship(build, tmp_path / "models", TENSORRT, plans={"": other})
    assert load_serving(tmp_path / "models/tiny").active == 1
    ship(build, tmp_path / "models", TENSORRT, plans={"": other}, force=True)
    assert doubt in load_serving(tmp_path / "models/tiny").shipped[1].forced


def test_a_plan_for_a_capability_may_be_another_gpus_but_not_another_versions(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    (tmp_path / "build").mkdir()
    bundle = make_bundle("build/bundle", target="tensorrt")
    model, build = bundle / "model.onnx", tmp_path / "build"
    plans = {cc: write_plan(tmp_path / f"{cc}.plan", model, cc) for cc in ("8.0", "9.0")}
    shutil.copy(tmp_path / "9.0.engine.json", build / "engine.json")
    assert ship(build, tmp_path / "models", TENSORRT, plans=plans).notes == ()
    write_plan(tmp_path / "8.0.plan", model, "8.0", version="10.13")
    with pytest.raises(PlanNotShipped, match=r"8.0.plan was built by TensorRT 10.13"):
        ship(build, tmp_path / "models", TENSORRT, plans=plans)
    (build / "engine.json").unlink()  # of a build that made no engine nothing is known, but a server has one version
    with pytest.raises(PlanNotShipped, match=r"stands beside plans of other versions of TensorRT \(10.13, 10.9\)"):
        ship(build, tmp_path / "models", TENSORRT, plans=plans)


def test_a_plan_for_tensorrt_is_not_of_a_build_for_onnxruntime(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    plan = write_plan(tmp_path / "some.plan", bundle / "model.onnx")
    with pytest.raises(PlanNotShipped, match="is an engine of tensorrt, and the build is for onnxruntime"):
        ship(bundle, tmp_path / "models", TENSORRT, plans={"": plan})


def test_the_plan_that_a_build_made_is_found_where_it_is_kept(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = tmp_path / "build"
    build.mkdir()
    bundle = make_bundle("build/bundle", target="tensorrt")
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ShipRefused, match="neither given nor of this build"):
        ship(build, tmp_path / "models", TENSORRT)
    kept = tmp_path / "cache/tensorrt/GPU_9.0/plans"
    kept.mkdir(parents=True)
    for name, capability in (("other", "8.0"), ("this", "9.0")):
        plan = write_plan(kept / f"{name}.plan", bundle / "model.onnx", capability)
        keep_engine(load_record(Engine, record_path(plan)), plan, plan.read_bytes())
    shutil.copy(kept / "this.engine.json", build / "engine.json")
    ship(build, tmp_path / "models", TENSORRT)
    assert (tmp_path / "models/tiny/1/model.plan").read_bytes() == plan.read_bytes()


@pytest.mark.parametrize(
    ("batch", "max_batch", "finding"),
    [
        ("1:1:4", 8, r"is 8, and some.plan takes batches 1:1:4; take --max-batch 4"),
        ("4", 4, r"lets single images in, and some.plan takes batches 4:4:4"),
        ("2:4:8", 8, r"lets single images in"),
    ],
)
def test_the_largest_batch_fits_the_engines_profile(
    batch: str, max_batch: int, finding: str, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(target="tensorrt")
    plan = write_plan(tmp_path / "some.plan", bundle / "model.onnx", batch=batch)
    with pytest.raises(ConfigRefused, match=finding) as refused:
        ship(bundle, tmp_path / "models", replace(TENSORRT, max_batch=max_batch), plans={"": plan})
    assert refused.value.field == "max_batch_size"
    assert not list((tmp_path / "models").iterdir())


def test_a_plan_of_another_model_other_bytes_or_another_gpu_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(target="tensorrt")
    plan = write_plan(tmp_path / "some.plan", make_bundle("other", 1) / "model.onnx")
    with pytest.raises(PlanNotShipped, match=r"some.plan was built of another model.onnx"):
        ship(bundle, tmp_path / "models", TENSORRT, plans={"": plan})
    write_plan(plan, bundle / "model.onnx")
    with pytest.raises(PlanNotShipped, match=r"compute capability 9.0 \(GPU 9.0\) and is given for 8.6"):
        ship(bundle, tmp_path / "models", TENSORRT, plans={"8.6": plan})
    plan.write_bytes(plan.read_bytes() + b"!")
    with pytest.raises(PlanNotShipped, match=r"is not the plan of some.engine.json"):
        ship(bundle, tmp_path / "models", TENSORRT, plans={"": plan})
    assert not (tmp_path / "models").exists()
