"""The integer reference against ONNX Runtime's optimised graph, and the faults that this comparison has to find."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.export.reference.parity import (
    ParityReport,
    TensorParity,
    compare_codes,
    compare_runtime,
    in_order,
    merged,
)
from limpq_deploy.export.runtimes.cpu import Cpu

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime

BITS = st.integers(2, 8)
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def batches(net: Any, count: int = 8) -> list[Any]:
    return [net.images(count), net.images(count, saturating=True)]


@FEW
@given(
    seed=st.integers(0, 1000),
    weight_bits=st.tuples(BITS, BITS, BITS),
    act_bits=st.tuples(BITS, BITS, BITS),
    signed_stream=st.booleans(),
)
def test_whole_networks_run_in_integers_and_equal_the_reference_bit_by_bit(
    residual: Any, saved: Any, seed: int, weight_bits: Any, act_bits: Any, signed_stream: bool
) -> None:
    net, logits = residual(seed, weight_bits=weight_bits, act_bits=act_bits, signed_stream=signed_stream)
    path = saved(net.qdq(logits))
    report = compare_runtime(path, batches(net), OnnxRuntime(), threads=1)
    assert report.exact
    assert report.mismatches == 0
    assert report.logits_equal
    assert not report.unwatched
    assert report.images == 16
    look = lint(path, ONNXRUNTIME)
    assert look.passed
    assert look.float_compute == look.float_nodes == ()


@pytest.mark.parametrize(("groups", "dilation", "kernel"), [(8, 1, 3), (4, 1, 3), (1, 2, 3), (1, 1, 1), (1, 1, 5)])
def test_grouped_depthwise_and_dilated_convolutions_are_exact(
    tiny_net: Any, saved: Any, groups: int, dilation: int, kernel: int
) -> None:
    net = tiny_net(3)
    images = net.quantize(net.input, "images", 8, signed=True)
    stem = net.quantize(net.conv(images, "stem", 8), "stem.out", 6)
    inner = net.conv(stem, "inner", 16, bits=5, groups=groups, dilation=dilation, kernel=kernel, stride=2)
    pooled = net.quantize(net.mean(net.quantize(inner, "inner.out", 8), "pool"), "pool.out", 8)
    report = compare_runtime(
        saved(net.qdq(net.gemm(net.flatten(pooled, "flat"), "head", 10))), batches(net), OnnxRuntime(), threads=1
    )
    assert report.exact


def test_a_gemm_between_layers_is_exact(tiny_net: Any, saved: Any) -> None:
    net = tiny_net(4)
    images = net.quantize(net.input, "images", 8, signed=True)
    pooled = net.quantize(net.mean(net.quantize(net.conv(images, "stem", 8), "stem.out", 8), "pool"), "pool.out", 8)
    hidden = net.gemm(net.flatten(pooled, "flat"), "hidden", 16, bits=4)
    hidden.name = net.node("Relu", [hidden.name], "hidden_relu")
    path = saved(net.qdq(net.gemm(net.quantize(hidden, "hidden.out", 4), "head", 10)))
    report = compare_runtime(path, batches(net), OnnxRuntime(), threads=1)
    assert report.exact
    assert lint(path, ONNXRUNTIME).passed


def test_the_exact_weight_kernel_of_cpus_without_vnni_is_chosen_and_equals_the_reference(
    residual: Any, saved: Any
) -> None:
    net, logits = residual(5, weight_bits=(8, 8, 8))
    path = saved(net.qdq(logits))
    runtime = OnnxRuntime(Cpu(model="a CPU without VNNI", x86=True, vnni=False))
    report = compare_runtime(path, batches(net), runtime, threads=1)
    assert report.environment["options"] == {"session.x64quantprecision": "1"}
    assert set(runtime.engine(path).layer_precision.values()) == {"u8u8"}
    assert report.exact


def test_watching_changes_neither_the_operators_nor_the_logits(residual: Any, saved: Any) -> None:
    net, logits = residual(6)
    path = saved(net.qdq(logits))
    runtime = OnnxRuntime()
    watched = runtime.watch(path, threads=1)
    assert operators(watched.executed) == operators(runtime.optimized_graph(path))
    images = net.images(8)
    seen, codes = watched.run(images)
    np.testing.assert_array_equal(seen, runtime.load(path, threads=1).run(images))
    kernels = [node for node in watched.executed.graph.node if node.op_type.startswith("QLinear")]
    assert len(kernels) >= 9
    outputs = {output.name for output in watched.executed.graph.output}
    assert all(node.output[0] in outputs for node in kernels)
    assert all(len(np.unique(values)) > 2 for values in codes.values())


def operators(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return sorted((node.domain, node.op_type) for node in model.graph.node)


FAULTS = {
    "one channel's weight scale": ("block1.conv1.weight_scale", lambda value: changed(value, 3, value[3] * 1.01)),
    "an activation scale": ("block1.mid_scale", lambda value: value * np.float32(1.01)),
    "one weight code": ("block1.conv2.weight_codes", lambda value: changed(value, 7, value.reshape(-1)[7] - 1)),
    "one bias code": ("block2.conv.bias_codes", lambda value: changed(value, 5, value[5] + 1)),
    "an upper clip": ("block1.in_qmax", lambda value: value - np.uint8(1)),
    "a lower clip": ("block2.in_qmin", lambda value: value + np.uint8(1)),
    "a zero-point": ("block2.branch_zero_point", lambda value: value + np.uint8(1)),
    "one weight code of the head": ("head.weight_codes", lambda value: changed(value, 11, value.reshape(-1)[11] - 1)),
    "one bias code of the head": ("head.bias_codes", lambda value: changed(value, 2, value[2] + 1)),
}


def changed(value: Any, index: int, entry: Any) -> Any:
    result = value.copy()
    result.reshape(-1)[index] = entry
    return result


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_finds_a_fault_in_one_of_the_two(residual: Any, saved: Any, fault: str) -> None:
    net, logits = residual(8, weight_bits=(7, 4, 3))
    model = net.qdq(logits)
    sound = saved(model)
    name, change = FAULTS[fault]
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    before = numpy_helper.to_array(tensor)
    after = change(before)
    assert np.sum(before != after) == 1
    tensor.CopyFrom(numpy_helper.from_array(after, name))
    images = [net.images(64)]
    assert compare_runtime(sound, images, OnnxRuntime(), threads=1).exact
    report = compare_runtime(saved(model), images, OnnxRuntime(), reference_path=sound, threads=1)
    assert not report.exact
    assert report.mismatches > 0 or not report.logits_equal
    if "head" not in fault:
        assert report.mismatches > 0
        assert report.max_lsb >= 1


def test_codes_are_compared_one_by_one() -> None:
    first = np.array([[0, 255, 7], [3, 3, 3]], np.uint8)
    second = np.array([[2, 250, 7], [3, 3, 3]], np.uint8)
    assert compare_codes("x", first, second) == TensorParity(tensor="x", elements=6, mismatches=2, max_lsb=5)
    with pytest.raises(ValueError, match="shapes"):
        compare_codes("x", first, second[:1])


def test_batches_add_up_per_tensor() -> None:
    parts = [
        TensorParity(tensor="a", elements=4, mismatches=1, max_lsb=2, max_tie_distance=0.1),
        TensorParity(tensor="b", elements=1, mismatches=0, max_lsb=0),
        TensorParity(tensor="a", elements=4, mismatches=2, max_lsb=1, max_tie_distance=0.3),
    ]
    total = TensorParity(tensor="a", elements=8, mismatches=3, max_lsb=2, max_tie_distance=0.3)
    assert merged(parts) == (total, parts[1])


def test_logits_that_differ_in_one_batch_differ(residual: Any, saved: Any) -> None:
    """Weight codes of the first layer are wrong, and the images of the second batch are zeros."""
    net, logits = residual(8, weight_bits=(7, 4, 3))
    model = net.qdq(logits)
    sound = saved(model)
    tensor = next(entry for entry in model.graph.initializer if entry.name == "stem.weight_codes")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) // 2, tensor.name))
    wrong, images = saved(model), net.images(8)

    def equal(*batches: np.ndarray) -> bool:
        return compare_runtime(wrong, batches, OnnxRuntime(), reference_path=sound, threads=1).logits_equal

    assert not equal(images)
    assert equal(np.zeros_like(images))
    assert not equal(images, np.zeros_like(images))


def test_a_runtime_that_shows_no_codes_proves_nothing() -> None:
    silent = ParityReport(
        model_sha256="", images=8, environment={}, tensors=(), unwatched={"x": "fused away"}, logits_equal=True,
        logits_max_difference=0.0,
    )  # fmt: skip
    seen = replace(silent, tensors=(TensorParity(tensor="y", elements=1, mismatches=0, max_lsb=0),))
    assert not silent.exact
    assert seen.exact
    assert not replace(seen, logits_equal=False).exact


def test_nothing_compared_is_not_exact(residual: Any, saved: Any) -> None:
    net, logits = residual(9)
    report = compare_runtime(saved(net.qdq(logits)), [], OnnxRuntime(), threads=1)
    assert report.images == 0
    assert not report.exact


def test_a_report_survives_json(residual: Any, saved: Any, tmp_path: Path) -> None:
    net, logits = residual(10)
    report = compare_runtime(saved(net.qdq(logits)), [net.images(2)], OnnxRuntime(), threads=1)
    assert from_json(ParityReport, to_json(report), "parity.json") == report


def test_codes_in_another_order_of_axes_are_found_once_and_a_wrong_one_stays_wrong() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 4)).astype(np.uint8)
    turned = codes.transpose(0, 2, 3, 1).copy()
    turned[0, 0, 0, 0] ^= 1
    found, order = in_order(codes, turned, None)
    assert order == (0, 3, 1, 2)
    assert int((found != codes).sum()) == 1
    assert in_order(codes, codes, order)[0].shape != codes.shape
    assert in_order(codes, codes, None)[1] == (0, 1, 2, 3)
