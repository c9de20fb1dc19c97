"""What an engine is built with, and what is refused before it is loaded."""

import hashlib
from dataclasses import replace

import pytest

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.records.engine_record import EngineLayer, Machine, OneBuild, Plan, PlanRefused, require_usable
from limpq_deploy.export.runtimes.base import Engine

HERE = Machine(gpu="NVIDIA H200", compute_capability="9.0", tensorrt="8.6.0", system="Linux x86_64", driver="580.1")
DATA = b"the bytes of a plan"


def a_plan() -> Plan:
    sha = hashlib.sha256(DATA).hexdigest()
    build = OneBuild(seconds=20.0, plan_bytes=len(DATA), plan_sha256=sha, layers=2, ms=0.5)
    return Plan(
        sha256=sha,
        size=len(DATA),
        machine=HERE,
        typing="weak",
        flags=("EXPLICIT_BATCH", "INT8", "FP16"),
        settings={"batch": "1:1:64"},
        builds=(build, replace(build, ms=0.55)),
        chosen=0,
        layers=(
            EngineLayer(name="conv", kind="CaskConvolution", precision="int8", nodes=("conv",)),
            EngineLayer(name="copy", kind="Reformat", precision="int8", reformat=True),
        ),
    )


def test_a_plan_is_used_where_it_was_built_and_with_a_newer_driver() -> None:
    require_usable(a_plan(), DATA, HERE)
    require_usable(a_plan(), DATA, replace(HERE, driver="600.2", cuda="13.1"))


def test_other_bytes_are_never_loaded() -> None:
    with pytest.raises(PlanRefused, match="not those of its record"):
        require_usable(a_plan(), DATA + b"!", HERE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": "NVIDIA L4"}, "built for GPU NVIDIA H200, and this machine has NVIDIA L4; build it again here"),
        ({"compute_capability": "8.9"}, "compute capability 9.0"),
        ({"tensorrt": "10.16.1.11"}, "built for TensorRT 8.6.0"),
        ({"system": "Windows AMD64"}, "system Linux x86_64"),
    ],
)
def test_another_machine_is_refused_by_name(change: dict[str, str], said: str) -> None:
    with pytest.raises(PlanRefused, match=said):
        require_usable(a_plan(), DATA, replace(HERE, **change))  # type: ignore[arg-type]


def test_the_record_of_an_engine_survives_json_and_names_reformats_and_spread() -> None:
    plan = a_plan()
    engine = Engine(
        model_sha256="0" * 64,
        runtime="tensorrt",
        version="8.6.0",
        provider="NVIDIA H200",
        threads=None,
        options={},
        layer_precision={"conv": "s8s8", "head": "float16"},
        plan=plan,
    )
    assert from_json(Engine, to_json(engine), "engine.json") == engine
    assert engine.float_layers == ("head",)
    assert [layer.name for layer in plan.reformats] == ["copy"]
    assert plan.spread == pytest.approx(0.1)


def test_a_record_without_a_plan_is_read_as_before() -> None:
    text = (
        '{"model_sha256": "0", "runtime": "onnxruntime", "version": "1.31.1", "provider": "CPU", "threads": 1, '
        '"options": {}, "layer_precision": {"conv": "u8s8"}, "format": "limpq.engine/1"}'
    )
    assert from_json(Engine, text, "engine.json").plan is None


@pytest.mark.parametrize(("text", "shown"), [("1:8:32", "1:8:32"), ("4", "4:4:4")])
def test_a_batch_range_is_read(text: str, shown: str) -> None:
    assert str(BatchRange.parse(text)) == shown


@pytest.mark.parametrize("text", ["8:1:32", "0:1:2", "1:2", "1:2:3:4", "a", "", "-1", "1:2:99999999"])
def test_a_batch_range_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="expected MIN:OPT:MAX"):
        BatchRange.parse(text)


@pytest.mark.parametrize("change", [{"level": 6}, {"builds": 0}, {"workspace_mib": 0}])
def test_settings_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="expected"):
        EngineOptions(**change)  # type: ignore[arg-type]
