"""The audit of engines that NVIDIA's compiler really built: what was planned against what its own list shows."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")
pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

sys.path.append(str(Path(__file__).resolve().parents[4] / "benchmarks"))

from compiler_files import files, subject_of

from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes.tensorrt.inspect import planned_precision
from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import TensorRtRtx
from limpq_deploy.export.timing.engine_audit import audit
from limpq_deploy.model.zoo import create_model

RUNTIME = TensorRtRtx(EngineOptions(gpus=("sm89",)))


def test_every_integer_convolution_and_gemm_is_seen_as_such(net: tuple[onnx.ModelProto, Path]) -> None:
    found = audit(net[0], RUNTIME.engine(net[1]))
    assert {line.actual for line in found.lines} == {"s8s8"}
    assert (found.unplanned, found.absent, found.precision_unknown) == ((), (), ())
    assert sorted(name for line in found.lines for name in line.layers) == sorted(planned_precision(net[0]))


def test_islands_of_fp16_and_float_models_are_seen_as_such(tmp_path: Path) -> None:
    model, _ = create_model("resnet8")
    for kind, file in files(subject_of("resnet8", model, (1, 16, 16)), "10", ("mixed", "float")):
        path = tmp_path / f"{kind}.onnx"
        onnx.save(file, path)
        engine = RUNTIME.engine(path)
        precisions = set(engine.layer_precision.values())
        if kind == "mixed":
            assert audit(file, engine).unplanned == ()
            assert precisions == {"s8s8", "float16"}
        else:  # written with its types in FP16 when it is built
            assert precisions == {"float16"}


def test_a_layer_of_another_precision_is_told(net: tuple[onnx.ModelProto, Path]) -> None:
    engine = RUNTIME.engine(net[1])
    assert engine.plan is not None
    layers: list[Any] = [
        replace(layer, precision="float32") if layer.kind == "gemm" else layer for layer in engine.plan.layers
    ]
    changed = replace(
        engine,
        plan=replace(engine.plan, layers=tuple(layers)),
        layer_precision={**engine.layer_precision, "head": "float32"},
    )
    assert audit(net[0], changed).unplanned == ("head",)
