"""Runtimes by name, and what ONNX Runtime says about itself."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.cpu import Cpu, describe_cpu, this_cpu

NO_VNNI = Cpu(model="old", x86=True, vnni=False)
WITH_VNNI = Cpu(model="new", x86=True, vnni=True)


def test_runtimes_are_known_by_name() -> None:
    assert runtime_named("onnxruntime").name == "onnxruntime"
    assert runtime_named("onnxruntime-cuda").name == "onnxruntime-cuda"
    assert runtime_named("tensorrt").name == "tensorrt"
    with pytest.raises(ModelError, match="known runtimes: onnxruntime, onnxruntime-cuda, tensorrt"):
        runtime_named("abacus")


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-cuda"])
def test_a_runtime_that_builds_no_engine_refuses_settings_of_its_builder(name: str) -> None:
    said = f"the runtime is {name}, which builds no engines.*or give --runtime tensorrt"
    with pytest.raises(SettingError, match=said):
        runtime_named(name, EngineOptions())


def test_the_table_of_runtimes_imports_none_of_them() -> None:
    code = (
        "import sys; import limpq_deploy.export.runtimes, limpq_deploy.export.lint.check, "
        "limpq_deploy.export.reference.parity, limpq_deploy.export.qdq.build; "
        "print({'onnxruntime', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("flags", "vnni"), [("sse avx2", False), ("avx2 avx512_vnni", True), ("avx2 avx_vnni", True), ("", None)]
)
def test_vnni_is_read_from_the_cpu_flags(flags: str, vnni: bool | None) -> None:
    assert describe_cpu("Some CPU", set(flags.split()), "x86_64") == Cpu(model="Some CPU", x86=True, vnni=vnni)


def test_an_unknown_x86_cpu_may_saturate_and_an_arm_cpu_does_not() -> None:
    assert describe_cpu("", set(), "AMD64").may_saturate
    assert not describe_cpu("", {"asimd"}, "aarch64").may_saturate


ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, largest_weight_code, precision_options  # noqa: E402


def test_full_8_bit_weights_take_the_exact_kernel_only_where_the_default_one_saturates(residual: Any) -> None:
    net, logits = residual(0, weight_bits=(8, 4, 3))
    model = net.qdq(logits)
    assert largest_weight_code(model) == 127
    assert precision_options(model, NO_VNNI) == {"session.x64quantprecision": "1"}
    assert precision_options(model, WITH_VNNI) == {}


def test_weights_of_7_bits_need_no_option(tiny_net: Any) -> None:
    net = tiny_net(0)
    images = net.quantize(net.input, "images", 8, signed=True)
    pooled = net.quantize(net.mean(net.quantize(net.conv(images, "stem", 8, bits=7), "a", 8), "pool"), "b", 8)
    model = net.qdq(net.gemm(net.flatten(pooled, "flat"), "head", 10, bits=7))
    assert largest_weight_code(model) <= 64
    assert precision_options(model, NO_VNNI) == {}


def test_the_kernel_that_is_chosen_here_does_not_saturate() -> None:
    """All weights +-127 and all codes 255: the sums of pairs of products leave 16 bits by far."""
    weight = np.full((8, 32, 3, 3), 127, np.int8)
    weight[1::2] = -127
    model = one_convolution(weight)
    runtime = OnnxRuntime()
    options = precision_options(model, this_cpu())
    session = ort.SessionOptions()
    for name, value in options.items():
        session.add_session_config_entry(name, value)
    assert runtime.unavailable() is None
    found = ort.InferenceSession(model.SerializeToString(), session, providers=["CPUExecutionProvider"]).run(
        None, {"images": np.full((1, 32, 3, 3), 255, np.float32)}
    )[0]
    centre = found[0, :, 1, 1]
    exact = np.rint(127 * 255 * 32 * 9 / 100000) * 100000
    assert centre.tolist() == [exact, -exact] * 4


def one_convolution(weight: Any) -> Any:
    channels = len(weight)
    values = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "codes": weight,
        "scale": np.ones(channels, np.float32),
        "weight_zero": np.zeros(channels, np.int8),
        "bias_codes": np.zeros(channels, np.int32),
        "out_scale": np.array(100000, np.float32),
        "middle": np.array(128, np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "one", "zero"], ["x"], name="x"),
        helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["x_real"], name="x_real"),
        helper.make_node("DequantizeLinear", ["codes", "scale", "weight_zero"], ["w"], name="w", axis=0),
        helper.make_node("DequantizeLinear", ["bias_codes", "scale"], ["b"], name="b", axis=0),
        helper.make_node("Conv", ["x_real", "w", "b"], ["y"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["y", "out_scale", "middle"], ["y_codes"], name="y_codes"),
        helper.make_node("DequantizeLinear", ["y_codes", "out_scale", "middle"], ["out"], name="out"),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", weight.shape[1], 3, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_session_says_under_what_it_runs(residual: Any, saved: Any) -> None:
    net, logits = residual(0)
    session = OnnxRuntime().load(saved(net.qdq(logits)), threads=1)
    assert session.input_shape == (None, 3, 8, 8)
    assert session.run(net.images(3)).shape == (3, 10)
    environment = session.environment()
    assert environment["provider"] == "CPUExecutionProvider"
    assert environment["version"] == ort.__version__
    assert environment["threads"] == 1


def test_an_engine_reports_the_precision_of_each_layer_from_the_optimised_graph(residual: Any, saved: Any) -> None:
    net, logits = residual(0)
    engine = OnnxRuntime(WITH_VNNI).engine(saved(net.qdq(logits)))
    assert engine.layer_precision == dict.fromkeys(
        ("stem", "block1.conv1", "block1.conv2", "block2.conv", "head"), "u8s8"
    )
    assert engine.float_layers == ()
    assert from_json(Engine, to_json(engine), "engine.json") == engine


def test_a_float_engine_says_that_its_layers_are_float(residual: Any, saved: Any) -> None:
    net, logits = residual(0)
    engine = OnnxRuntime().engine(saved(strip_markers(net.template(logits))))
    layers = ("stem", "block1.conv1", "block1.conv2", "block2.conv", "head")
    assert engine.layer_precision == dict.fromkeys(layers, "float32")
    assert engine.float_layers == layers


def test_a_file_that_is_no_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    with pytest.raises(ModelError, match=r"cannot read .*no\.onnx"):
        OnnxRuntime().load(path)
    path.write_bytes(b"this is not a model")
    with pytest.raises(ModelError, match="not an ONNX file"):
        OnnxRuntime().load(path)
