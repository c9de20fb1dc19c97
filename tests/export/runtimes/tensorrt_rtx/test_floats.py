"""What NVIDIA's compiler makes of a float model: an engine in FP16, or in FP32 as asked; files with integers stay."""

from pathlib import Path

import onnx
import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")

from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import TensorRtRtx

from ....float_model import float_model

USUAL = EngineOptions(gpus=("sm89",))


def written(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "float.onnx"
    onnx.save(model, path)
    return path


def test_a_float_model_is_an_fp16_engine_whose_layers_keep_their_names(tmp_path: Path) -> None:
    engine = TensorRtRtx(USUAL).engine(written(tmp_path, float_model()))
    assert engine.layer_precision == {"stem": "float16", "head": "float16"}
    assert engine.plan is not None
    assert (engine.plan.typing, engine.plan.settings["floats"]) == ("strong", "float16")
    assert "kept_in_float32" not in engine.plan.settings
    assert set(engine.moved_by_type["batch_8"]) == {"float16", "float32"}  # images and logits


def test_operators_that_stay_in_float32_are_named_in_record_and_log(tmp_path: Path) -> None:
    engine, plan = TensorRtRtx(USUAL).built(written(tmp_path, float_model(epsilon=1e-12)))
    reason = "node_sum (epsilon holds at most 1e-12, which float16 would make 0)"
    assert engine.plan is not None
    assert engine.plan.settings["kept_in_float32"] == engine.options["kept_in_float32"] == reason
    assert f"[INFO] stays in float32: {reason}\n" in plan.with_suffix(".log").read_text()
    assert engine.layer_precision == {"stem": "float16", "head": "float16"}


def test_float32_as_asked_and_files_with_integers_are_built_as_they_are_written(
    net: tuple[onnx.ModelProto, Path], tmp_path: Path
) -> None:
    exact = EngineOptions(gpus=("sm89",), float_type="float32")
    found = TensorRtRtx(exact).engine(written(tmp_path, float_model())), TensorRtRtx(USUAL).engine(net[1])
    assert found[0].layer_precision == {"stem": "float32", "head": "float32"}
    assert set(found[1].layer_precision.values()) == {"s8s8"}
    for engine in found:
        assert engine.plan is not None
        assert "floats" not in engine.plan.settings
